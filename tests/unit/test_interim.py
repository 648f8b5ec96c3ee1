"""`sphere interim`: tables, figures and claims of a study that is not whole yet."""

from __future__ import annotations

import shutil
from pathlib import Path

import made_up_study
import pandas as pd
import pytest

from sphere import cli
from sphere.config.names import UNFINISHED
from sphere.report.verdicts import NOT_TESTED
from sphere.study.configuration import load_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of the study smoke: everything but SPHERE's last checkpoint on zsRE, which a job had measured in part."""
    study = load_study("smoke", root=ROOT / "config")
    scope = study.study.scope(study.models) | {"batch_size": study.study.batch_size}
    root = made_up_study.make_results(tmp_path / "results" / "smoke", scope)
    last = root / "smoke" / "zsre" / "sphere" / "seed0" / "edits8"
    left = last.parent / UNFINISHED / "measure" / last.name
    left.mkdir(parents=True)
    for file in last.iterdir():
        if file.name in ("editing.csv", "energy.csv"):
            file.rename(left / file.name)
    shutil.rmtree(last)
    return root.parent


def interim(results: Path, out: Path) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["interim", str(ROOT / "config/studies/smoke.yaml"), "--results", str(results), "--out", str(out)])
    return caught.value.code


def test_what_a_cut_off_job_had_measured_is_in_the_tables(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert interim(results, out) == 0
    rows = pd.read_csv(out / "tables" / "editing_by_method.csv").query("dataset == 'zsre' and method == 'sphere'")
    assert set(rows["edits"]) == {4, 8}
    missing = set(pd.read_csv(out / "tables" / "missing.csv")["path"])
    gone = {f"smoke/zsre/sphere/seed0/edits8/{file}" for file in ("timing.csv", "cost.csv", "neutral.csv")}
    assert missing == gone | {"smoke/zsre/sphere/seed0/edits8/general_ability.csv"}
    ability = pd.read_csv(out / "tables" / "general_ability_by_method.csv").query("dataset == 'zsre'")
    assert set(ability.query("method == 'sphere'")["edits"]) == {4}
    assert set(ability.query("method == 'memit'")["edits"]) == {4, 8}
    assert (out / "figures" / "editing_curves.svg").exists()
    claims = pd.read_csv(out / "claims" / "claims.csv").set_index("id")
    assert len(claims) == 10
    assert claims["verdict"]["C5"] == NOT_TESTED
    assert claims["reason"]["C5"].startswith("not all of it is measured yet (missing files: 1); so far: ")
    assert not claims["reason"]["C4"].startswith("not all"), "editing metrics are whole"


def test_nothing_measured_is_said_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert interim(tmp_path / "results", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sphere: no result of this study under {tmp_path / 'results' / 'smoke'}: run its edits")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_written_over(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert interim(results, results) == 2
    assert capsys.readouterr().err == f"sphere: --out {results} exists already: name a new folder\n"
