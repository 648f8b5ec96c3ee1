"""What results rest on, told from the provenance beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sphere.files import digest
from sphere.study.manifest import COLUMNS, write_manifest
from sphere.study.provenance import lineage, record

STUDY = {"study": {"name": "tiny", "description": "A study."}, "models": {"m": {"layers": [0, 1]}}}


def make(path: Path, rule: str, inputs: list[Path], sources: list[Path], **job: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rule)
    what = {"rule": rule, "wildcards": {"model": "m"}, **job}
    record(path, job=what, settings={}, ancestors=lineage(inputs, sources=sources))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A table made from a state, made from a model, made from a file of one's own; no time is known of the model."""
    own = tmp_path / "elsewhere" / "own.json"
    own.parent.mkdir()
    own.write_text("mine")
    cpu = {"cpu_seconds": 100.0, "start_up_cpu_seconds": 8.0}
    machine = {"processor": "P|1", "cores": 2}
    model = make(tmp_path / "study" / "m" / "model.txt", "train_model", [], [own])
    state = make(tmp_path / "study/m/d/edits8/state", "edit", [model], [], seconds=75.0, machine=machine, **cpu)
    return make(tmp_path / "study" / "tables" / "t.csv", "tables", [state], [], seconds=0.5, machine=machine)


def test_every_file_near_and_far_is_listed_with_its_digest(results: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_manifest([results], STUDY, artefacts=study / "artefacts.csv", page=study / "provenance.md")
    found = pd.read_csv(study / "artefacts.csv")
    assert list(found) == list(COLUMNS)
    assert found["path"].tolist() == ["../elsewhere/own.json", "m/d/edits8/state", "m/model.txt", "tables/t.csv"]
    assert found["sha256"].tolist() == [digest(study / path) for path in found["path"]]
    assert found["rule"].isna().tolist() == [True, False, False, False]


def test_the_page_sums_up_versions_machines_and_times(results: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_manifest([results], STUDY, artefacts=study / "artefacts.csv", page=study / "provenance.md")
    page = (study / "provenance.md").read_text()
    assert "All 3 artefacts agree." in page
    assert r"| processor P\|1, cores 2 | 2 |" in page
    assert "| edit | 1 | 1 min 15 s | 1 min 15 s | 1 min 40 s | 8.0 s |" in page
    assert "| train_model | 1 | not recorded | not recorded | not recorded | not recorded |" in page
    assert "| all | 3 | 1 min 16 s | 1 min 15 s | 1 min 40 s | 8.0 s |" in page
    assert "Jobs without a time: 1." in page
    assert "took 8 % of the CPU time of 1 jobs." in page
    assert "m/model.txt" in page
    assert "edits8" not in page, "what streams make is in the CSV"
    assert "layers:\n    - 0\n    - 1" in page
