"""The smoke study from start to report, what it leaves, and what makes which part of it again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sphere.files import digest
from sphere.report.claims import TESTS
from sphere.report.figures import FIGURES
from sphere.report.tables import SUMMARIES, TABLES
from sphere.report.verdicts import VERDICTS
from sphere.study.provenance import verify

from .conftest import Run, Workplace

METHODS, DATASETS, CHECKPOINTS = ("memit", "sphere"), ("counterfact", "zsre"), (4, 8)
STREAMS = [(dataset, method) for dataset in DATASETS for method in METHODS]
REPORTING = {"gather": 1, "explore": 1, "claims": 1, "figures": 1, "tables": 1, "provenance": 1, "report": 1}


def folder(place: Workplace, dataset: str, method: str, edits: int) -> Path:
    return place.study / "smoke" / dataset / method / "seed0" / f"edits{edits}"


def test_the_study_runs_from_nothing_to_its_report(whole_study: tuple[Workplace, Run]) -> None:
    place, run = whole_study
    assert run.status == 0, run.output[-4000:]
    report = (place.study / "report.html").read_text(encoding="utf-8")
    for name in ("energy_accuracy.svg", "general_ability.svg", "table1.html", "claims.html"):
        assert name in report
    assert "100%" in run.output, "progress is not shown where there is no terminal"


def test_every_rule_ran(whole_study: tuple[Workplace, Run], workplace: Workplace) -> None:
    _, run = whole_study
    listed = {line.strip() for line in workplace.snakemake("--list-rules").output.splitlines()}
    unused = {"download", "fetch_dataset", "fetch_model", "extract_corpus", "plan"}  # of studies that download
    unused |= {"held_out"}  # of a corpus
    unused |= {"convert_gguf", "known_facts", "facts", "targets"}  # of a real model and its facts
    assert {rule for rule in listed if rule.isidentifier()} - {"all"} - unused == set(run.jobs)


def test_every_table_figure_and_summary_is_there(finished: Workplace) -> None:
    for name in TABLES:
        for ending in ("csv", "md", "tex", "html"):
            assert (finished.study / "tables" / f"{name}.{ending}").stat().st_size > 0, name
    for name in FIGURES:
        for ending in ("pdf", "svg", "png"):
            assert (finished.study / "figures" / f"{name}.{ending}").stat().st_size > 0, name
    found = {path.stem for path in (finished.study / "tables").glob("*.csv")}
    assert found == {*TABLES, *SUMMARIES, "neuron_cosine"}


def test_no_file_was_missed(finished: Workplace) -> None:
    assert pd.read_csv(finished.study / "tables" / "missing.csv").empty


def test_every_record_of_every_stream_is_evaluated(finished: Workplace) -> None:
    for dataset, method in STREAMS:
        stream = json.loads((finished.study / "streams" / dataset / "seed0.json").read_text())
        order = [record["case_id"] for record in stream]
        for edits in CHECKPOINTS:
            frame = pd.read_csv(folder(finished, dataset, method, edits) / "editing.csv")
            assert frame["case_id"].tolist() == order[:edits]
            shares = frame.filter(regex="^(success|accuracy|token_accuracy|generation)_")
            values = shares.to_numpy().ravel()
            values = values[~pd.isna(values)]
            assert len(values)
            assert ((values >= 0) & (values <= 1)).all()
    for dataset in DATASETS:
        before = pd.read_csv(finished.study / "smoke" / dataset / "pre-edited" / "editing.csv")
        assert len(before) == CHECKPOINTS[-1]


def test_the_tiny_model_knows_facts_and_edits_change_it(finished: Workplace) -> None:
    training = pd.read_csv(finished.study / "smoke" / "training.csv")
    assert training["loss"].iloc[-1] < training["loss"].iloc[0]
    assert training["fact_accuracy"].iloc[-1] > 0.5
    before = pd.read_csv(finished.study / "smoke" / "counterfact" / "pre-edited" / "editing.csv")
    after = pd.read_csv(folder(finished, "counterfact", "sphere", 4) / "editing.csv")
    assert after["success_efficacy"].mean() > before["success_efficacy"].mean()


def test_energy_is_measured_in_every_batch_and_layer(finished: Workplace) -> None:
    for dataset, method in STREAMS:
        rows = [pd.read_csv(folder(finished, dataset, method, edits) / "energy.csv") for edits in CHECKPOINTS]
        energy = pd.concat(rows)
        assert list(zip(energy["batch"], energy["layer"], strict=True)) == [
            (batch, layer) for batch in (0, 1, 2) for layer in (0, 1)
        ]
        for _, layer in energy.groupby("layer"):
            change = layer["he_sum"].diff().iloc[1:]
            assert change.tolist() == pytest.approx(layer["delta_he"].iloc[1:].tolist(), abs=1e-6)
        edited = energy[energy["batch"] > 0]
        assert (edited["bound"] <= edited["perturbation"]).all()
        assert (edited["bound"] <= edited["unit_perturbation"]).all()
        assert energy.loc[energy["batch"] == 0, ["bound", "perturbation", "unit_perturbation"]].isna().all(axis=None)


def test_general_ability_is_scored_on_every_task(finished: Workplace) -> None:
    places = [folder(finished, *stream, edits) for stream in STREAMS for edits in CHECKPOINTS]
    for place in [*places, finished.study / "smoke" / "pre-edited"]:
        frame = pd.read_csv(place / "general_ability.csv")
        assert sorted(frame["family"]) == ["closed_domain_qa", "nli", "open_domain_qa", "reasoning"]
        assert (frame["n"] == 10).all()
        assert frame["value"].between(0, 1).all()


def test_tuning_spends_the_same_on_every_method_and_its_choice_is_used(finished: Workplace) -> None:
    for method in METHODS:
        trials = pd.read_csv(finished.study / "smoke" / "tuning" / f"{method}.csv")
        chosen = json.loads((finished.study / "smoke" / "tuning" / f"{method}.json").read_text())
        assert len(trials) == 2
        best = trials.loc[trials["score"].idxmax()]
        assert all(best[key] == value for key, value in chosen["hyperparameters"].items())
        tuned = finished.study / "smoke" / "tuning" / f"{method}.json"
        state = verify(folder(finished, "zsre", method, 4) / "state.safetensors")
        assert state["ancestors"][f"../../../../tuning/{method}.json"] == digest(tuned)


def test_claims_all_have_a_verdict(finished: Workplace) -> None:
    claims = pd.read_csv(finished.study / "claims" / "claims.csv")
    assert set(claims["id"]) == set(TESTS)
    assert set(claims["verdict"]) <= {*VERDICTS}


def test_table1_is_of_the_last_checkpoint(finished: Workplace) -> None:
    summary = pd.read_csv(finished.study / "tables" / "editing_by_method.csv")
    cell = summary[
        (summary["dataset"] == "counterfact")
        & (summary["method"] == "memit")
        & (summary["edits"] == 8)
        & (summary["metric_family"] == "accuracy")
        & (summary["metric"] == "efficacy")
    ]
    records = pd.read_csv(folder(finished, "counterfact", "memit", 8) / "editing.csv")
    assert math.isclose(cell["mean"].item(), records["accuracy_efficacy"].mean())


def test_every_artefact_carries_provenance_that_matches(finished: Workplace) -> None:
    aside = ("logs", "benchmarks", "provenance", "model", "tasks")
    files = [path for path in finished.study.rglob("[!.]*") if path.is_file() and not set(path.parts) & set(aside)]
    files += [finished.study / "smoke" / "model", finished.study / "world" / "tasks"]
    files.remove(finished.study / "report.html")
    assert len(files) > 100
    for path in files:
        verify(path)


def test_a_second_run_does_nothing(reconfigured: Workplace) -> None:
    run = reconfigured.snakemake("--dry-run")
    assert run.status == 0
    assert "Nothing to be done" in run.output


CHANGES: list[tuple[str, str, str, dict[str, int]]] = [
    (  # one method's hyperparameter: that method's tuning and streams, no other's
        "models/smoke.yaml",
        "sphere: {nullspace_fraction: 0.9, alpha: 0.5}",
        "sphere: {nullspace_fraction: 0.9, alpha: 0.6}",
        {"tune": 1, "sensitivity": 1, "edit": 2, "measure": 2, "neurons": 1},
    ),
    (  # the search of one method
        "models/smoke.yaml",
        "memit: {second_moment_weight: [5, 50]}",
        "memit: {second_moment_weight: [5, 40]}",
        {"tune": 1, "edit": 2, "measure": 2, "neurons": 1},
    ),
    (  # how values are found: every edit, nothing before them
        "models/smoke.yaml",
        "steps: 20,",
        "steps: 21,",
        {"locate": 1, "tune": 2, "sensitivity": 1, "edit": 4, "measure": 4, "neurons": 1},
    ),
    (  # the contexts are an input of every edit
        "models/smoke.yaml",
        "contexts: {count: 2,",
        "contexts: {count: 3,",
        {"contexts": 1, "tune": 2, "sensitivity": 1, "edit": 4, "measure": 4, "neurons": 1},
    ),
    (  # general ability alone
        "studies/smoke.yaml",
        "limit: 10",
        "limit: 5",
        {"measure": 4, "ability_pre_edited": 1},
    ),
    (  # what evaluation generates
        "studies/smoke.yaml",
        "  length: 24\n",
        "  length: 30\n",
        {"measure": 4, "evaluate_pre_edited": 2, "evaluate_in_context": 2},
    ),
    (  # how long an answer may be
        "studies/smoke.yaml",
        "tokens: 8",
        "tokens: 9",
        {"measure": 4, "evaluate_pre_edited": 2, "evaluate_in_context": 2},
    ),
    ("studies/smoke.yaml", "locate: {records: 4}", "locate: {records: 3}", {"locate": 1}),
    ("studies/smoke.yaml", "passages: 8", "passages: 7", {"measure": 4, "neutral_pre_edited": 1}),
    (  # what a job asks of a machine changes no result
        "models/smoke.yaml",
        "device: cpu\n",
        "device: cpu\nresources: {mem_mb: 2500}\n",
        {},
    ),
    ("studies/smoke.yaml", "description: Every rule", "description: Each rule", {}),
]


@pytest.mark.parametrize(("file", "old", "new", "expected"), CHANGES, ids=[new for _, _, new, _ in CHANGES])
def test_a_change_makes_again_exactly_what_depends_on_it(
    reconfigured: Workplace, file: str, old: str, new: str, expected: dict[str, int]
) -> None:
    reconfigured.change(file, old, new)
    run = reconfigured.snakemake("--dry-run")
    assert run.status == 0, run.output[-2000:]
    # a setting that changes no result is still shown in the report
    assert run.jobs == (expected | REPORTING if expected else {"provenance": 1, "report": 1})


def test_a_second_seed_leaves_the_first_alone(reconfigured: Workplace) -> None:
    reconfigured.change("studies/smoke.yaml", "seeds: [0]", "seeds: [0, 1]")
    run = reconfigured.snakemake("--dry-run")
    assert run.jobs == REPORTING | {"stream": 2, "edit": 4, "measure": 4, "neurons": 1}
    assert "seed 0" not in run.output


def test_an_edit_made_again_has_the_same_bits(copied: Callable[[], Workplace]) -> None:
    place = copied()
    segment = folder(place, "counterfact", "sphere", 8)
    names = ("state.safetensors", "energy.csv")
    before = [digest(segment / name) for name in names]
    target = (segment / "energy.csv").relative_to(place.folder)
    run = place.snakemake("--force", str(target))
    assert run.status == 0, run.output[-2000:]
    assert run.jobs == {"edit": 1}
    assert [digest(segment / name) for name in names] == before


def test_a_statistic_that_was_tampered_with_is_refused(copied: Callable[[], Workplace]) -> None:
    place = copied()
    contexts = place.study / "smoke" / "contexts.json"
    contexts.write_text(contexts.read_text(encoding="utf-8").replace(". ", ", ", 1), encoding="utf-8")
    target = folder(place, "counterfact", "memit", 4) / "energy.csv"
    run = place.snakemake("--force", str(target.relative_to(place.folder)))
    assert run.status == 1
    words = " ".join(run.output.split())
    assert "refused: results/smoke/smoke/contexts.json is " in words
    assert "its provenance describes" in words
    assert "Traceback" not in run.output
