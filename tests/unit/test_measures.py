"""Tables of what is measured beside the paper's own metrics, on made-up results whose numbers are known."""

from __future__ import annotations

from pathlib import Path

import made_up_study
import pandas as pd
import pytest

from sphere.report.tables import build, gather, load
from sphere.report.tables.intervals import over_seeds

LAST = 100


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = made_up_study.make_results(tmp_path_factory.mktemp("study"), made_up_study.study())
    gather(root, made_up_study.study(), root / "tables")
    return root / "tables"


def records(gathered: Path, method: str, edits: int = LAST, dataset: str = "counterfact") -> list[pd.DataFrame]:
    """editing.csv of every seed."""
    folder = gathered.parent / "tiny" / dataset / method
    return [pd.read_csv(folder / f"seed{seed}" / f"edits{edits}" / "editing.csv") for seed in (0, 1, 2)]


def test_strict_stands_beside_the_accuracy_of_the_same_records(gathered: Path) -> None:
    table = build("strict", gathered)
    assert {row.section for row in table.rows} == {"tiny, CounterFact, bare prompt"}  # zsRE was not asked here
    row = next(row for row in table.rows if row.label == "SPHERE")
    own = [frame[frame["strict_efficacy"].notna()] for frame in records(gathered, "sphere")]
    assert all(len(frame) == LAST / 2 for frame in own)
    forced = sum(frame["accuracy_efficacy"].mean() for frame in own) / 3
    strict = sum(frame["strict_efficacy"].mean() for frame in own) / 3
    assert 0 < strict < forced
    cells = {key: row.cells[f"efficacy_{key}"] for key in ("forced", "strict", "gap")}
    assert cells["forced"].value == pytest.approx(100 * forced)
    assert cells["strict"].value == pytest.approx(100 * strict)
    assert cells["gap"].value == pytest.approx(100 * (forced - strict))
    gaps = [100 * (frame["accuracy_efficacy"] - frame["strict_efficacy"]).mean() for frame in own]
    assert cells["gap"].half_width == pytest.approx(over_seeds(gaps).half_width)
    assert "t over 3 seeds" in table.notes[-1]


def test_belief_changes_from_that_of_the_unedited_model(gathered: Path) -> None:
    rows = {row.label: row for row in build("belief", gathered).rows}
    before = rows["Pre-edited"].cells
    assert before["efficacy_odds"].value == pytest.approx(10 * 0.01 - 3)
    assert "efficacy_change" not in before
    for label, method in (("MEMIT", "memit"), ("SPHERE", "sphere")):
        own = records(gathered, method)
        odds = sum(frame["belief_efficacy"].mean() for frame in own) / 3
        assert rows[label].cells["efficacy_odds"].value == pytest.approx(odds)
        assert rows[label].cells["efficacy_change"].value == pytest.approx(odds - (10 * 0.01 - 3))
        success = sum(frame["success_efficacy"].mean() for frame in own) / 3
        assert rows[label].cells["efficacy_success"].value == pytest.approx(100 * success)
    assert not any("zsRE" in row.section for row in build("belief", gathered).rows)


@pytest.mark.parametrize("name", ["strict", "belief"])
def test_what_was_not_measured_says_so(name: str, gathered: Path, tmp_path: Path) -> None:
    for path in gathered.glob("*.csv"):
        frame = load(gathered, path.stem)
        if "metric_family" in frame:
            frame = frame[~frame["metric_family"].str.startswith(("strict", "belief"))]
        frame.to_csv(tmp_path / path.name, index=False)
    table = build(name, tmp_path)
    assert not table.rows
    assert len(table.notes) == 1
