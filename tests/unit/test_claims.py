"""Claims: verdicts on studies whose answers are known, and honesty about what a study cannot tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import made_up_study
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sphere.errors import InputError
from sphere.evaluation.neurons import gather_neurons
from sphere.report.claims import TESTS, check_claims
from sphere.report.claims.controls import OURS
from sphere.report.claims.evidence import Evidence, Part, UntestableError, judge, pooled
from sphere.report.claims.hypotheses import FEWEST_METHODS
from sphere.report.tables import gather, load
from sphere.report.tables.intervals import over_seeds
from sphere.report.tables.layout import METRICS
from sphere.report.tables.trajectories import FEWEST_CHECKPOINTS, RUN
from sphere.report.verdicts import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, TOO_FEW, TREND, VACUOUS, measured, signed

PUBLISHED = Path(__file__).parents[2] / "config" / "published"
MADE_UP = {"C1": TREND, "C2": NOT_TESTED}
"""The made-up study's verdicts that are not `reproduced`: its accuracy falls at its own pace, under five methods."""


def make_tables(root: Path, **changes: Any) -> Path:
    """Gathered tables of a made-up study, neurons included."""
    scope = made_up_study.study(
        **{
            "methods": ["memit", "memit+sphere", "memit-seq", "alphaedit", "sphere"],
            "datasets": ["counterfact"],
            **changes,
        }
    )
    made_up_study.make_results(root, scope)
    gather(root, scope, root / "tables")
    original, edited = made_up_study.weights()
    names = {"model": "tiny", "dataset": "counterfact", "edits": 100}
    streams = [
        ({**names, "method": method, "seed": seed}, {0: original + (1 + seed / 10) * (weight - original)})
        for method, weight in edited.items()
        for seed in scope["seeds"]
    ]
    gather_neurons(root / "tables", {"tiny": {0: original}}, streams)
    return root / "tables"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tables(tmp_path_factory.mktemp("study"))


def verdicts(tables: Path, out: Path) -> dict[str, tuple[str, str]]:
    found = check_claims(tables, PUBLISHED, out)
    return {row["id"]: (row["verdict"], row["reason"]) for row in found.to_dict("records")}


def test_a_study_that_behaves_as_the_paper_says(tables: Path, tmp_path: Path) -> None:
    found = verdicts(tables, tmp_path)
    assert list(found) == [f"C{i}" for i in range(1, 11)]
    assert found.pop("C9") == (NOT_TESTED, "Rotation (control) was not run")
    assert found.pop("C10") == (NOT_TESTED, "no method was run both with and without scatter")
    assert {name: verdict for name, (verdict, _) in found.items() if verdict != REPRODUCED} == MADE_UP
    written = pd.read_csv(tmp_path / "claims.csv")
    assert list(written["verdict"]) == [TREND, NOT_TESTED] + [REPRODUCED] * 6 + [NOT_TESTED] * 2
    assert set(written["n_seeds"][:8]) == {3}
    shown = (tmp_path / "claims.md").read_text()
    assert shown.count("\n| C") == 10
    assert shown.count("(ours, not the paper's)") == 2


def test_every_claim_of_the_paper_has_a_test() -> None:
    assert set(pd.read_csv(PUBLISHED / "claims.csv")["id"]) == set(TESTS)


def test_c4_is_the_paired_difference_to_the_best_baseline(tables: Path, tmp_path: Path) -> None:
    claims = check_claims(tables, PUBLISHED, tmp_path).set_index("id")
    last = load(tables, "editing_summary").query("edits == 100 and metric_family == 'accuracy'")
    wide = 100 * last.pivot_table(index=["seed", "metric"], columns="method", values="mean")
    gains = (wide["sphere"] - wide["alphaedit"]).groupby("seed").mean()  # AlphaEdit is the best here on every metric
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    row = claims.loc["C4"]
    assert (row["effect"], row["ci_low"], row["ci_high"]) == pytest.approx((gains.mean(), low, high))
    detail = pd.read_csv(tmp_path / "claims_detail.csv").query("id == 'C4'")
    assert list(detail["part"])[:-1] == [
        f"tiny, counterfact, {metric}, against alphaedit" for metric in ("efficacy", "generalization", "specificity")
    ]


def test_one_order_gets_verdicts_from_its_records(tmp_path: Path) -> None:
    tables = make_tables(tmp_path, seeds=[4])
    found = {name: each for name, each in verdicts(tables, tmp_path).items() if name not in OURS}
    claims = pd.read_csv(tmp_path / "claims.csv").set_index("id").loc[list(found)]
    assert {name: verdict for name, (verdict, _) in found.items() if verdict != REPRODUCED} == MADE_UP
    assert all("not over orders" in found[name][1] for name in ("C4", "C5", "C7", "C8"))
    kinds = {name: f"bootstrap over {unit}" for name, unit in (("C5", "items"), ("C7", "batches"), ("C8", "layers"))}
    rest = dict.fromkeys(("C1", "C2", "C4", "C6"), "bootstrap over records")
    assert claims["ci_kind"].drop("C3").to_dict() == {**kinds, **rest}
    assert (claims["n_seeds"] == 1).all()
    assert (claims["ci_low"] <= claims["effect"]).drop("C3").all()
    assert (claims["ci_high"] >= claims["effect"]).drop("C3").all()
    once = (tmp_path / "claims.csv").read_bytes()
    check_claims(tables, PUBLISHED, tmp_path)
    assert (tmp_path / "claims.csv").read_bytes() == once


def test_a_paired_bootstrap_is_narrower_than_one_that_is_not_paired(tmp_path: Path) -> None:
    """Brute force: the same records drawn for both methods, one replicate at a time."""
    tables = make_tables(tmp_path, seeds=[4])
    check_claims(tables, PUBLISHED, tmp_path)
    detail = pd.read_csv(tmp_path / "claims_detail.csv").set_index("part")
    row = detail.loc["tiny, counterfact, efficacy, against alphaedit"]
    last = load(tables, "editing_records").query("edits == 100")
    wide = last.pivot_table(index="case_id", columns="method", values="efficacy")
    gain = 100 * (wide["sphere"] - wide["alphaedit"]).to_numpy()
    rng = np.random.default_rng(5)
    draws = [gain[rng.integers(len(gain), size=len(gain))].mean() for _ in range(2000)]
    assert row["effect"] == pytest.approx(gain.mean())
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=2)
    apart = 1.96 * 100 * np.sqrt((wide["sphere"].var() + wide["alphaedit"].var()) / len(wide))
    assert row["ci_high"] - row["ci_low"] < 2 * apart


def test_one_order_without_records_gets_no_verdict(tmp_path: Path) -> None:
    tables = make_tables(tmp_path, seeds=[0])
    load(tables, "editing_records").iloc[:0].to_csv(tables / "editing_records.csv", index=False)
    found = verdicts(tables, tmp_path)
    claims = pd.read_csv(tmp_path / "claims.csv").set_index("id")
    assert found.pop("C3")[0] == REPRODUCED  # a theorem needs no interval
    assert {verdict for verdict, _ in found.values()} == {NOT_TESTED}
    del found["C9"], found["C10"]
    assert "too few methods" in found.pop("C2")[1]
    assert all("one order" in reason for _, reason in found.values())
    assert claims["effect"][:8].notna().all()
    assert claims["ci_low"].isna().all()


def test_records_of_several_orders_are_not_gathered(tables: Path) -> None:
    assert load(tables, "editing_records").empty


def test_what_a_study_lacks_is_named(tmp_path: Path) -> None:
    tables = make_tables(tmp_path, methods=["memit", "alphaedit"], checkpoints=[20])
    for name in ("timing_summary", "general_ability_summary"):
        load(tables, name).iloc[:0].to_csv(tables / f"{name}.csv", index=False)
    (tables / "neuron_cosine.csv").unlink()
    found = verdicts(tables, tmp_path)
    assert found.pop("C3")[0] == REPRODUCED
    assert {verdict for verdict, _ in found.values()} == {NOT_TESTED}
    reasons = {name: reason for name, (_, reason) in found.items()}
    assert "three checkpoints" in reasons["C1"]
    assert "three methods" in reasons["C2"]
    assert reasons["C4"] == "SPHERE was not run"
    assert reasons["C5"] == "general ability was not measured"
    assert "both with and without" in reasons["C6"]
    assert reasons["C7"] == "no timing of SPHERE"
    assert "cosines" in reasons["C8"]


def test_perplexity_is_no_part_of_a_mean_score(tmp_path: Path) -> None:
    """A perplexity that is high where SPHERE edits, and as high as a share cannot be, changes nothing in C5 and C10."""
    methods = ["memit-seq", "alphaedit", "sphere", "memit-seq+scatter"]
    scope = made_up_study.study(methods=methods, datasets=["zsre"], checkpoints=[20, 60])
    root, tables = made_up_study.make_results(tmp_path, scope), tmp_path / "tables"
    found, rows = [], []
    for _ in range(2):
        gather(root, scope, tables)
        evidence = Evidence.read(tables)
        found.append((TESTS["C5"](evidence), OURS["C10"](evidence)))
        rows.append(len(load(tables, "general_ability_summary")))
        made_up_study.add_perplexity(root, lambda method, _: 1.0 + 9 * ("s" in method))
    assert rows[1] > rows[0]
    assert found[1] == found[0]
    assert "general ability changes by" in found[1][1].reason


def test_a_worse_sphere_is_not_reproduced(tables: Path, tmp_path: Path) -> None:
    """Swap the names of SPHERE and AlphaEdit: every claim in favour of SPHERE has to fail."""
    swapped = tmp_path / "tables"
    swapped.mkdir()
    for path in tables.glob("*.csv"):
        frame = pd.read_csv(path)
        if "method" in frame:
            frame["method"] = frame["method"].replace({"sphere": "alphaedit", "alphaedit": "sphere"})
        frame.to_csv(swapped / path.name, index=False)
    found = verdicts(swapped, tmp_path)
    for name in ("C4", "C5", "C6", "C8"):
        assert found[name][0] == NOT_REPRODUCED, name
    assert "AlphaEdit" in found["C6"][1]
    assert found["C7"][0] == NOT_REPRODUCED  # AlphaEdit projects nothing: 0 % is not 3 to 7 %


def test_a_broken_bound_is_not_reproduced_and_names_the_method(tables: Path) -> None:
    evidence = Evidence.read(tables)
    row = evidence.energy.query("method == 'memit' and batch == 3 and seed == 1").index[0]
    evidence.energy.loc[row, "perturbation"] = 0.5 * evidence.energy.loc[row, "bound"]
    found = TESTS["C3"](evidence)
    assert found.verdict == NOT_REPRODUCED
    assert "fails for 1 of 150 (MEMIT)" in found.reason


def test_the_bound_is_tested_in_its_own_setting_too(tables: Path) -> None:
    evidence = Evidence.read(tables)
    row = evidence.energy.query("method == 'sphere' and batch == 2 and seed == 0").index[0]
    evidence.energy.loc[row, "unit_perturbation"] = 0.5 * evidence.energy.loc[row, "bound"]
    assert "fails for 1 of 150 (SPHERE)" in TESTS["C3"](evidence).reason


def without(evidence: Evidence, method: str, seed: int) -> Evidence:
    """The evidence if one stream had stopped before the last checkpoint."""
    cut = {}
    for name in ("paths", "ability", "neurons"):
        frame = getattr(evidence, name)
        gone = (frame["method"] == method) & (frame["seed"] == seed) & (frame["edits"] == frame["edits"].max())
        cut[name] = frame[~gone]
    return Evidence(**{**vars(evidence), **cut})


def test_streams_that_stopped_are_named_and_a_sphere_that_stopped_is_not_reproduced(tables: Path) -> None:
    whole = Evidence.read(tables)
    baseline, own = without(whole, "memit", 1), without(whole, "sphere", 2)
    for name in ("C4", "C5", "C6", "C8"):
        assert "stopped" not in TESTS[name](whole).reason
        assert "streams that stopped before the last checkpoint: MEMIT (1)" in TESTS[name](baseline).reason
        assert TESTS[name](own).verdict == NOT_REPRODUCED, name
    assert TESTS["C4"](baseline).verdict == REPRODUCED
    assert TESTS["C4"](own).reason.startswith("SPHERE stopped before the last checkpoint; streams that stopped")
    assert "not AlphaEdit" in TESTS["C6"](own).reason


def stopped(evidence: Evidence, method: str) -> Evidence:
    """The evidence if every stream of ``method`` had ended before its first checkpoint."""
    frames = {name: frame[frame["method"] != method] for name, frame in vars(evidence).items() if len(frame)}
    seeds = sorted(set(evidence.paths["seed"]))
    rows = [("tiny", "counterfact", method, seed, 10, 1, "stopped", "not finite") for seed in seeds]
    said = pd.DataFrame(rows, columns=["model", "dataset", "method", "seed", "edits", "batch", "event", "reason"])
    return Evidence(**{**vars(evidence), **frames, "incidents": said})


def test_a_method_that_stopped_in_every_stream_was_run_and_did_not_last(tables: Path) -> None:
    whole = Evidence.read(tables)
    gone = stopped(whole, "sphere")
    for name in ("C4", "C5", "C6", "C8"):
        found = TESTS[name](gone)
        assert found.verdict == NOT_REPRODUCED, name
        assert "streams that stopped before the last checkpoint: SPHERE (3)" in found.reason
    half = TESTS["C6"](stopped(whole, "memit+sphere"))
    assert half.verdict == NOT_REPRODUCED
    assert "1 of 2 baselines by an interval above 0; not MEMIT" in half.reason
    assert "stopped before the last checkpoint: MEMIT (3)" in TESTS["C2"](stopped(whole, "memit")).reason


def test_a_baseline_that_stopped_is_not_the_best(tables: Path) -> None:
    found = TESTS["C4"](without(Evidence.read(tables), "alphaedit", 0))
    assert {part.name.rpartition(" ")[2] for part in found.parts} == {"memit-seq"}
    assert {len(part.by_seed) for part in found.parts} == {3}


def coupled(evidence: Evidence, sign: int = 1) -> Evidence:
    """The evidence if every metric had fallen exactly as far as HE moved, up or (sign -1) down."""
    change = sign * evidence.paths["he_change"]
    paths = evidence.paths.assign(he=100 + change, he_change=change)
    return Evidence(**{**vars(evidence), "paths": paths.assign(**{m: 90 - change.abs() for m in METRICS})})


@pytest.mark.parametrize("sign", [1, -1])
def test_c1_needs_accuracy_to_fall_at_the_steps_that_move_energy(tables: Path, sign: int) -> None:
    """Energy that falls counts as energy that moves, as under AlphaEdit in the paper."""
    evidence = Evidence.read(tables)
    assert TESTS["C1"](evidence).verdict == TREND
    found = TESTS["C1"](coupled(evidence, sign))
    assert found.verdict == REPRODUCED
    assert "of 60 steps between checkpoints, ranked within streams, r_s is −1" in found.reason
    direct = [part for part in found.parts if part.statistic == "r_s of HE and metric"]
    assert all(np.sign(part.interval.mean) == -sign for part in direct)


def test_c1_says_when_its_points_are_too_few(tables: Path) -> None:
    evidence = coupled(Evidence.read(tables))
    edits = sorted(evidence.paths["edits"].unique())[: FEWEST_CHECKPOINTS - 1]
    short = evidence.paths[evidence.paths["edits"].isin(edits)]
    found = TESTS["C1"](Evidence(**{**vars(evidence), "paths": short}))
    assert found.verdict == TOO_FEW
    assert found.reason.startswith("a stream has 4 checkpoints")
    assert found.whole.interval.mean == pytest.approx(-1), "the effect is given all the same"


def test_c1_says_whether_energy_tells_more_than_the_weights_from_step_to_step(tables: Path) -> None:
    """Where accuracy falls with the weights' steps alone, little of energy's is left once theirs are held."""
    evidence = Evidence.read(tables)
    rng = np.random.default_rng(1)
    moved = rng.permuted(np.tile(np.arange(1.0, 6.0), (len(evidence.paths) // 5, 1)), axis=1).ravel()
    paths = evidence.paths.sort_values([*RUN, "edits"]).assign(he=100.0)
    for name, each in {"weight_path": moved, "he_change": moved + rng.normal(scale=2, size=len(moved))}.items():
        paths[name] = pd.Series(np.abs(each), index=paths.index).groupby([paths[key] for key in RUN]).cumsum()
    for metric in METRICS:
        paths[metric] = 100 - paths["weight_path"] + 0.5 * rng.normal(size=len(paths))
    found = TESTS["C1"](Evidence(**{**vars(evidence), "paths": paths}))
    mean = {part.name: part.interval.mean for part in found.parts if part.name.startswith("all, ")}
    assert mean["all, steps of energy"] < -0.2
    assert mean["all, steps of weights, energy and place in the stream held"] < -0.7
    left = mean["all, steps of energy, weights and place in the stream held"]
    assert abs(left) < 0.5 * abs(mean["all, steps of energy"])
    assert f"place in its stream held {signed(left)} [" in found.reason

    unknown = TESTS["C1"](Evidence(**{**vars(evidence), "paths": paths.assign(weight_path=np.nan)}))
    assert "held" not in unknown.reason


def test_c2_needs_many_methods(tables: Path) -> None:
    evidence = Evidence.read(tables)
    found = TESTS["C2"](evidence)
    assert found.verdict == NOT_TESTED
    assert found.reason.startswith("too few methods: 5")
    assert re.search(r"of the methods' means r_s is .* −1, p = 0\.\d+, 5 methods", found.reason)
    twice = {
        name: pd.concat([frame, frame.assign(method=frame["method"] + "@other")])
        for name, frame in vars(evidence).items()
        if name in ("paths", "batches", "energy")
    }
    assert twice["paths"]["method"].nunique() == FEWEST_METHODS
    whole = Evidence(**{**vars(evidence), **twice})
    assert TESTS["C2"](whole).verdict == REPRODUCED


def test_c2_says_whether_energy_tells_more_than_how_far_the_weights_moved(tables: Path) -> None:
    """Of fourteen methods whose weights decide what is left, and whose energy follows the weights with some noise."""
    evidence = Evidence.read(tables)
    rng = np.random.default_rng(0)
    moved = np.arange(1.0, 15.0)
    size = {f"m{i}": (each, each + rng.normal(scale=3)) for i, each in enumerate(moved)}
    first = evidence.paths["method"].iloc[0]

    def of(frame: pd.DataFrame) -> pd.DataFrame:
        own = frame[frame["method"] == first]
        return pd.concat([own.assign(method=name) for name in size])

    paths, batches = of(evidence.paths), of(evidence.batches)
    paths["efficacy"] = 100 - paths["method"].map(lambda name: size[name][0])
    batches["step"] = batches["method"].map(lambda name: max(size[name][1], 0.01))
    paths["weight_path"] = paths["method"].map(lambda name: size[name][0])
    reason = TESTS["C2"](Evidence(**{**vars(evidence), "paths": paths, "batches": batches})).reason
    assert "14 methods (the weights' path, the sum of ||dW|| / ||W||: −1, p = 0;" in reason
    assert "energy's with the weights' path held: unknown" in reason


def test_a_bound_that_no_method_comes_near_is_vacuous(tables: Path) -> None:
    evidence = Evidence.read(tables)
    far = evidence.energy.assign(bound=evidence.energy["bound"] / 1000)
    found = TESTS["C3"](Evidence(**{**vars(evidence), "energy": far}))
    assert found.verdict == VACUOUS
    assert re.search(
        r"all 150 updates and tells nothing: even under \S+, which comes nearest, outputs move 2,\d00 times",
        found.reason,
    )
    near = far.assign(bound=far["bound"].where(far["method"] != "sphere", evidence.energy["bound"]))
    assert TESTS["C3"](Evidence(**{**vars(evidence), "energy": near})).verdict == REPRODUCED, "one comes near"


def test_what_was_measured_is_said_as_far_as_it_is_known() -> None:
    row = {"statistic": "r_s", "effect": -0.5, "unit": float("nan"), "ci_low": -0.7, "ci_high": -0.3,
           "ci_kind": "t over seeds", "n_seeds": 3}  # fmt: skip
    assert measured(row) == "r_s: −0.5 [−0.7, −0.3], t over seeds, n = 3"
    assert measured({**row, "unit": "points", "ci_low": float("nan")}) == "r_s: −0.5 points"
    assert measured({**row, "effect": float("nan"), "ci_low": float("nan")}) == "r_s"


@pytest.mark.parametrize(
    ("values", "limits", "verdict"),
    [
        ([1.0, 1.1, 1.2], {"above": 0}, REPRODUCED),
        ([1.0, -0.5, 1.2], {"above": 0}, NOT_REPRODUCED),
        ([-1.0, -1.1, -1.2], {"above": 0}, NOT_REPRODUCED),
        ([5.0, 5.1, 4.9], {"above": 3, "below": 7}, REPRODUCED),
        ([5.0, 9.1, 4.9], {"above": 3, "below": 7}, NOT_REPRODUCED),
        ([1.0], {"above": 0}, NOT_TESTED),
        ([], {"above": 0}, NOT_TESTED),
    ],
)
def test_judge(values: list[float], limits: dict[str, float], verdict: str) -> None:
    assert judge(over_seeds(values), "shown", "not shown", **limits)[0] == verdict


def test_the_reason_begins_with_what_it_means_and_tells_the_opposite_from_the_unknown() -> None:
    said = [judge(over_seeds(values), "it gains", "it is not shown to gain", above=0)[1]
            for values in ([1.0, 1.1, 1.2], [1.0, -0.5, 1.2], [-1.0, -1.1, -1.2])]  # fmt: skip
    assert said == [
        "it gains: the interval lies above 0",
        "it is not shown to gain: the interval does not lie wholly above 0",
        "it is not shown to gain: none of the interval lies above 0",
    ]


def test_pooling_compares_the_same_parts_in_every_seed() -> None:
    parts = [
        Part("a", "", "", {0: 1.0, 1: 2.0}),
        Part("b", "", "", {0: 3.0, 1: 4.0}),
        Part("c", "", "", {0: 100.0, 1: np.nan}),  # undefined in one seed: left out, not mixed in
    ]
    assert pooled("all", "", "", parts).by_seed == {0: 2.0, 1: 3.0}
    assert pooled("all", "", "", parts).left_out == ("c",)
    assert pooled("all", "", "", [parts[2], Part("d", "", "", {0: 2.0})]).by_seed == {0: 51.0}
    assert pooled("all", "", "", []).by_seed == {}


def test_a_replicate_without_a_number_takes_no_part_out_of_the_others() -> None:
    parts = [Part("a", "", "", {0: -0.9, -1: -0.8, -2: -0.7}), Part("b", "", "", {0: 0.6, -1: 0.4, -2: float("nan")})]
    whole = pooled("all", "", "", parts)
    assert whole.left_out == ()
    assert whole.by_seed == pytest.approx({0: -0.15, -1: -0.2, -2: -0.7})


def test_a_claim_without_a_test_is_refused(tables: Path, tmp_path: Path) -> None:
    (tmp_path / "claims.csv").write_text("id,claim,statistic,source\nC11,something,else,paper\n")
    with pytest.raises(InputError, match="C11"):
        check_claims(tables, tmp_path, tmp_path)


# ---------------------------------------------------------------------------------------- our own claims, on controls

CONTROLS = ["memit", "memit+sphere", "memit-seq", "alphaedit", "sphere", "rotate", "memit-seq+scatter"]


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tables(tmp_path_factory.mktemp("controls"), methods=CONTROLS)


def test_our_claims_say_what_the_controls_did(controlled: Path, tmp_path: Path) -> None:
    """The rotation loses less than its twin here at a constant energy; moved energy does as well as the method."""
    claims = check_claims(controlled, PUBLISHED, tmp_path).set_index("id")
    assert list(claims["source"]) == ["paper"] * 8 + ["ours"] * 2
    paths = Evidence.read(controlled).paths.set_index(["method", "seed", "edits"])
    mean = paths[["efficacy", "generalization", "specificity"]].mean(axis=1)
    lost = {name: mean.xs(20, level="edits")[name] - mean.xs(100, level="edits")[name] for name in CONTROLS}
    gained = lost["memit-seq"] - lost["rotate"]
    low, high = stats.t.interval(0.95, 2, gained.mean(), stats.sem(gained))
    row = claims.loc["C9"]
    assert (row["effect"], row["ci_low"], row["ci_high"]) == pytest.approx((gained.mean(), low, high))
    assert row["verdict"] == "holds"
    assert "HE moves by 0 % under Rotation (control) and " in row["reason"]
    moved = mean.xs(100, level="edits")
    harm = moved["memit-seq+scatter"] - moved["memit-seq"]
    assert claims.loc["C10", "effect"] == pytest.approx(harm.mean())
    assert claims.loc["C10", "verdict"] == "does not hold"
    assert re.search(r"HE moves by \d\d\.\d % instead of \d\.\d+ % under MEMIT-seq", claims.loc["C10", "reason"])
    assert "general ability changes by" in claims.loc["C10", "reason"]


def test_c9_needs_a_rotation_that_ends_higher_and_compares_the_same_checkpoints(controlled: Path) -> None:
    whole = Evidence.read(controlled)
    found = TESTS["C9"](whole)
    assert found.verdict == REPRODUCED
    paths = whole.paths
    lower = paths.assign(**{m: paths[m].where(paths["method"] != "rotate", paths[m] - 50) for m in METRICS})
    weak = TESTS["C9"](Evidence(**{**vars(whole), "paths": lower}))
    assert weak.whole.by_seed == pytest.approx(found.whole.by_seed)
    assert weak.verdict == NOT_REPRODUCED
    assert weak.reason.startswith("the editor that cannot move the energy loses less, but has less to lose")
    ended = (paths["method"] == "rotate") & (paths["edits"] == paths["edits"].max())
    short = Evidence(**{**vars(whole), "paths": paths[~ended]})
    before = Evidence(**{**vars(whole), "paths": paths[paths["edits"] < paths["edits"].max()]})
    if before.paths["edits"].nunique() > 1:
        assert TESTS["C9"](short).whole.by_seed == pytest.approx(TESTS["C9"](before).whole.by_seed)
        assert "stopped before the last checkpoint: Rotation (control) (3)" in TESTS["C9"](short).reason


def test_c7_is_not_tested_where_target_values_were_found_before_the_stream(tables: Path) -> None:
    whole = Evidence.read(tables)
    assert TESTS["C7"](whole).verdict == REPRODUCED
    looked_up = whole.timing.assign(seconds=whole.timing["seconds"].where(whole.timing["phase"] != "targets", 1e-6))
    found = TESTS["C7"](Evidence(**{**vars(whole), "timing": looked_up}))
    assert found.verdict == NOT_TESTED
    assert "values.weights: pretrained" in found.reason


def test_controls_are_no_evidence_of_the_paper_s_claims(tables: Path, controlled: Path, tmp_path: Path) -> None:
    one, other = check_claims(tables, PUBLISHED, tmp_path), check_claims(controlled, PUBLISHED, tmp_path)
    pd.testing.assert_frame_equal(one[:8], other[:8])


def test_our_claims_name_what_a_study_lacks(controlled: Path) -> None:
    whole = Evidence.read(controlled)
    short = Evidence(**{**vars(whole), "paths": whole.paths[whole.paths["edits"] == 100]})
    with pytest.raises(UntestableError, match="needs two checkpoints or more of both"):
        TESTS["C9"](short)
    alone = whole.paths[whole.paths["method"] != "memit-seq"]
    for name, message in (("C9", "MEMIT-seq was not run"), ("C10", "both with and without scatter")):
        with pytest.raises(UntestableError, match=message):
            TESTS[name](Evidence(**{**vars(whole), "paths": alone}))


def test_our_claims_have_verdicts_from_the_records_of_one_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sphere.report.claims.replicates.REPLICATES", 40)
    tables = make_tables(tmp_path, seeds=[4], methods=["memit-seq", "rotate", "memit-seq+scatter"])
    claims = check_claims(tables, PUBLISHED, tmp_path).set_index("id").loc[["C9", "C10"]]
    assert set(claims["ci_kind"]) == {"bootstrap over records"}
    assert list(claims["verdict"]) == ["holds", "does not hold"]
    assert (claims["ci_low"] < claims["effect"]).all()
    assert "the rotation itself loses" in claims.loc["C9", "reason"]
