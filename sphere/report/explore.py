"""A page on which a person picks model, dataset, metric and methods and sees the curve: one file, offline.

The plotting library is Bokeh's (BSD), written into the page; what the page does with it is explore.html.
"""

from __future__ import annotations

import base64
import gzip
import json
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd

from sphere.files import write_atomically
from sphere.report.style import look
from sphere.report.tables.intervals import NO_INTERVAL, from_stderr, over_seeds
from sphere.report.tables.layout import dataset_label, family_label, method_label, ordered_methods

TEMPLATE = Path(__file__).with_suffix(".html")
CURVE = ["model", "dataset", "family", "metric", "method", "edits"]


def write_explorer(results: Path, out: Path) -> None:
    """Write the page of ``results`` (results.parquet)."""
    page = TEMPLATE.read_text(encoding="utf-8")
    data = json.dumps(_content(pd.read_parquet(results)), ensure_ascii=False, allow_nan=False)
    page = page.replace("{{ data }}", data.replace("<", "\\u003c"), 1).replace("{{ library }}", _library(), 1)
    with write_atomically(out) as path:
        path.write_text(page, encoding="utf-8")


def _library() -> str:
    """Bokeh's JavaScript, packed."""
    import bokeh

    folder = Path(bokeh.__file__).parent / "server" / "static" / "js"
    code = b"\n".join((folder / name).read_bytes() for name in ("bokeh.min.js", "bokeh-api.min.js"))
    return base64.b64encode(gzip.compress(code, mtime=0)).decode()


def _content(results: pd.DataFrame) -> dict[str, Any]:
    """What the page shows: points, each a mean over seeds with its 95 % interval, and how things are called."""
    points = []
    for key, own in results.groupby(CURVE, sort=False):
        found: dict[str, Any] = dict(zip(CURVE, key, strict=True))
        interval = over_seeds(own["value"])
        if interval.kind == NO_INTERVAL:
            interval = from_stderr(interval.mean, float(own["stderr"].iloc[0]), interval.n)
        half = interval.half_width
        if isfinite(interval.mean):
            found |= {"value": interval.mean, "half": half if isfinite(half) else None, "seeds": len(own)}
            points.append(found)
    methods = ordered_methods(results["method"])
    return {
        "study": str(results["study"].iloc[0]),
        "points": points,
        "methods": [{"name": name, "label": method_label(name), "colour": look(name).colour} for name in methods],
        "datasets": {name: dataset_label(name) for name in results["dataset"].unique()},
        "families": {name: family_label(name) for name in results["family"].unique()},
    }
