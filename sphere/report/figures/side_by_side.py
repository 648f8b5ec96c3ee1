"""Efficacy against edits: ours, the paper's and an independent reference's, each in panels of its own model."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, nan
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from sphere.report.figures.panels import ACROSS, band, in_rows
from sphere.report.published import read_published
from sphere.report.style import PAGE, drawing, grid, legend_above, log_limits, look, say_nothing_to_draw, thousands
from sphere.report.tables.editing import PAPER_PREFIX
from sphere.report.tables.intervals import from_stderr
from sphere.report.tables.layout import (
    METHOD_LABELS,
    dataset_label,
    family_label,
    family_of,
    is_anchor,
    method_label,
    ordered_methods,
)

PAPER_EDITS = 15_000
"""Edits that the paper's Table 1 is after."""
COLUMNS = ["dataset", "family", "whose", "method", "edits", "efficacy", "efficacy_low", "efficacy_high"]
_NAMES = {method_label(name): name for name in METHOD_LABELS}


def side_by_side(by_method: pd.DataFrame, published: Path | None, stem: Path) -> None:
    """One row of panels a dataset and family of metrics, one panel a source and model; edits on a log axis.

    ``by_method`` is editing_by_method. Published numbers are of the datasets that the study has; two families never
    share a row.
    """
    ours = _ours(by_method)
    if published is None or ours.empty:
        return say_nothing_to_draw(stem, "no editing metric" if ours.empty else "no published numbers are given")
    theirs = pd.DataFrame([*_independent(published), *_paper(published)], columns=COLUMNS)
    whole = pd.concat([ours, theirs[theirs["dataset"].isin(ours["dataset"])]], ignore_index=True)
    whole = whole[np.isfinite(whole["efficacy"])]
    rows = [
        (key, own, names)
        for key, own in whole.groupby(["dataset", "family"], sort=False)
        for names in in_rows(list(own["whose"].unique()), ACROSS)
    ]
    columns = max(2, *(len(names) for _, _, names in rows))
    with drawing(stem, width=PAGE, height=0.3 + 1.95 * len(rows)) as figure:
        axes = grid(figure, len(rows), columns, sharey=True)
        for line, ((dataset, family), own, names) in zip(axes, rows, strict=True):
            for axis, name in zip(line, names, strict=False):
                panel = own[own["whose"] == name]
                for method in ordered_methods(panel["method"]):
                    band(axis, panel[panel["method"] == method], "efficacy", look(method))
                axis.set_title(name, loc="left", linespacing=1.2)
                axis.set_xscale("log")
                axis.set_xlim(log_limits(whole["edits"]))
                axis.xaxis.set_minor_locator(NullLocator())
                thousands(axis)
            for axis in line[len(names) :]:
                axis.set_visible(False)
            line[0].set_ylim(-4, 104)
            line[0].set_ylabel(f"{dataset_label(dataset)}\nefficacy ({family_label(family)}, %)")
        figure.supxlabel("Edits made", fontsize=7)
        legend_above(figure, list(axes.flat))


def _ours(by_method: pd.DataFrame) -> pd.DataFrame:
    """Efficacy of the study in each dataset's own family, in percent, without the models that nobody edited."""
    wanted = [family_of(dataset) for dataset in by_method["dataset"]]
    kept = by_method[(by_method["metric"] == "efficacy") & (by_method["metric_family"] == wanted)]
    kept = kept[~kept["method"].map(is_anchor).astype(bool)]
    scores = 100 * kept[["mean", "ci_low", "ci_high"]].set_axis(COLUMNS[-3:], axis=1)
    scores[COLUMNS[-2:]] = scores[COLUMNS[-2:]].clip(0, 100)
    return kept.assign(family=kept["metric_family"], whose="ours\n" + kept["model"]).join(scores)[COLUMNS]


def _independent(published: Path) -> Iterator[tuple[object, ...]]:
    for row in read_published(published, "independent").to_dict("records"):
        whose = f"independent\n{row['model']}"
        yield row["dataset"], row["family"], whose, row["method"], row["edits"], row["efficacy"], nan, nan


def _paper(published: Path) -> Iterator[tuple[object, ...]]:
    """Table 1's efficacy; its ± is one standard error, the interval here is 95 %."""
    for row in read_published(published, "table1_main").to_dict("records"):
        for dataset, prefix in PAPER_PREFIX.items():
            value = row[f"{prefix}_eff"]
            method = _NAMES.get(row["method"], row["method"])
            if isfinite(value) and not is_anchor(method):
                reach = from_stderr(value, row[f"{prefix}_eff_pm"])
                whose = f"the paper\n{row['model']}"
                family = row[f"{prefix}_family"]
                yield dataset, family, whose, method, PAPER_EDITS, value, reach.low, reach.high
