"""Tables: the intervals, what is gathered, what is bold, and that all three formats say the same."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from math import inf, isfinite, isnan, nan
from pathlib import Path

import made_up_study
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sphere.errors import InputError
from sphere.evaluation.neurons import cosine_change, cosine_matrix, gather_neurons
from sphere.report.tables import PUBLISHED as PAPER_FILES
from sphere.report.tables import SUMMARIES, TABLES, build, gather, load, write_all
from sphere.report.tables.comparison import comparison_table
from sphere.report.tables.editing import read_paper
from sphere.report.tables.intervals import (
    EXACT,
    from_stderr,
    over_records,
    over_seeds,
    slope,
    spearman,
    spearman_within,
    with_held,
)
from sphere.report.tables.layout import (
    METRICS,
    base_of,
    group_of,
    is_baseline,
    is_control,
    method_label,
    ordered_methods,
    paper_name,
    projected_pairs,
)
from sphere.report.tables.neurons import sampled_weights
from sphere.report.tables.render import Cell, Column, Row, Table, as_frame, as_latex, as_markdown, ranks
from sphere.report.tables.stream import batch_seconds, energy_table, warning_table
from sphere.report.tables.trajectories import (
    RUN,
    early_warnings,
    energy_by_batch,
    steps,
    trajectories,
    weight_paths,
    weights_by_batch,
)

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "config" / "published"
SERIES = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=3, max_size=12)


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a made-up study of three methods, two datasets and three seeds."""
    root = made_up_study.make_results(tmp_path_factory.mktemp("study"), made_up_study.study())
    assert gather(root, made_up_study.study(), root / "tables") == []
    return root / "tables"


# ------------------------------------------------------------------------------------------------------- intervals


@given(SERIES)
def test_over_seeds_is_the_t_interval(values: list[float]) -> None:
    found = over_seeds([*values, nan, inf])
    assert found.kind == "t over seeds"
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    spread = stats.sem(values)
    if spread > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), spread)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)


def test_over_records_is_the_normal_interval() -> None:
    values = [0.0, 1.0, 1.0, 1.0]
    low, high = stats.norm.interval(0.95, 0.75, stats.sem(values))
    found = over_records(values)
    assert (found.low, found.high, found.kind) == (pytest.approx(low), pytest.approx(high), "normal over records")


def test_one_value_has_no_interval() -> None:
    for found in (over_seeds([3.0]), over_records([3.0, nan]), from_stderr(3.0, nan)):
        assert found.mean == 3.0
        assert found.kind == "none"
        assert isnan(found.half_width)


@given(SERIES, st.randoms(use_true_random=False))
def test_spearman_agrees_with_scipy(values: list[float], random: object) -> None:
    other = list(values)
    random.shuffle(other)  # type: ignore[attr-defined]
    found = spearman(values, other)
    if len(set(values)) < 2:
        assert isnan(found.r)
        assert isnan(found.p)
    else:
        expected = stats.spearmanr(values, other)
        assert found.r == pytest.approx(expected.statistic, abs=1e-9)
        if found.n > EXACT:
            assert found.p == pytest.approx(expected.pvalue, abs=1e-6)


def test_p_of_few_points_is_exact() -> None:
    assert spearman([1, 2, 3, 4], [9, 7, 5, 1]).p == pytest.approx(2 / 24)
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.0, 1.0, 4.0, 4.0, 7.0, 5.0]
    exact = stats.permutation_test(
        (x,), lambda order: stats.spearmanr(order, y).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert spearman(x, y).p == pytest.approx(exact.pvalue)


def test_spearman_within_strata_knows_nothing_of_what_differs_between_them() -> None:
    """One stratum is Spearman's own; a stratum's level and scale do not count, only its order does."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9))
    assert spearman_within(x, y, ["a"] * 9) == pytest.approx(stats.spearmanr(x, y).statistic)
    up, down = [1, 2, 3], [30, 20, 10]
    assert spearman_within([*up, 101, 102, 103], [*down, -7, -8, -9], [0, 0, 0, 1, 1, 1]) == pytest.approx(-1)
    assert spearman_within([*up, 900, 900, 900], [*down, 7, 8, 9], [0, 0, 0, 1, 1, 1]) == pytest.approx(-1 / np.sqrt(2))
    assert np.isnan(spearman_within([1, nan, 3], [nan, 1, 3], ["a", "a", "a"]))


def test_spearman_within_strata_holds_others_as_the_residuals_of_the_ranks_do() -> None:
    rng = np.random.default_rng(4)
    z, w = rng.normal(size=(2, 40))
    x, y = z + rng.normal(size=40), z - w + rng.normal(size=40)
    strata = np.repeat([0, 1], 20)
    ranked = np.concatenate(
        [[stats.rankdata(each[strata == name]) - 10.5 for each in (x, y, z, w)] for name in (0, 1)], 1
    )
    left = [each - ranked[2:].T @ np.linalg.lstsq(ranked[2:].T, each, rcond=None)[0] for each in ranked[:2]]
    expected = left[0] @ left[1] / np.linalg.norm(left[0]) / np.linalg.norm(left[1])
    assert spearman_within(x, y, strata, [z, w]) == pytest.approx(expected)
    assert np.isnan(spearman_within(x, y, strata, [x])), "x tells all of itself"


def test_the_weights_path_is_unknown_from_a_batch_that_was_not_recorded() -> None:
    names = {"model": "m", "dataset": "d", "method": "memit", "seed": 0, "layer": 4, "weight_norm": 2.0}
    energy = pd.DataFrame([{**names, "edits": 10 * b, "batch": b, "update_norm": 1.0} for b in (0, 1, 2, 4, 5)])
    assert list(weights_by_batch(energy)["weight_path"].fillna(-1)) == [0.5, 1.0, -1, -1]
    assert weight_paths(energy)["weight_path"].isna().all()


def test_a_correlation_with_a_third_held_is_that_of_what_the_third_leaves() -> None:
    """Of ranks without ties: the correlation of the residuals of two lines."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=20)
    x, y = z + rng.normal(size=20), z + rng.normal(size=20)
    ranked = [stats.rankdata(each) for each in (x, y, z)]
    left = [each - np.polyval(np.polyfit(ranked[2], each, 1), ranked[2]) for each in ranked[:2]]
    found = with_held(spearman(x, y), spearman(x, z), spearman(y, z))
    r = np.corrcoef(*left)[0, 1]
    assert found.r == pytest.approx(r)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(r) * np.sqrt(17 / (1 - r * r)), 17))
    assert np.isnan(with_held(spearman(x, y), spearman(x, x), spearman(y, x)).r), "x tells all of itself"


def test_the_weights_path_is_the_sum_of_the_updates_sizes() -> None:
    names = {"model": "m", "dataset": "d", "method": "memit", "seed": 0}
    rows = [(0, 0, 4, 0.0, 2.0), (10, 1, 4, 1.0, 2.0), (10, 1, 5, 3.0, 4.0), (20, 2, 4, 0.5, 2.0), (20, 2, 5, 1.0, 4.0)]
    energy = pd.DataFrame(rows, columns=["edits", "batch", "layer", "update_norm", "weight_norm"]).assign(**names)
    (found,) = weight_paths(energy)["weight_path"]
    assert found == pytest.approx((0.5 + 0.75) / 2 + 0.25)
    assert list(weights_by_batch(energy)["weight_path"]) == pytest.approx([(0.5 + 0.75) / 2, found])


def test_steps_have_what_the_weights_moved_in_between(gathered: Path) -> None:
    energy = load(gathered, "energy_summary")
    paths = trajectories(load(gathered, "editing_summary"), energy)
    whole = weight_paths(energy).set_index(list(RUN))["weight_path"]
    first = paths[paths["edits"] == 20].set_index(list(RUN))["weight_path"]
    between = steps(paths).groupby(list(RUN))["weight_step"].sum()
    assert (first > 0).all()
    pd.testing.assert_series_equal(first + between, whole, check_names=False)


def test_spearman_leaves_out_nan_and_ranks_infinity() -> None:
    assert spearman([1, 2, nan, 3, inf], [8, 6, 5, 4, 2]).r == pytest.approx(-1)
    assert spearman([1, 2, nan, 3, inf], [8, 6, 5, 4, 2]).n == 4
    assert isnan(spearman([1, 2], [1, 2]).r)


def test_slope_of_a_line() -> None:
    assert slope([1, 2, 3, inf], [5, 3, 1, 0]) == pytest.approx(-2)
    assert isnan(slope([1, 1, 1], [1, 2, 3]))


# --------------------------------------------------------------------------------------------------------- names


def test_methods_stand_by_what_they_change() -> None:
    ordered = ["pre-edited", "memit", "memit+sphere", "memit-seq", "evoedit", "memit-seq@values.residual=ends",
               "rect", "memit-seq+rect", "memit-seq+rect@compensate=true", "sphere", "prune", "memit-seq+prune",
               "rotate", "memit-seq+scatter"]  # fmt: skip
    groups = ["", *["what is solved"] * 4, "what is asked for", *["what becomes of the update"] * 4,
              *["what is evaluated"] * 2, *["controls"] * 2]  # fmt: skip
    assert [group_of(name) for name in ordered] == groups
    assert [group_of(name) for name in ordered_methods(reversed(ordered))] == groups
    assert [name for name in ordered if is_control(name)] == ["rotate", "memit-seq+scatter"]
    assert not any(is_baseline(name) for name in ordered if is_control(name))
    rows = [Row("tiny", method_label(name), {}, group=group_of(name)) for name in ordered]
    table = Table("t", "Methods", "Method", [Column("x", "X")], rows)
    shown = [line.split("|")[2].strip() for line in as_markdown(table).splitlines()[4:]]
    assert [line for line in shown if line.startswith("*")] == [f"*{group}*" for group in dict.fromkeys(groups[1:])]
    assert shown.index("*controls*") + 1 == shown.index("Rotation (control)")
    assert as_latex(table).count(r"\quad\textit{") == 5
    few = replace(table, rows=rows[:5])
    assert "*what is solved*" not in as_markdown(few), "fewer than three groups need no line each"


def test_names_and_order_of_methods() -> None:
    assert ordered_methods(["sphere", "memit+sphere", "mine", "memit", "pre-edited"]) == [
        "pre-edited", "memit", "memit+sphere", "mine", "sphere",
    ]  # fmt: skip
    assert [method_label(name) for name in ("memit-seq", "rect+sphere", "alphaedit+sphere", "mine")] == [
        "MEMIT-seq", "RECT + SPHERE", "SPHERE", "mine",
    ]  # fmt: skip
    assert base_of("sphere") == base_of("alphaedit+sphere") == base_of("sphere@eta=0.3") == "alphaedit"
    assert method_label("rect+sphere@eta=0.3@alpha=0.5") == "RECT + SPHERE (eta 0.3, alpha 0.5)"
    assert projected_pairs(["memit", "sphere@eta=0.3", "sphere", "alphaedit", "rect+sphere", "memit+sphere"]) == [
        ("memit", "memit+sphere"), ("alphaedit", "sphere"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("llama3-8b-instruct", "LLaMA3-8B"),
        ("Meta-Llama3_8B", "LLaMA3-8B"),
        ("qwen2.5-7b-instruct", "Qwen2.5-7B"),
        ("embedded", None),
        ("llama3-80b", None),
        ("llama3", None),
    ],
)
def test_paper_name(ours: str, theirs: str | None) -> None:
    assert paper_name(ours, ["LLaMA3-8B", "Qwen2.5-7B"]) == theirs


# -------------------------------------------------------------------------------------------------------- gather


def test_gather_writes_every_summary(gathered: Path) -> None:
    assert {path.stem for path in gathered.glob("*.csv")} >= set(SUMMARIES)
    assert load(gathered, "missing").empty


def test_editing_summary_is_the_mean_of_the_records(gathered: Path) -> None:
    root = gathered.parent
    records = pd.read_csv(root / "tiny" / "counterfact" / "memit" / "seed1" / "edits40" / "editing.csv")
    summary = load(gathered, "editing_summary").set_index(
        ["dataset", "method", "seed", "edits", "metric_family", "metric"]
    )
    row = summary.loc[("counterfact", "memit", 1, 40, "token_accuracy", "specificity")]
    assert row["mean"] == pytest.approx(records["token_accuracy_specificity"].mean())
    assert row["n"] == 40
    assert row["ci_kind"] == "normal over records"
    assert summary.loc[("counterfact", "memit", 1, 40, "text", "fluency"), "n"] == 10
    # zsRE has no success family and no generations here: no row, rather than a row of nothing
    assert set(load(gathered, "editing_summary").query("dataset == 'zsre'")["metric_family"]) == {
        "accuracy",
        "token_accuracy",
    }


def test_by_method_is_over_seeds(gathered: Path) -> None:
    key = "dataset == 'zsre' and method == 'alphaedit' and edits == 100 and metric == 'efficacy'"
    key += " and metric_family == 'accuracy'"
    seeds = load(gathered, "editing_summary").query(key)["mean"]
    row = load(gathered, "editing_by_method").query(key).iloc[0]
    low, high = stats.t.interval(0.95, 2, seeds.mean(), stats.sem(seeds))
    assert (row["mean"], row["ci_low"], row["ci_high"]) == pytest.approx((seeds.mean(), low, high))
    assert (row["ci_kind"], row["n_seeds"], row["n"]) == ("t over seeds", 3, 300)


def test_one_seed_falls_back_to_its_records_and_says_so(tmp_path: Path) -> None:
    scope = made_up_study.study(seeds=[4])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    rows = load(tmp_path / "tables", "editing_by_method")
    assert set(rows.query("metric_family != 'text'")["ci_kind"]) == {"normal over records"}
    assert set(rows["n_seeds"]) == {1}
    assert set(load(tmp_path / "tables", "general_ability_by_method")["ci_kind"]) == {"normal over items"}
    assert "normal over records" in build("table1", tmp_path / "tables").notes[-1]


def test_ability_takes_one_metric_a_task_and_repeats_the_pre_edited_scores(gathered: Path) -> None:
    ability = load(gathered, "general_ability_by_method")
    before = ability.query("method == 'pre-edited'")
    assert set(before["dataset"]) == {"counterfact", "zsre"}
    assert dict(zip(before["family"], before["mean"], strict=True))["nli"] == pytest.approx(0.75)


def test_headline_ability_prefers_exact_match(tmp_path: Path) -> None:
    scope = made_up_study.study(methods=["memit"], datasets=["zsre"], seeds=[0], checkpoints=[20])
    made_up_study.make_results(tmp_path, scope)
    path = tmp_path / "tiny" / "zsre" / "memit" / "seed0" / "edits20" / "general_ability.csv"
    rows = [
        ("a", "reasoning", "acc_norm,none", 0.9),
        ("a", "reasoning", "exact_match,strict", 0.2),
        ("b", "reasoning", "acc", 0.4),
    ]
    made_up_study.save(
        pd.DataFrame(
            [{"task": t, "family": f, "metric": m, "value": v, "stderr": 0.1, "n": 10} for t, f, m, v in rows]
        ),
        path,
    )
    gather(tmp_path, scope, tmp_path / "tables")
    row = load(tmp_path / "tables", "general_ability_by_method").query("method == 'memit'").iloc[0]
    assert row["mean"] == pytest.approx(0.3)
    assert row["ci_high"] - row["mean"] == pytest.approx(1.959964 * np.hypot(0.1, 0.1) / 2, rel=1e-5)


@pytest.fixture(scope="module")
def perplexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a study of three orders that asked for perplexity too: AlphaEdit's is the lowest."""
    scope = made_up_study.study(datasets=["zsre"], checkpoints=[20, 40])
    root = made_up_study.make_results(tmp_path_factory.mktemp("study"), scope)
    worse = {"pre-edited": 0.0, "alphaedit": 0.01, "sphere": 0.02, "memit": 3.0}
    made_up_study.add_perplexity(root, lambda method, edits: 1.2 + worse[method] * edits / 40)
    gather(root, scope, root / "tables")
    return root / "tables"


def test_perplexity_has_its_own_unit_and_is_no_part_of_the_shares(perplexed: Path, gathered: Path) -> None:
    found = load(perplexed, "general_ability_by_method")
    assert dict(zip(found["family"], found["unit"], strict=True)) == {
        **dict.fromkeys(made_up_study.TASKS.values(), "share"),
        "perplexity": "bits_per_byte",
    }
    keys = ["model", "dataset", "method", "edits", "family"]
    shares = found[found["unit"] == "share"].set_index(keys)
    before = load(gathered, "general_ability_by_method").set_index(keys)
    pd.testing.assert_frame_equal(shares, before.loc[shares.index])


def test_perplexity_is_shown_in_bits_lower_is_better(perplexed: Path, gathered: Path) -> None:
    table = build("general_ability", perplexed)
    column = table.columns[-1]
    assert (column.key, column.header) == ("perplexity", "Perplexity, bits a byte")
    assert (column.better, column.decimals) == ("lower", 3)
    assert {row.label: row.cells["perplexity"].value for row in table.rows} == pytest.approx(
        {"Pre-edited": 1.2, "MEMIT": 4.2, "AlphaEdit": 1.21, "SPHERE": 1.22}
    )
    before = table.rows[0].cells["perplexity"]
    assert before.half_width == pytest.approx(stats.norm.ppf(0.975) * 0.03)
    assert "**1.210" in as_markdown(table)
    assert any("lower is better" in note for note in table.notes)
    assert all(each.better == "higher" for each in table.columns[:-1])
    assert not any("bits" in note.casefold() for note in build("general_ability", gathered).notes)


def test_skipped_records_are_counted_by_reason(gathered: Path) -> None:
    found = load(gathered, "skipped_summary")
    assert set(found["dataset"]) == {"zsre"}
    assert sorted(set(found["seed"])) == [0, 1, 2]
    counts = {row.label: row.cells["records"].value for row in build("skipped", gathered).rows}
    assert counts == {"its subject is empty": 1, "no target": 2}


def test_missing_files_are_listed_and_nothing_stands_in_for_them(tmp_path: Path) -> None:
    scope = made_up_study.study()
    made_up_study.make_results(tmp_path, scope)
    gone = tmp_path / "tiny" / "zsre" / "sphere" / "seed2" / "edits100"
    shutil.rmtree(gone)
    missing = gather(tmp_path, scope, tmp_path / "tables")
    of_stream = {"editing.csv", "energy.csv", "timing.csv", "cost.csv"}
    assert {path.name for path in missing} == of_stream | {"general_ability.csv", "neutral.csv"}
    assert set(load(tmp_path / "tables", "missing")["path"]) == {str(path.relative_to(tmp_path)) for path in missing}
    rows = load(tmp_path / "tables", "editing_by_method").query(
        "dataset == 'zsre' and method == 'sphere' and edits == 100"
    )
    assert set(rows["n_seeds"]) == {2}


def test_a_study_without_tasks_misses_no_ability(tmp_path: Path) -> None:
    scope = made_up_study.study(methods=["memit"], seeds=[0], checkpoints=[20])
    made_up_study.make_results(tmp_path, scope)
    for path in tmp_path.rglob("general_ability.csv"):
        path.unlink()
    assert gather(tmp_path, {**scope, "tasks": None}, tmp_path / "tables") == []
    assert len(gather(tmp_path, scope, tmp_path / "tables")) == 3


def test_gather_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result of this study"):
        gather(tmp_path, made_up_study.study(), tmp_path / "tables")
    with pytest.raises(InputError, match="seeds"):
        gather(tmp_path, {key: [] for key in ("models", "datasets", "methods", "checkpoints")}, tmp_path)
    scope = made_up_study.study(methods=["memit"], seeds=[0], checkpoints=[20])
    made_up_study.make_results(tmp_path, scope)
    path = tmp_path / "tiny" / "zsre" / "memit" / "seed0" / "edits20" / "energy.csv"
    pd.read_csv(path).drop(columns="he_mean").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"energy\.csv has no column he_mean"):
        gather(tmp_path, scope, tmp_path / "tables")
    with pytest.raises(InputError, match="gather"):
        load(tmp_path, "nothing")


# -------------------------------------------------------------------------------------------------- trajectories


def test_energy_is_relative_to_the_pretrained_weights(gathered: Path) -> None:
    batches = energy_by_batch(load(gathered, "energy_summary"))
    run = batches.query("dataset == 'zsre' and method == 'memit' and seed == 0")
    assert run["he_change"].iloc[0] == 0
    assert isnan(run["step"].iloc[0])
    assert run["step"].sum() == pytest.approx(run["he_change"].iloc[-1])
    last = run["he"].iloc[-1]
    assert run["he_change"].iloc[-1] == pytest.approx(100 * (last / run["he"].iloc[0] - 1))


def test_energy_change_is_unknown_without_the_pretrained_row(gathered: Path) -> None:
    energy = load(gathered, "energy_summary").query("edits > 0")
    assert energy_by_batch(energy)["he_change"].isna().all()
    assert energy_by_batch(energy)["he"].notna().all()


def test_trajectories_have_checkpoints_only_and_the_datasets_family(gathered: Path) -> None:
    paths = trajectories(load(gathered, "editing_summary"), load(gathered, "energy_summary"))
    assert set(paths["edits"]) == {20, 40, 60, 80, 100}
    assert "pre-edited" not in set(paths["method"])
    assert len(paths) == 2 * 3 * 3 * 5
    assert paths["efficacy"].between(0, 100).all()
    assert paths["efficacy"].max() > 1


def test_early_warnings_of_a_known_stream() -> None:
    run = {"model": "m", "dataset": "d", "method": "a", "seed": 0}
    moved = ((0, nan), (10, 0.2), (20, -0.1), (30, 0.3), (40, -1.1), (50, 3.0))  # 0.2 on average at first
    batches = pd.DataFrame([{**run, "edits": e, "step": step} for e, step in moved])
    paths = pd.DataFrame([{**run, "edits": e, "efficacy": v} for e, v in ((10, 80.0), (40, 60.0), (50, 40.0))])
    found = early_warnings(paths, batches).iloc[0]
    assert (found["warning_edits"], found["collapse_edits"], found["lead_edits"]) == (40, 50, 10)
    tiny = early_warnings(paths, batches.assign(step=batches["step"] * 1e-6)).iloc[0]
    assert (tiny["warning_edits"], tiny["lead_edits"]) == (40, 10), "the first batches are the measure"
    rounded = early_warnings(paths, batches.assign(step=batches["step"] * 1e-9)).iloc[0]
    assert isnan(rounded["warning_edits"]), "an editor that cannot move it warns of nothing by its rounding"
    calm = early_warnings(paths.assign(efficacy=80.0), batches.assign(step=0.0)).iloc[0]
    assert calm[["warning_edits", "collapse_edits", "lead_edits"]].isna().all()


@pytest.mark.parametrize(
    ("efficacy", "collapse"), [((0, 60, 50), nan), ((0, 60, 30), 30), ((0, 0, 0), nan), ((nan, 60, 0), 30)]
)
def test_what_never_worked_does_not_collapse(efficacy: tuple[float, ...], collapse: float) -> None:
    run = {"model": "m", "dataset": "d", "method": "a", "seed": 0}
    paths = pd.DataFrame([{**run, "edits": 10 * (i + 1), "efficacy": value} for i, value in enumerate(efficacy)])
    batches = pd.DataFrame([{**run, "edits": 10, "step": 2.0}])
    found = early_warnings(paths, batches).iloc[0]
    assert found["collapse_edits"] == pytest.approx(collapse, nan_ok=True)


def test_false_alarms_and_misses_are_counted() -> None:
    """Four seeds: both happened, HE alone moved, efficacy alone halved, neither."""
    moved, halved = (9.0, 9.0, 1.5, 1.5), (0.2, 0.8, 0.2, 0.8)
    editing, energy = [], []
    for seed in range(4):
        run = {"model": "m", "dataset": "counterfact", "method": "memit", "seed": seed}
        scores = zip((40, 50), (0.8, halved[seed]), strict=True)
        family = {"metric_family": "accuracy", "metric": "efficacy"}
        editing += [{**run, "edits": edits, **family, "mean": score} for edits, score in scores]
        changes = zip((0, 10, 20, 30, 40), (0.0, 1.0, 2.0, 3.0, 3 + moved[seed]), strict=True)
        energy += [{**run, "edits": n, "batch": n / 10, "layer": 0, "he_mean": 100 + c} for n, c in changes]
    table = warning_table(pd.DataFrame(editing), pd.DataFrame(energy))
    (row,) = table.rows
    counts = ("warned", "collapsed", "both", "false_alarms", "missed", "seeds")
    assert [row.cells[key].value for key in counts] == [2, 2, 1, 1, 1, 4]
    assert "Of all 4 streams HE moved faster in 2 and efficacy halved in 2; in 1 HE came first." in table.notes[-1]
    assert [row.cells[f"{key}_edits"].value for key in ("warning", "collapse", "lead")] == [40, 50, 10]


def test_batch_seconds_leave_out_measuring(gathered: Path) -> None:
    seconds = batch_seconds(load(gathered, "timing_summary")).set_index("method")
    assert seconds.loc["sphere", "edit_s"].to_numpy() == pytest.approx(10.0)
    assert seconds.loc["sphere", "ratio_percent"].to_numpy() == pytest.approx(5.0)
    assert seconds.loc["memit", "projection_s"].to_numpy() == pytest.approx(0.0)


def test_every_phase_but_measuring_is_edit_time() -> None:
    spent = {"targets": 6.0, "keys": 1.0, "solve": 1.0, "post-process": 1.5, "projection": 0.5, "energy": 40.0}
    run = {"model": "m", "dataset": "d", "method": "rect+sphere", "seed": 0}
    rows = [{**run, "edits": 20 * b, "batch": b, "phase": p, "seconds": s} for b in (0, 1, 2) for p, s in spent.items()]
    (seconds,) = batch_seconds(pd.DataFrame(rows)).to_dict("records")
    assert [seconds[key] for key in ("edit_s", "projection_s", "ratio_percent")] == pytest.approx([10, 0.5, 5])


# -------------------------------------------------------------------------------------------------------- neurons


def test_cosine_change_against_its_definition() -> None:
    original, edited = made_up_study.weights(30, 12)
    change = np.abs(cosine_matrix(edited["memit"]) - cosine_matrix(original))
    expected = change[~np.eye(30, dtype=bool)].mean()
    for block in (7, 1024):
        assert cosine_change(original, edited["memit"], block=block) == pytest.approx(expected, abs=1e-12)
    assert cosine_change(original, 3 * original) == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="shape"):
        cosine_change(original, original[:5])


def test_gather_neurons_takes_the_same_rows_of_every_weight(tmp_path: Path) -> None:
    original, edited = made_up_study.weights(300, 8)
    names = {"model": "m", "dataset": "d", "seed": 0, "edits": 20}
    streams = [({**names, "method": method}, {2: weight, 1: 2 * weight}) for method, weight in edited.items()]
    gather_neurons(tmp_path, {"m": {1: 2 * original, 2: original}}, iter(streams))
    rows = pd.read_csv(tmp_path / "neuron_cosine.csv")
    assert list(rows["layer"]) == [1, 2] * 3
    by_method = rows.groupby("method")["cosine_change"].mean()
    assert by_method["sphere"] < by_method["alphaedit"] < by_method["memit"]
    sample = sampled_weights(tmp_path)["m", "d", 2]
    assert {weight.shape for weight in sample.values()} == {(128, 8)}
    assert np.isin(sample["original"][:, 0], np.float32(original[:, 0])).all()
    assert sampled_weights(tmp_path / "elsewhere") == {}


def test_neurons_of_different_layers_are_never_drawn_side_by_side(tmp_path: Path) -> None:
    """FT edits a layer of its own: the sample is of the layer that the others share, and so is its original."""
    original, edited = made_up_study.weights(30, 8)
    names = {"model": "m", "dataset": "d", "seed": 0, "edits": 20}
    layers = {"ft": [5], "memit": [1, 2], "sphere": [1, 2], "rome": [2]}
    streams = [({**names, "method": m}, {i: i * edited["memit"] for i in own}) for m, own in layers.items()]
    gather_neurons(tmp_path, {"m": {i: i * original for i in (1, 2, 5)}}, iter(streams))
    ((model, dataset, layer), sample), *others = sampled_weights(tmp_path).items()
    assert (model, dataset, layer, others) == ("m", "d", 2, [])
    assert set(sample) == {"original", "memit", "sphere", "rome"}
    np.testing.assert_array_equal(sample["original"], np.float32(2 * original))


# --------------------------------------------------------------------------------------------------------- render


def table_of(
    values: list[float], *, better: str | None = "higher", decimals: int = 1, ranked: list[bool] | None = None
) -> Table:
    flags = ranked or [True] * len(values)
    rows = [Row("m", f"r{i}", {"x": Cell(v)}, flag) for i, (v, flag) in enumerate(zip(values, flags, strict=True))]
    return Table("t", "T", "Row", [Column("x", "X", "", better, decimals)], rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "better", "expected"),
    [
        ([1.0, 3.0, 2.0], "higher", {(1, "x"): 1, (2, "x"): 2}),
        ([1.0, 3.0, 2.0], "lower", {(0, "x"): 1, (2, "x"): 2}),
        ([1.0, 3.0, 2.0], None, {}),
        ([2.04, 2.01, 1.0], "higher", {(0, "x"): 1, (1, "x"): 1, (2, "x"): 2}),  # equal as printed
        ([nan, 3.0, inf], "higher", {}),  # one number to rank
        ([2.0, 2.0], "higher", {}),
    ],
)
def test_best_and_second(values: list[float], better: str | None, expected: dict[tuple[int, str], int]) -> None:
    assert ranks(table_of(values, better=better)) == expected


def test_an_unranked_row_is_never_best_and_sections_rank_apart() -> None:
    assert ranks(table_of([9.0, 1.0, 2.0], ranked=[False, True, True])) == {(2, "x"): 1, (1, "x"): 2}
    rows = [Row(s, "r", {"x": Cell(v)}) for s, v in (("a", 1.0), ("a", 2.0), ("b", 8.0), ("b", 9.0))]
    assert ranks(Table("t", "T", "", [Column("x", "X", "", "higher")], rows)) == {
        (1, "x"): 1, (0, "x"): 2, (3, "x"): 1, (2, "x"): 2,
    }  # fmt: skip


def test_markdown_and_latex_mark_the_same_cells() -> None:
    rows = [
        Row("m_1", f"r{i}", {"x": Cell(v, 0.25, p)})
        for i, (v, p) in enumerate([(1.5, nan), (-0.001, 7.0), (-3.0, nan)])
    ]
    table = Table("t", "100 % & more", "Row", [Column("x", "X_%", "G", "higher", 2)], [*rows, Row("m_1", "gone", {})])
    markdown, latex = as_markdown(table), as_latex(table)
    assert "| m_1 | r0 | **1.50** ±0.25 |" in markdown
    assert "<u>0.00</u> ±0.25 [7.00]" in markdown
    assert "| −3.00 ±0.25 |" in markdown
    assert "| gone | – |" in markdown
    assert r"\textbf{1.50}{\scriptsize\,$\pm$\,0.25}" in latex
    assert r"\underline{0.00}" in latex
    assert "$-$3.00" in latex
    assert r"100 \% \& more" in latex
    assert r"X\_\%" in latex
    assert list(as_frame(table).columns) == ["model", "method", "x", "x_pm", "paper_x"]
    assert as_frame(table)["x"].iloc[1] == -0.001


# --------------------------------------------------------------------------------------------------------- tables


def well_formed(latex: str) -> None:
    """Braces and environments close, and every line of the tabular has the cells of its columns."""
    bare = latex.replace(r"\{", "").replace(r"\}", "").replace(r"\textbackslash{}", "")
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert re.findall(r"\\begin{(.*?)}", latex) == list(reversed(re.findall(r"\\end{(.*?)}", latex)))
    spec = re.search(r"\\begin{tabular}{(l+r*)}", latex)
    assert spec is not None
    columns = len(spec[1])
    for line in latex.split(r"\toprule")[1].split(r"\bottomrule")[0].splitlines():
        if line.endswith(r"\\"):
            spans = sum(int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line))
            cells = len(re.findall(r"(?<!\\)&", line)) + 1
            assert cells - len(re.findall(r"\\multicolumn", line)) + spans == columns, line


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_whole_and_has_a_caption(name: str, gathered: Path, tmp_path: Path) -> None:
    TABLES[name](gathered, tmp_path / name, published=PUBLISHED)
    well_formed((tmp_path / f"{name}.tex").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}{ext}" for ext in (".csv", ".md", ".tex")}
    assert (ROOT / "workflow" / "report" / f"table_{name}.rst").read_text().strip()


def test_no_table_is_a_summary_s_file() -> None:
    assert set(TABLES).isdisjoint({*SUMMARIES, "neuron_cosine"})


def test_tables_are_the_same_bytes_on_every_run(gathered: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_all(gathered, tmp_path / folder, published=PUBLISHED)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_table1_has_the_papers_layout(gathered: Path) -> None:
    table = build("table1", gathered, published=PUBLISHED)
    assert [f"{column.group} {column.header}" for column in table.columns] == [
        "zsRE (token accuracy) Eff.", "zsRE (token accuracy) Gen.", "zsRE (token accuracy) Spe.",
        "CounterFact (accuracy) Eff.", "CounterFact (accuracy) Gen.", "CounterFact (accuracy) Spe.",
        "CounterFact (accuracy) Flu.", "CounterFact (accuracy) Consis.",
    ]  # fmt: skip
    assert [row.label for row in table.rows] == ["Pre-edited", "MEMIT", "AlphaEdit", "SPHERE"]
    assert not any("paper" in column for column in as_frame(table).columns)  # `tiny` is no model of the paper
    means = load(gathered, "editing_by_method").query(
        "dataset == 'counterfact' and method == 'sphere' and edits == 100 and metric_family == 'accuracy'"
    )
    cell = table.rows[-1].cells["counterfact_generalization"]
    row = means.set_index("metric").loc["generalization"]
    assert cell.value == pytest.approx(100 * row["mean"])
    assert cell.half_width == pytest.approx(50 * (row["ci_high"] - row["ci_low"]))
    assert ranks(table)[3, "zsre_efficacy"] == 1


def test_table1_shows_the_papers_value_beside_the_papers_model(tmp_path: Path) -> None:
    scope = made_up_study.study(
        models=["llama3-8b-instruct"], seeds=[0], checkpoints=[20], methods=["sphere", "memit-seq"]
    )
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    table = build("table1", tmp_path / "tables", published=PUBLISHED)
    rows = {row.label: row.cells for row in table.rows}
    assert rows["SPHERE"]["counterfact_efficacy"].paper == 52.89
    assert rows["SPHERE"]["zsre_specificity"].paper == 45.40
    assert rows["SPHERE"]["counterfact_fluency"].paper == 551.51
    assert isnan(rows["MEMIT-seq"]["counterfact_efficacy"].paper)  # not in the paper's table
    assert isnan(build("editing_success", tmp_path / "tables").rows[0].cells["counterfact_efficacy"].paper)
    runtime = build("runtime", tmp_path / "tables", published=PUBLISHED)
    assert {row.label: row.cells["edit_s"].paper for row in runtime.rows}["SPHERE"] == 543.26
    assert "[52.89]" in as_markdown(table)


def test_the_comparison_sets_published_numbers_beside_ours(tmp_path: Path) -> None:
    scope = made_up_study.study(models=["llama3-8b-instruct"], seeds=[0], methods=["sphere", "memit"])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    table = build("comparison", tmp_path / "tables", published=PUBLISHED)
    rows = {(row.section, row.label.split(" (")[0]): row.cells for row in table.rows}
    assert len(rows) == len(table.rows)
    labels = {row.label.split(" (")[0]: row.label for row in table.rows}
    assert labels["SPHERE, fluency"].endswith("(ours: generated text; published: generated text)")
    assert labels["MEMIT, r_s of HE and efficacy"].endswith("(ours: accuracy; published: not said)")
    assert labels["SPHERE, seconds of a batch"] == "SPHERE, seconds of a batch"
    assert all(isfinite(cells["paper"].value) for cells in rows.values())
    published = pd.read_csv(PUBLISHED / "table1_main.csv").set_index(["model", "method"])
    ours = build("table1", tmp_path / "tables").rows[-1].cells["counterfact_efficacy"]
    cells = rows["Table 1, LLaMA3-8B, CounterFact", "SPHERE, efficacy"]
    paper = published.loc[("LLaMA3-8B", "SPHERE")]
    assert (cells["ours"].value, cells["ours"].half_width) == (ours.value, ours.half_width)
    assert (cells["paper"].value, cells["paper"].half_width) == (paper["cf_eff"], paper["cf_eff_pm"])
    assert cells["difference"].value == pytest.approx(ours.value - paper["cf_eff"])
    assert cells["difference"].half_width == pytest.approx(np.hypot(ours.half_width, 1.959964 * paper["cf_eff_pm"]))
    assert cells["difference"].half_width > ours.half_width > 0
    speed = rows["Table 2, LLaMA3-8B", "SPHERE, seconds of a batch"]["difference"]
    assert isfinite(speed.value)
    assert isnan(speed.half_width)  # one seed, and no ± in the paper
    rank = rows["Figure 1, beside llama3-8b-instruct on CounterFact", "MEMIT, r_s of HE and efficacy"]
    assert isnan(rank["difference"].value)
    assert (rank["difference"].note, rank["paper"].value) == ("other family", -0.96)
    lacking = {place for place, cells in rows.items() if not isfinite(cells["ours"].value)}
    assert ("Table 1, LLaMA3-8B, zsRE", "FT, efficacy") in lacking
    assert ("Table 1, Qwen2.5-7B, zsRE", "SPHERE, efficacy") in lacking
    assert ("Sensitivity, beside llama3-8b-instruct", "η = 0.7, α = 0.7") in lacking
    said = as_markdown(table)
    assert said.count("not run") == as_latex(table).count("not run") == 2 * len(lacking)
    assert "100 edits" in table.notes[0]


def test_the_independent_reference_stands_beside_the_same_checkpoint(tmp_path: Path) -> None:
    scope = made_up_study.study(models=["llama3-8b-instruct"], seeds=[0], methods=["alphaedit", "memit"])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    by_method = load(tmp_path / "tables", "editing_by_method")
    last = by_method["edits"].max()
    reference = pd.read_csv(PUBLISHED / "independent.csv")
    assert set(reference["method"]) == {"alphaedit", "memit-seq"}
    moved = reference.assign(edits=reference["edits"].where(reference["edits"] != 2000, last))  # where we have a number
    papers = {name: read_paper(PUBLISHED, file) for name, file in PAPER_FILES.items()}
    parts = {name: build(name, tmp_path / "tables", published=PUBLISHED) for name in papers}
    table = comparison_table(parts, papers, by_method, moved)
    rows = [row for row in table.rows if "alphaedit-analysis" in row.section]
    assert len(rows) == 3 * len(reference)
    assert {row.section.split(", ", 2)[2] for row in rows} == {"LLaMA3-8B on CounterFact"}
    assert all(row.label.endswith("(ours: accuracy; published: accuracy)") for row in rows)
    found = {row.label.split(" (")[0]: row.cells for row in rows if isfinite(row.cells["ours"].value)}
    assert set(found) == {f"AlphaEdit, {metric} after {last} edits" for metric in METRICS}
    cells = found[f"AlphaEdit, efficacy after {last} edits"]
    mine = by_method.query("dataset == 'counterfact' and method == 'alphaedit' and edits == @last")
    (ours,) = mine.query("metric_family == 'accuracy' and metric == 'efficacy'")["mean"]
    assert cells["ours"].value == pytest.approx(100 * ours)
    assert cells["paper"].value == 95.5
    assert cells["difference"].value == pytest.approx(100 * ours - 95.5)


def test_no_difference_is_taken_across_families(tmp_path: Path) -> None:
    scope = made_up_study.study(models=["llama3-8b-instruct"], seeds=[0], methods=["sphere"])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    shutil.copytree(PUBLISHED, tmp_path / "published")
    path = tmp_path / "published" / "table1_main.csv"
    pd.read_csv(path, dtype=str).assign(cf_family="success").to_csv(path, index=False)
    table = build("comparison", tmp_path / "tables", published=tmp_path / "published")
    rows = {row.label: row.cells["difference"] for row in table.rows if "LLaMA3-8B, CounterFact" in row.section}
    cell = rows["SPHERE, efficacy (ours: accuracy; published: success)"]
    assert (isnan(cell.value), cell.note) == (True, "other family")
    assert isfinite(rows["SPHERE, fluency (ours: generated text; published: generated text)"].value)


def test_where_the_paper_has_no_interval_the_difference_has_ours(tmp_path: Path) -> None:
    scope = made_up_study.study(models=["llama3-8b-instruct"], methods=["sphere"])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    table = build("comparison", tmp_path / "tables", published=PUBLISHED)
    own = [row for row in table.rows if row.section == "Table 2, LLaMA3-8B"]
    (cells,) = [row.cells for row in own if row.label == "SPHERE, seconds of a batch"]
    assert isfinite(cells["ours"].half_width)
    assert cells["difference"].half_width == cells["ours"].half_width


@pytest.mark.parametrize(("factor", "decimals"), [(1.0, 3), (1e-3, 5)])
def test_a_small_change_of_energy_is_not_rounded_away(factor: float, decimals: int, tmp_path: Path) -> None:
    """On a real model HE moves by 1e-5 in a hundred edits: the table shows the digits in which methods differ."""
    scope = made_up_study.study(seeds=[0], methods=["memit", "sphere"])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    energy = load(tmp_path / "tables", "energy_summary")
    start = energy.groupby("layer")["he_mean"].transform("first")
    energy["he_mean"] = start + factor * (energy["he_mean"] - start)
    table = energy_table(energy)
    (column,) = [column for column in table.columns if column.key == "he_change"]
    largest = max(abs(row.cells["he_change"].value) for row in table.rows)
    assert column.decimals >= decimals
    assert round(largest, column.decimals) == pytest.approx(largest, rel=0.06)


def test_a_method_that_moves_the_energy_far_hides_no_other(tmp_path: Path) -> None:
    """A control may move HE a thousand times as far as editors do."""
    scope = made_up_study.study(seeds=[0], methods=["memit", "sphere", "memit-seq+scatter"])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    energy = load(tmp_path / "tables", "energy_summary")
    start = energy.groupby(["method", "layer"])["he_mean"].transform("first")
    factor = energy["method"].map({"memit": 1e-3, "sphere": 1e-3, "memit-seq+scatter": 1.0})
    energy["he_mean"] = start + factor * (energy["he_mean"] - start)
    table = energy_table(energy)
    (column,) = [column for column in table.columns if column.key == "he_change"]
    editors = [row.cells["he_change"].value for row in table.rows if "scatter" not in row.label]
    assert [round(value, column.decimals) for value in editors] == pytest.approx(editors, rel=0.06)


def test_the_papers_interval_is_one_standard_error() -> None:
    """Of 10,000 records: what config/published/README.md says of CounterFact's efficacy."""
    paper = pd.read_csv(PUBLISHED / "table1_main.csv")
    share = paper["cf_eff"] / 100
    assert (100 * np.sqrt(share * (1 - share) / 10_000)).round(2).to_list() == paper["cf_eff_pm"].to_list()


def test_there_is_nothing_to_compare_without_a_model_of_the_paper(gathered: Path) -> None:
    table = build("comparison", gathered, published=PUBLISHED)
    assert not table.rows
    assert "nothing to compare" in table.notes[0]


def test_pairs_of_eta_and_alpha_among_the_methods_are_a_map(tmp_path: Path) -> None:
    pairs = [f"sphere@eta={eta}@alpha={alpha}" for eta in (0.3, 0.5) for alpha in (0.5, 0.7)]
    scope = made_up_study.study(methods=["alphaedit", *pairs], seeds=[0, 1], checkpoints=[20, 40])
    gather(made_up_study.make_results(tmp_path, scope), scope, tmp_path / "tables")
    tried = load(tmp_path / "tables", "sensitivity_summary")
    assert set(tried["method"]) == {"sphere"}
    assert len(tried) == 9
    means = load(tmp_path / "tables", "editing_summary").query(
        "dataset == 'counterfact' and edits == 40 and metric_family == 'accuracy' and metric == 'efficacy'"
    )
    by_method = means.groupby("method")["mean"].mean()
    cells = tried.set_index(["eta", "alpha"])["efficacy"]
    assert cells[0.3, 0.7] == pytest.approx(by_method["sphere@eta=0.3@alpha=0.7"])
    assert {cells[0.0, alpha] for alpha in (0, 0.5, 0.7)} == {cells[0.5, 0.0]} == {by_method["alphaedit"]}
    table = build("sensitivity", tmp_path / "tables", published=PUBLISHED)
    assert [row.label for row in table.rows] == ["η = 0", "η = 0.3", "η = 0.5"]
    assert [column.header for column in table.columns] == ["α = 0", "α = 0.5", "α = 0.7"]


def test_layers_are_shown_with_the_effect_of_their_set(gathered: Path, tmp_path: Path) -> None:
    table = build("layers", gathered)
    assert [(row.section, row.label) for row in table.rows] == [
        ("tiny", "0, 1"), ("tiny", "1, 2, edited in this study"), ("tiny", "3, 4"),
    ]  # fmt: skip
    assert [row.cells["effect"].value for row in table.rows] == pytest.approx([0.15, 0.25, 0.05])
    assert [row.cells["efficacy"].value for row in table.rows] == [100, 75, 50]
    assert table.rows[1].cells["score"].value == pytest.approx(100 * 3 / (1 / 0.75 + 1 / 0.5 + 1 / 0.9))
    assert table.notes[0] == "tiny: 8 held-out facts, traced (layers in a window: 2) and edited by AlphaEdit."
    scope = made_up_study.study(datasets=["counterfact"], methods=["memit"], seeds=[0], checkpoints=[20])
    root = made_up_study.make_results(tmp_path, scope)
    for path in (root / "tiny" / "locate").iterdir():
        path.unlink()
    gather(root, scope, root / "tables")
    assert build("layers", root / "tables").notes == ["No layers were located."]


def test_the_gain_from_the_projection_is_taken_seed_by_seed(gathered: Path) -> None:
    table = build("plug_and_play", gathered, published=PUBLISHED)
    assert [(row.section, row.label) for row in table.rows] == [
        ("tiny, CounterFact (accuracy)", "AlphaEdit"), ("tiny, zsRE (token accuracy)", "AlphaEdit"),
    ]  # fmt: skip
    last = load(gathered, "editing_summary").query(
        "dataset == 'zsre' and metric_family == 'token_accuracy' and metric == 'efficacy' and edits == 100"
    )
    scores = 100 * last.pivot_table(index="seed", columns="method", values="mean")
    gains = scores["sphere"] - scores["alphaedit"]
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    cells = table.rows[1].cells
    assert cells["efficacy_without"].value == pytest.approx(scores["alphaedit"].mean())
    assert cells["efficacy_gain"].value == pytest.approx(gains.mean())
    assert cells["efficacy_gain"].half_width == pytest.approx((high - low) / 2)


def test_the_map_over_eta_and_alpha_has_the_papers_value_beside_the_papers_model(tmp_path: Path) -> None:
    scope = made_up_study.study(models=["llama3-8b-instruct", "tiny"], seeds=[0], checkpoints=[20], methods=["sphere"])
    made_up_study.make_results(tmp_path, scope)
    tried = pd.DataFrame({"trial": [0, 1], "eta": [0.5, 0.5], "alpha": [0.5, 0.7], "efficacy": [0.25, nan]})
    for model in scope["models"]:
        made_up_study.save(tried, tmp_path / model / "sensitivity" / "sphere.csv")
    gather(tmp_path, scope, tmp_path / "tables")
    llama, tiny = build("sensitivity", tmp_path / "tables", published=PUBLISHED).rows
    assert (llama.section, llama.label) == ("llama3-8b-instruct, SPHERE", "η = 0.5")
    assert (llama.cells["alpha_0.5"].value, llama.cells["alpha_0.5"].paper) == (25, 21.77)
    assert isnan(llama.cells["alpha_0.7"].value)
    assert isnan(tiny.cells["alpha_0.5"].paper)


def test_the_paper_is_left_out_where_it_is_not_given(gathered: Path) -> None:
    assert not any("arXiv" in note for note in build("table1", gathered).notes)


def test_tables_of_a_study_with_next_to_nothing(tmp_path: Path) -> None:
    scope = made_up_study.study(datasets=["counterfact"], methods=["memit"], seeds=[0], checkpoints=[20])
    root = made_up_study.make_results(tmp_path, scope)
    for name in ("energy.csv", "timing.csv", "general_ability.csv", "training.csv"):
        for path in root.rglob(name):
            path.unlink()
    gather(root, scope, root / "tables")
    write_all(root / "tables", root / "out", published=PUBLISHED)
    for name in TABLES:
        well_formed((root / "out" / f"{name}.tex").read_text())


def test_latex_compiles(gathered: Path, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.fail("pdflatex is not installed: .ci/packages says what it is in", pytrace=False)
    write_all(gathered, tmp_path, published=PUBLISHED)
    body = "\n".join(f"\\input{{{name}.tex}}\\clearpage" for name in TABLES)
    document = f"\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "all.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
