"""Tables of what is measured beside the paper's own metrics, on made-up results whose numbers are known."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import made_up_study
import numpy as np
import pandas as pd
import pytest

from sphere.data.records import PORTABILITY
from sphere.report.figures import FIGURES
from sphere.report.tables import build, gather, load
from sphere.report.tables.cost import cost_by_stream
from sphere.report.tables.intervals import OVER_RECORDS, over_seeds
from sphere.report.tables.layout import PORTABILITY_KINDS
from sphere.report.tables.portability import portability_table
from sphere.report.tables.retention import cohort_size, retention_curve, retention_rows, retention_table

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


@pytest.mark.parametrize("name", ["strict", "belief", "portability"])
def test_what_was_not_measured_says_so(name: str, gathered: Path, tmp_path: Path) -> None:
    for path in gathered.glob("*.csv"):
        frame = load(gathered, path.stem)
        if "metric_family" in frame:
            frame = frame[~frame["metric_family"].str.startswith(("strict", "belief", "portability"))]
        frame.to_csv(tmp_path / path.name, index=False)
    table = build(name, tmp_path)
    assert not table.rows
    assert len(table.notes) == 1


# ----------------------------------------------------------------------------------------------------- retention


def stream_of(history: dict[int, list[float]]) -> dict[int, pd.DataFrame]:
    """editing.csv at every checkpoint, from the scores of all edits made so far."""
    return {
        edits: pd.DataFrame({"case_id": [100 + i for i in range(len(scores))], "accuracy_efficacy": scores})
        for edits, scores in history.items()
    }


NAMES = {"model": "tiny", "dataset": "counterfact", "method": "memit", "seed": 0, "edits": 10}


def test_an_edit_is_held_against_its_own_first_checkpoint() -> None:
    history = stream_of({4: [1, 1, 1, 0], 10: [0, 1, 0, 0, 1, 1, 1, 1, 0, 1]})
    rows = retention_rows(history, NAMES)
    assert cohort_size(10) == 2
    assert rows["cohort"].tolist() == [0, 2, 4, 6, 8]
    assert rows["first"].tolist() == [1, 0.5, 1, 1, 0.5]  # those edited after the 4th were first seen at the 10th
    assert rows["last"].tolist() == [0.5, 0, 1, 1, 0.5]
    assert rows["n"].tolist() == [2] * 5
    table = retention_table(rows)
    cells = table.rows[0].cells
    assert [cells[key].value for key in ("first_then", "first_now", "last_now", "area")] == [100, 50, 50, 60]
    curve = retention_curve(rows)
    assert curve["edits"].tolist() == [2, 4, 6, 8, 10]
    assert set(curve["ci_kind"]) == {OVER_RECORDS}, "of one seed: over its records"
    assert curve["ci_high"][0] - 0.5 == pytest.approx(1.96 * np.std([0, 1], ddof=1) / np.sqrt(2), rel=1e-3)


def test_first_and_last_are_of_records_evaluated_at_both_and_now_of_all_at_the_end() -> None:
    history = stream_of({4: [1, 1, 1, 0], 8: [0, 1, 0, 0, 1, 1, 1, 1]})
    history[4] = history[4].iloc[[1, 3]]  # evaluate_records took two of four there, and four of eight here
    history[8] = history[8].iloc[::2]
    rows = retention_rows(history, {**NAMES, "edits": 8})
    assert rows["n"].tolist() == [0, 0, 1, 1]  # records 0 and 2 were evaluated at the end alone
    assert rows["first"].isna().tolist() == [True, True, False, False]
    assert rows["now"].tolist() == [0, 0, 1, 1]
    assert rows["n_now"].tolist() == [1, 1, 1, 1]
    assert retention_rows({4: history[4], 8: history[8].iloc[:0]}, NAMES).empty  # the stream stopped


def test_cohorts_are_of_a_hundred_edits_in_a_long_stream() -> None:
    assert [cohort_size(edits) for edits in (1, 8, 100, 499, 500, 15_000)] == [1, 2, 20, 100, 100, 100]


def test_retention_is_gathered_and_drawn_over_seeds(gathered: Path) -> None:
    rows = load(gathered, "retention_summary")
    assert set(rows["dataset"]) == {"counterfact", "zsre"}
    own = rows.query("dataset == 'zsre' and method == 'memit' and metric == 'efficacy' and seed == 1")
    assert own["cohort"].tolist() == [0, 20, 40, 60, 80]
    assert set(own["metric_family"]) == {"token_accuracy"}
    table = build("retention", gathered)
    assert any("zsRE (token accuracy), efficacy, cohorts of 20" in row.section for row in table.rows)
    assert "t over 3 seeds" in table.notes[-1]


# ------------------------------------------------------------------------------------------------- neutral text


def test_neutral_text_is_over_seeds_and_changes_from_the_unedited_model(gathered: Path) -> None:
    rows = {row.label: row for row in build("neutral", gathered).rows if "CounterFact" in row.section}
    assert rows["Pre-edited"].cells["bits_per_byte"].value == 1
    assert not rows["Pre-edited"].ranked
    assert {"change", "kl"}.isdisjoint(rows["Pre-edited"].cells)
    summary = load(gathered, "neutral_summary").query(
        f"dataset == 'counterfact' and method == 'memit' and edits == {LAST}"
    )
    seeds = over_seeds(summary.loc[summary["metric"] == "kl", "value"])
    cells = rows["MEMIT"].cells
    assert (cells["kl"].value, cells["kl"].half_width) == pytest.approx((seeds.mean, seeds.half_width))
    assert cells["change"].value == pytest.approx(cells["bits_per_byte"].value - 1)
    assert cells["top1"].value == pytest.approx(100 * (1 - 2 * seeds.mean))


def test_one_seed_has_the_interval_over_passages(tmp_path: Path) -> None:
    scope = made_up_study.study(seeds=[4])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    found = load(tmp_path / "tables", "neutral_by_method").query("metric == 'kl'")
    assert set(found["ci_kind"]) == {"normal over items"}
    assert found["ci_high"].sub(found["ci_low"]).tolist() == pytest.approx([2 * 1.959964 * 0.01] * len(found))


def test_a_study_without_neutral_text_misses_none(tmp_path: Path) -> None:
    scope = made_up_study.study(neutral=[])
    root = made_up_study.make_results(tmp_path, scope)
    for path in root.rglob("neutral.csv"):
        path.unlink()
    assert gather(root, scope, root / "tables") == []
    table = build("neutral", root / "tables")
    assert (table.rows, table.notes) == ([], ["No neutral text was measured."])


# --------------------------------------------------------------------------------------------------------- cost


def test_cost_is_of_an_edit_of_the_largest_peak_and_of_what_is_kept_at_last(gathered: Path) -> None:
    rows = {row.label: row.cells for row in build("cost", gathered).rows}
    assert rows["MEMIT"]["edit_s"].value == pytest.approx(9.5 / 20)  # a batch of 20: targets and solve, no measuring
    assert rows["SPHERE"]["edit_s"].value == pytest.approx(10 / 20)
    assert rows["MEMIT"]["edit_operations"].value == pytest.approx(4), "in 10^9"
    assert rows["SPHERE"]["edit_operations"].value == pytest.approx(8)
    assert rows["MEMIT"]["peak_memory"].value == pytest.approx(1 + LAST / 1024)
    assert (rows["MEMIT"]["kept"].value, rows["SPHERE"]["kept"].value) == (0, 1)
    assert rows["SPHERE"]["weights"].value == 2
    assert isnan(rows["SPHERE"]["peak_device_memory"].value), "no GPU: no number"


def test_operations_are_a_mean_over_the_edits_of_each_segment_that_made_some() -> None:
    """10 edits at 2, then 30 at 6: 5 an edit. Where the stream stopped, nothing was counted."""
    stream = {"model": "m", "dataset": "d", "method": "memit", "seed": 0}
    timing = pd.DataFrame([{**stream, "edits": 40, "batch": 4, "phase": "solve", "seconds": 8.0}])
    rest = {"peak_memory": 1, "peak_device_memory": float("nan"), "weights": 1, "kept": 0}
    segments = [(40, 6e9), (10, 2e9), (40, float("nan"))]
    cost = pd.DataFrame([{**stream, "edits": edits, "operations": count, **rest} for edits, count in segments])
    (found,) = cost_by_stream(timing, cost).itertuples()
    assert (found.edit_operations, found.edit_s) == (5, 0.2)


# ------------------------------------------------------------------------------------------------------ anchors


def test_the_model_that_was_told_each_fact_is_a_reference_in_every_table(tmp_path: Path) -> None:
    scope = made_up_study.study(in_context=["in-context"])
    root = made_up_study.make_results(tmp_path, scope)
    assert gather(root, scope, root / "tables") == []
    for name in ("table1", "editing_success", "strict", "belief"):
        table = build(name, root / "tables")
        own = [row for row in table.rows if row.label == "In context"]
        assert own, name
        assert not any(row.ranked for row in own), name
        assert [row.label for row in table.rows][:2] == ["Pre-edited", "In context"], name
    (told,) = [row for row in build("table1", root / "tables").rows if row.label == "In context"]
    assert told.cells["counterfact_efficacy"].value == 90
    assert set(load(root / "tables", "neutral_summary")["method"]) == {"pre-edited", *scope["methods"]}
    for name in ("plug_and_play", "spearman", "early_warning", "energy", "runtime", "checkpoints"):
        assert "In context" not in [row.label for row in build(name, root / "tables").rows], name
    for name in ("editing_curves", "plug_and_play", "energy_accuracy"):
        FIGURES[name](root / "tables", tmp_path / name)
    (root / "tiny" / "zsre" / "in-context" / "editing.csv").unlink()
    missing = gather(root, scope, root / "tables")
    assert [str(path.relative_to(root)) for path in missing] == ["tiny/zsre/in-context/editing.csv"]


# -------------------------------------------------------------------------------------------------- portability


def test_questions_behind_edits_have_a_column_a_kind_that_was_asked(gathered: Path) -> None:
    table = build("portability", gathered)
    assert [column.key for column in table.columns] == ["two_hop"]
    (row,) = [row for row in table.rows if row.label == "SPHERE" and "CounterFact" in row.section]
    seeds = over_seeds([100 * frame["portability_two_hop"].mean() for frame in records(gathered, "sphere")])
    cell = row.cells["two_hop"]
    assert (cell.value, cell.half_width) == pytest.approx((seeds.mean, seeds.half_width))


@pytest.mark.parametrize(("width", "shown"), [(40.0, True), (635.31, False)])
def test_an_interval_wider_than_the_scale_is_not_shown(width: float, shown: bool) -> None:
    row = {"model": "tiny", "dataset": "counterfact", "method": "sphere", "edits": 8, "metric_family": "portability",
           "metric": "inverse", "mean": 0.5, "ci_low": 0.5 - width / 100, "ci_high": 0.5 + width / 100,
           "ci_kind": "t over seeds", "n_seeds": 2}  # fmt: skip
    (found,) = portability_table(pd.DataFrame([row])).rows
    cell = found.cells["inverse"]
    assert cell.value == 50
    assert (cell.half_width == pytest.approx(width)) if shown else isnan(cell.half_width)


def test_kinds_are_those_that_records_may_ask() -> None:
    assert tuple(PORTABILITY_KINDS) == PORTABILITY
