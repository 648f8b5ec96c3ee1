"""The three lines at the end of a run."""

from __future__ import annotations

import re
from pathlib import Path

import made_up_study
import pandas as pd

from sphere.report.headlines import headlines
from sphere.report.tables import gather


def test_the_lines_name_the_report_the_two_methods_and_the_verdicts(tmp_path: Path) -> None:
    scope = made_up_study.study(methods=["memit", "alphaedit", "memit+sphere", "sphere"], seeds=[0, 1])
    made_up_study.make_results(tmp_path, scope)
    gather(tmp_path, scope, tmp_path / "tables")
    (tmp_path / "report.html").touch()
    (tmp_path / "claims").mkdir()
    verdicts = pd.DataFrame({"verdict": ["reproduced", "not reproduced", "reproduced"]})
    verdicts.to_csv(tmp_path / "claims" / "claims.csv", index=False)
    where, numbers, claims = headlines(tmp_path)
    assert where == f"results: {tmp_path / 'report.html'}"
    assert "tiny, 100 CounterFact edits (accuracy, %): SPHERE 88.0 / 65.0 / 83.0, AlphaEdit " in numbers
    assert "tiny, 100 zsRE edits (token accuracy, %)" in numbers
    assert "MEMIT" not in numbers
    assert claims.startswith("claims: 2 reproduced; 1 not reproduced (")


def test_metrics_that_a_dataset_does_not_have_are_dashes(tmp_path: Path) -> None:
    scope = made_up_study.study(datasets=["counterfact"], methods=["alphaedit", "sphere"])
    made_up_study.make_results(tmp_path, scope)
    for path in tmp_path.rglob("editing.csv"):
        records = pd.read_csv(path)
        lacking = [column for column in records if column.endswith(("generalization", "specificity"))]
        records.assign(**dict.fromkeys(lacking, "")).to_csv(path, index=False)
    gather(tmp_path, scope, tmp_path / "tables")
    _, numbers = headlines(tmp_path)
    assert re.search(r": SPHERE \d+\.\d / – / –, AlphaEdit \d+\.\d / – / –$", numbers)


def test_what_was_not_made_is_left_out(tmp_path: Path) -> None:
    assert headlines(tmp_path) == [f"results: {tmp_path}"]
