"""The fictional world: the datasets' own schemas, nothing of the tests in the training text, all of it from a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sphere.config.world import WorldSettings
from sphere.data.records import load_requests
from sphere.data.world.build import build
from sphere.data.world.people import RELATIONS, create
from sphere.data.world.tasks import TASK_FAMILIES
from sphere.errors import InputError
from sphere.files import digest

SETTINGS = WorldSettings(
    people=64, tuning_people=16, qa_people=48, edits_per_person=2, documents=2000, task_items=20, seed=3
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build(SETTINGS, folder)
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def keys(record: Any) -> Any:
    """A record's shape: its keys, nested, with list items by their first."""
    if isinstance(record, dict):
        return {key: keys(value) for key, value in record.items()}
    return [keys(record[0])] if isinstance(record, list) and record else type(record).__name__


def test_the_world_follows_from_its_seed(world: Path, tmp_path: Path) -> None:
    build(SETTINGS, tmp_path / "again")
    assert digest(tmp_path / "again") == digest(world)
    build(SETTINGS.model_copy(update={"seed": 4}), tmp_path / "other")
    files = [path.relative_to(world) for path in world.rglob("*.json*")]
    assert all(digest(tmp_path / "other" / name) != digest(world / name) for name in files)


TARGET = {"str": "str", "id": "str"}
REWRITE = {"prompt": "str", "relation_id": "str", "target_new": TARGET, "target_true": TARGET, "subject": "str"}
PROMPTS = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
SCHEMAS = {
    "counterfact": {"case_id": "int", "pararel_idx": "int", "requested_rewrite": REWRITE}
    | {name: ["str"] for name in PROMPTS},
    "zsre": {name: "str" for name in ("subject", "src", "pred", "rephrase", "alt", "loc", "loc_ans", "cond")}
    | {"answers": ["str"]},
}
"""The shapes of the published records."""


@pytest.mark.parametrize("name", SCHEMAS)
def test_records_have_the_dataset_s_own_schema(name: str, world: Path) -> None:
    for record in read(world / f"{name}.json"):
        record.pop("portability", None)  # a key of ours
        assert keys(record) == SCHEMAS[name]


def test_questions_behind_an_edit_are_of_the_last_name_and_of_facts_that_must_stay(world: Path) -> None:
    made = create(SETTINGS)
    people = {person.name: person for person in made.people}
    for request in load_requests(world / "counterfact.json").requests:
        person = people[request.subject]
        kept = [i for i in range(len(RELATIONS)) if i not in made.edited_relations[person.index]]
        assert kept
        assert [(kind, each.target) for kind, each in request.portability] == [
            ("subject_alias", request.target_new), *(("unchanged", person.fact(i)) for i in kept)
        ]  # fmt: skip
        (_, alias), *unchanged = request.portability
        assert alias.prompt == request.prompt.replace(person.name, person.last_name)
        assert [each.last_name for each in made.people].count(person.last_name) == 1
        assert all(person.name in each.prompt for _, each in unchanged)
        assert request.prompt not in [each.prompt for _, each in request.portability]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_those_of_the_published_records(name: str, sample_data: Path) -> None:
    real = read(sample_data / f"{name}_sample.json")[0]
    real.pop("neighborhood_samples", None)  # an addition of multi-CounterFact's
    assert keys(real) == SCHEMAS[name]


@pytest.mark.parametrize("name", ["counterfact", "zsre", "tuning_counterfact", "tuning_zsre"])
def test_every_record_is_usable(name: str, world: Path) -> None:
    loaded = load_requests(world / f"{name}.json")
    assert not loaded.skipped
    people = SETTINGS.tuning_people if name.startswith("tuning") else SETTINGS.people
    assert len(loaded.requests) == people * SETTINGS.edits_per_person
    assert len({request.prompt for request in loaded.requests}) == len(loaded.requests)
    assert len({request.case_id for request in loaded.requests}) == len(loaded.requests)
    first = [request.subject for request in loaded.requests[:people]]
    assert len(set(first)) == people, "the stream passes through everybody before it comes back"


def test_edits_go_against_the_world_and_their_probes_along_with_it(world: Path) -> None:
    facts = {f"{probe['prompt']}": probe["target"] for probe in read(world / "probes.json")["rewrite"]}
    edited = {r.prompt for name in ("", "tuning_") for r in load_requests(world / f"{name}counterfact.json").requests}
    paraphrased = {probe["prompt"]: probe["target"] for probe in read(world / "probes.json")["paraphrase"]}
    for request in load_requests(world / "counterfact.json", references=world / "references.json").requests:
        assert facts[request.prompt] == request.target_true != request.target_new
        assert request.references
        for probe in request.neighborhood:
            assert (facts | paraphrased)[probe.prompt] == probe.target
            assert probe.prompt not in edited, "a neighbour's fact is never edited"


def test_test_tuning_and_qa_people_are_apart(world: Path) -> None:
    test, tuning = (
        {request.subject for request in load_requests(world / f"{name}counterfact.json").requests}
        for name in ("", "tuning_")
    )
    asked = {person.name for person in create(SETTINGS).with_role("qa")}
    assert not test & tuning
    assert not (test | tuning) & asked
    questions = [json.loads(line)["text"] for line in (world / "tasks/world_open_qa.jsonl").read_text().splitlines()]
    assert all(any(name in question for name in asked) for question in questions)


def test_no_test_item_stands_in_the_corpus(world: Path) -> None:
    corpus = (world / "corpus.txt").read_text(encoding="utf-8")
    assert len(corpus.split("\n\n")) == SETTINGS.documents
    for task in TASK_FAMILIES:
        items = [json.loads(line) for line in (world / f"tasks/{task}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert len(items) == SETTINGS.task_items
        assert len({item["text"] for item in items}) == len(items)
        for item in items:
            assert item["text"] not in corpus
            assert item["choices"][item["label"]] == item["answer"]
            assert len(set(item["choices"])) == len(item["choices"])
        spec = yaml.safe_load((world / f"tasks/{task}.yaml").read_text(encoding="utf-8"))
        assert (world / "tasks" / spec["dataset_kwargs"]["data_files"]["test"]).is_file()


def test_the_corpus_states_true_facts_only(world: Path) -> None:
    """No edited object ever follows its own rewrite prompt in the training text."""
    corpus = (world / "corpus.txt").read_text(encoding="utf-8")
    told = 0
    for request in load_requests(world / "counterfact.json").requests:
        assert f"{request.prompt} {request.target_new}." not in corpus
        told += f"{request.prompt} {request.target_true}." in corpus
    assert told > 0


def test_names_are_told_apart_by_their_last_word() -> None:
    people = create(SETTINGS).people
    last = [person.name.split()[-1] for person in people]
    assert len(set(last)) == len(people)
    objects = {word.lower() for relation in RELATIONS for word in relation.objects}
    assert not objects & {name.lower() for name in last}


def test_too_small_a_world_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"raise world\.people"):
        build(WorldSettings(people=2, tuning_people=0, qa_people=1, documents=10, task_items=1), tmp_path)
    with pytest.raises(InputError, match=r"world\.task_items"):
        build(WorldSettings(people=48, tuning_people=16, qa_people=16, documents=10, task_items=700), tmp_path)
