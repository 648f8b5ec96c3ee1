"""A method of somebody else's package, built, installed and run in the smoke study as docs/adding-a-method.md says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from sphere.files import read_json

from .conftest import ROOT, Workplace

PAGE = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page's package is installed in, which is on nobody's path."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    (source / "pyproject.toml").write_text(blocks("toml")[0], encoding="utf-8")
    (source / "sphere_ridge").mkdir()
    for code in blocks("python"):
        named = re.match(r"# \S*?(\w+\.py)\n", code)
        if named:
            (source / "sphere_ridge" / named[1]).write_text(code, encoding="utf-8")
    quiet = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), str(source)], check=True)
    return target


def test_its_method_runs_in_the_smoke_study(installed: Path, copied: Callable[[], Workplace]) -> None:
    place = copied()
    place.change("studies/smoke.yaml", "methods: [memit, sphere]", "methods: [memit, sphere, ridge-limit]")
    place.change("models/smoke.yaml", "  memit: {second", "  ridge-limit: {penalty: [5, 50]}\n  memit: {second")
    place.change("models/smoke.yaml", "methods:\n", "methods:\n  ridge-limit: {largest_ratio: 0.3}\n")
    refused = place.snakemake("--dry-run")
    assert refused.status == 1
    assert refused.output.splitlines()[-1].startswith("error: ")
    assert "unknown method 'ridge-limit'" in refused.output

    run = place.snakemake(environment={"PYTHONPATH": str(installed)})
    assert run.status == 0, run.output[-4000:]
    assert run.jobs["edit"] == 2, "the streams of the other methods are there"
    stream = place.study / "smoke" / "counterfact" / "ridge-limit" / "seed0" / "edits8"
    with safe_open(stream / "state.safetensors", "pt") as state:
        assert {name.split(".")[0] for name in state.keys()} == {"weights"}  # noqa: SIM118
    note = read_json(stream / "provenance" / "state.safetensors.json")
    assert note["libraries"]["sphere-ridge"] == "1.0"
    assert note["settings"]["packages"] == ["sphere-ridge 1.0"]
    table = pd.read_csv(place.study / "tables" / "editing_by_method.csv")
    assert "ridge-limit" in set(table["method"])
    assert "ridge-limit" in (place.study / "tables" / "editing_accuracy.md").read_text(encoding="utf-8").lower()
    page = (place.study / "provenance.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| smoke | ridge-limit |")]
    assert "ridge + limit" in row
    assert "penalty=0.5, scope=batch, largest_ratio=0.3" in row
    assert "sphere-ridge 1.0" in row
