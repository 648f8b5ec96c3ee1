"""Facts of the real world in a study: a model that knows too few of them, and target values of the unedited model."""

from __future__ import annotations

import json
from collections.abc import Callable

import pandas as pd
import pytest
import yaml

from sphere.files import digest, read_json, write_json
from sphere.study.provenance import sidecar

from .conftest import Workplace

RELATION = {
    "source": "made up",
    "statements": ["{} is", "We say that {} is", "They say that {} is", "You know that {} is"],
    "questions": ["What is {}?", "Tell me what {} is?"],
    "openers": ["Here {}"],
}


@pytest.fixture
def place(copied: Callable[[], Workplace]) -> Workplace:
    """The smoke study, its CounterFact records made of facts that its model knows."""
    place = copied()
    place.change("studies/smoke.yaml", "counterfact: {source: world}", "counterfact: {source: facts}")
    place.change("studies/smoke.yaml", "threads: 1", "values: {weights: pretrained}\nthreads: 1")
    return place


def test_a_model_that_knows_too_few_facts_is_told_so(place: Workplace) -> None:
    place.change("studies/smoke.yaml", "threads: 1", "facts: {relations: [color], asked: 40, held_out: 6}\nthreads: 1")
    run = place.snakemake("results/smoke/facts/counterfact.json")
    assert run.status == 1
    assert run.jobs["known_facts"] == 2
    (line,) = (place.study / "logs" / "facts.log").read_text(encoding="utf-8").splitlines()
    assert line.startswith("error: ")
    assert "facts are known (" in line
    assert "lower facts.held_out (6) or facts.neighbours" in line


def test_known_facts_are_edited_with_target_values_found_once(place: Workplace) -> None:
    """The tiny model knows nothing, so the table of what it knows is replaced by one that says it knows all."""
    place.change("studies/smoke.yaml", "threads: 1", "facts: {tables: tables, held_out: 6, neighbours: 2}\nthreads: 1")
    names = [f"{first}{second}" for first in "ABCDE" for second in "abcde"]
    facts = {key: names[i::2] for i, key in enumerate(("red", "blue"))}
    (place.folder / "tables").mkdir()
    (place.folder / "tables" / "colour.yaml").write_text(yaml.safe_dump({**RELATION, "facts": facts}))
    parts = [f"results/smoke/facts/known{part}.csv" for part in range(2)]
    run = place.snakemake(*parts)
    assert run.status == 0, run.output[-4000:]
    tables = {place.folder / part: pd.read_csv(place.folder / part) for part in parts}
    assert sorted(pd.concat(tables.values())["subject"]) == sorted(names)
    for path, known in tables.items():
        known.assign(rewrite=True, paraphrases=1.0, known=True).to_csv(path, index=False)
        write_json(read_json(sidecar(path)) | {"sha256": digest(path)}, sidecar(path))
    stream = "results/smoke/smoke/counterfact/memit/seed0/edits8/editing.csv"
    run = place.snakemake(stream)
    assert run.status == 0, run.output[-4000:]
    assert run.jobs["targets"] == 2, "one for the stream's records, one for those that tuning edits"
    records = json.loads((place.study / "facts" / "counterfact.json").read_text(encoding="utf-8"))
    assert len(records) == 8
    assert {record["case_id"] for record in records} == set(pd.read_csv(place.folder / stream)["case_id"])
    timing = pd.read_csv((place.folder / stream).with_name("timing.csv"))
    assert timing.loc[timing["phase"] == "targets", "seconds"].sum() < timing["seconds"].sum() / 2
