"""Facts of the real world: the tables, what a model knows of them, and the records made of that."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ModelMaker, TokenizerMaker

from sphere.config.facts import FACTS_TASKS, FactsSettings
from sphere.data.facts.build import COLUMNS, build
from sphere.data.facts.records import divide, first, records
from sphere.data.facts.tables import FOLDER, Fact, Relation, counted, drawn, load_relations
from sphere.data.facts.tasks import TASK_FAMILIES, task_items
from sphere.data.records import load_requests
from sphere.errors import InputError
from sphere.evaluation.knowledge import ask
from sphere.evaluation.metrics import evaluate_requests

TINY: dict[str, Any] = {
    "source": "made up",
    "statements": ["{} lies in", "the town {} is in", "Go to {}, in", "All of {} is in"],
    "questions": ["Where is {}?", "In which country is {}?"],
    "openers": ["The people of {} are"],
    "facts": {"France": ["Paris", "Lyon", "Nice"], "Italy": ["Rome", "Milan", "Turin"]},
}


@pytest.fixture(scope="module")
def relations() -> dict[str, Relation]:
    return load_relations()


def tables(folder: Path, **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return folder


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_there_are_many_facts_of_many_kinds(relations: dict[str, Relation]) -> None:
    facts = [fact for relation in relations.values() for fact in relation.facts]
    assert len(relations) >= 12
    assert len(facts) >= 3000
    assert max(Counter(fact.relation for fact in facts).values()) <= len(facts) / 2
    assert len({fact.subject for fact in facts}) == len(facts)
    for relation in relations.values():
        assert relation.file.source
        fewest = 1 if relation.one_to_one else 5
        assert all(len(subjects) >= fewest for subjects in relation.file.facts.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"statements": ["{} lies in"]}, "statements: tuple should have at least 4 items"),
        ({"statements": ["It lies in", *TINY["statements"][1:]]}, "statements: 'It lies in': write {} once"),
        ({"openers": ["The people of {} are "]}, "openers: 'The people of {} are ': write {} once, and no space"),
        ({"facts": {**TINY["facts"], "Spain": ["Madrid"]}}, "facts: 'Spain' is no other fact's object: add a subject"),
        ({"facts": {"France": ["Paris", "Rome"], "Italy": ["Rome", "Milan"]}}, "the subject 'Rome' stands twice: keep"),
        ({"aliases": {"Frankreich": ["FR"]}}, "aliases: 'Frankreich' is no object: did you mean 'France'?"),
        ({"fact": {}}, "unknown key 'fact': did you mean 'facts'?"),
        ({"two_hop": {"twon": ["It is in {}"]}}, "two_hop: 'twon' is no relation: did you mean 'town'?"),
        ({"two_hop": {"town": ["It is in"]}}, "two_hop.town: 'It is in': write {} once"),
        ({"inverse": ["It is in"]}, "inverse: 'It is in': write {} once"),
        ({"inverse": ["{} has"]}, "facts: 'France' has 3 subjects: keep one, or drop inverse"),
        (
            {"subject_aliases": {"Pariss": ["Lutetia"]}},
            "subject_aliases: 'Pariss' is no subject: did you mean 'Paris'?",
        ),
        ({"subject_aliases": {"Paris": ["Rome"]}}, "the subject 'Rome' stands twice: keep one"),
    ],
)
def test_a_mistake_in_a_table_names_file_and_entry(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = tables(tmp_path / "tables", town={**TINY, **change})
    found = message(lambda: load_relations(folder=folder))
    assert found.startswith(str(folder / "town.yaml"))
    assert said in found


def test_a_subject_of_two_relations_and_an_unknown_relation(tmp_path: Path) -> None:
    folder = tables(tmp_path / "tables", first=TINY, second=TINY)
    said = message(lambda: load_relations(folder=folder))
    assert "the subject 'Paris' stands twice, and in first.yaml: keep one" in said
    assert list(load_relations(["second"], folder=folder)) == ["second"]
    assert "'secnd' is no relation: did you mean 'second'?" in message(lambda: load_relations(["secnd"], folder=folder))


def some_facts() -> list[Fact]:
    several = [Fact("r", f"s{key}{i}", f"o{key}") for key, n in (("a", 9), ("b", 4), ("c", 6)) for i in range(n)]
    return several + [Fact("single", f"t{i}", "only") for i in range(9)]


def test_facts_are_edited_held_out_or_kept_and_never_two_of_it() -> None:
    found = divide(some_facts(), neighbours=4, held_out=2, rng=np.random.default_rng(0))
    kept = [fact for own in found.kept.values() for fact in own]
    assert {key: len(own) for key, own in found.kept.items()} == {
        ("r", "oa"): 4, ("r", "ob"): 4, ("r", "oc"): 4, ("single", "only"): 4,
    }  # fmt: skip
    assert len(found.held_out) == 2
    assert len(found.edited) == (9 - 4) + (6 - 4) - 2, "an object without another one in its relation is never edited"
    every = [*found.edited, *found.held_out, *kept]
    assert len(set(every)) == len(every)
    assert divide(some_facts()[::-1], neighbours=4, held_out=2, rng=np.random.default_rng(0)) == found
    assert divide(some_facts(), neighbours=4, held_out=2, rng=np.random.default_rng(1)) != found
    said = message(lambda: divide(some_facts(), neighbours=4, held_out=9, rng=np.random.default_rng(0)))
    assert "28 facts are known (19 r, 9 single), of which 7 have 4 neighbours" in said


def test_half_of_a_one_to_one_relation_is_kept() -> None:
    single = [Fact("pairs", f"s{i}", f"o{i}") for i in range(9)]
    found = divide(
        [*some_facts(), *single], neighbours=4, held_out=0, rng=np.random.default_rng(0), one_to_one=["pairs"]
    )
    counts = counted(fact for own in found.kept.values() for fact in own), counted(found.edited)
    assert [each["pairs"] for each in counts] == [5, 4]
    assert counts[0]["r"] == 12


def test_questions_behind_an_edit_of_other_names_and_of_the_inverse(tmp_path: Path) -> None:
    """The inverse has one answer: no two edits have the same new object, which is one that nobody's edit takes away."""
    pairs = {f"Capital {i}": [f"State {i}"] for i in range(8)}
    inverse = ["{} is the capital of", "from {} one rules"]
    other = {"State 1": ["The First"]}
    state = {**TINY, "facts": pairs, "inverse": inverse, "subject_aliases": other, "aliases": {"Capital 2": ["C2"]}}
    named = {**TINY, "subject_aliases": {"Paris": ["Lutetia", "the City of Light"]}, "aliases": {"Italy": ["Italia"]}}
    relations = load_relations(folder=tables(tmp_path / "t", state=state, town=named))
    facts = [fact for fact in relations["state"].facts if int(fact.subject[-1]) < 4]
    kept = {("state", fact.object): (fact,) for fact in relations["state"].facts if fact not in facts}
    counterfact, zsre = records(facts, kept, relations, rng=np.random.default_rng(0))
    new = [each["requested_rewrite"]["target_new"]["str"] for each in counterfact]
    assert sorted(new) == [f"Capital {i}" for i in range(4, 8)]
    assert new == [each["answers"][0] for each in zsre]
    assert [each["neighborhood_prompts"] for each in counterfact] == [[]] * 4
    assert counterfact[0]["portability"] == [
        {"kind": "inverse", "prompt": f"{new[0]} is the capital of", "target": "State 0"},
        {"kind": "inverse", "prompt": f"From {new[0]} one rules", "target": "State 0"},
    ]
    alias, *answered = counterfact[1]["portability"]
    assert alias == {"kind": "subject_alias", "prompt": "The First lies in", "target": new[1]}
    assert [each["aliases"] for each in answered] == [["The First"]] * 2
    kept = {("town", "Italy"): relations["town"].facts[3:]}
    (record,), _ = records(relations["town"].facts[:1], kept, relations, rng=np.random.default_rng(0))
    assert record["portability"] == [
        {"kind": "subject_alias", "prompt": f"{name} lies in", "target": "Italy", "aliases": ["Italia"]}
        for name in ("Lutetia", "The City of Light")
    ]
    (tmp_path / "records.json").write_text(json.dumps([*counterfact, record]), encoding="utf-8")
    assert len(load_requests(tmp_path / "records.json").requests) == 5


def test_the_shipped_one_to_one_relations_are_usable_in_both_schemas(
    relations: dict[str, Relation], tmp_path: Path
) -> None:
    """A symbol of two letters must be found where it stands in a question, not inside of another word."""
    names = [name for name, relation in relations.items() if relation.one_to_one]
    assert names == ["element_symbol", "state_capital"]
    facts = [fact for name in names for fact in relations[name].facts]
    found = divide(facts, neighbours=5, held_out=0, rng=np.random.default_rng(0), one_to_one=names)
    for name, content in zip(("counterfact", "zsre"), records(found.edited, found.kept, relations,
                                                              rng=np.random.default_rng(1)), strict=True):  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        loaded = load_requests(tmp_path / f"{name}.json")
        assert not loaded.skipped
        for request in loaded.requests:
            around = f" {request.prompt} "[request.subject_start : request.subject_end + 2]
            assert not around[0].isalpha()
            assert not around[-1].isalpha()


def test_no_relation_is_more_than_half_of_what_is_edited() -> None:
    facts = [Fact("large", f"l{key}{i}", f"o{key}") for key in "ab" for i in range(40)]
    facts += [Fact("small", f"s{key}{i}", f"p{key}") for key in "cd" for i in range(9)]
    found = divide(facts, neighbours=5, held_out=0, rng=np.random.default_rng(0))
    assert Counter(fact.relation for fact in found.edited) == {"large": 8, "small": 8}
    alone = divide(facts[:80], neighbours=5, held_out=0, rng=np.random.default_rng(0))
    assert len(alone.edited) == 70, "where there is no other relation, all of it is edited"


def test_records_are_usable_in_both_schemas(relations: dict[str, Relation], tmp_path: Path) -> None:
    facts = [fact for name in ("landmark", "field") for fact in relations[name].facts]
    found = divide(facts, neighbours=5, held_out=20, rng=np.random.default_rng(0))
    counterfact, zsre = records(found.edited, found.kept, relations, rng=np.random.default_rng(1))
    assert len(counterfact) == len(zsre) == len(found.edited)
    for name, content in (("counterfact", counterfact), ("zsre", zsre)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        loaded = load_requests(tmp_path / f"{name}.json")
        assert not loaded.skipped
        edited = {fact.subject for fact in (*found.edited, *found.held_out)}
        for fact, request in zip(found.edited, loaded.requests, strict=True):
            assert request.subject == fact.subject
            assert request.target_new != fact.object
            assert request.target_new in relations[fact.relation].file.facts
            if name == "counterfact":
                assert request.target_true == fact.object
                assert len(request.paraphrases) == 3
                assert len(request.neighborhood) == 5
                assert all(probe.target == fact.object for probe in request.neighborhood)
            assert not any(subject in probe.prompt.split() for probe in request.neighborhood for subject in edited)
    assert [r["requested_rewrite"]["target_new"]["str"] for r in counterfact] == [r["answers"][0] for r in zsre]


def test_two_hops_go_over_a_fact_that_nobody_edits(tmp_path: Path) -> None:
    town = {**TINY, "two_hop": {"continent": ["The country of {} is in"]}}
    land = {**TINY, "facts": {"Europe": ["Sweden", "Spain"], "Asia": ["Italy", "France"]}}
    relations = load_relations(folder=tables(tmp_path / "t", town=town, continent=land))
    edited = Fact("town", "Lyon", "France")
    kept = {("town", key): (Fact("town", f"Old {key}", key),) for key in ("France", "Italy", "Spain")}
    kept["continent", "Europe"] = (Fact("continent", "Spain", "Europe"),)  # Italy's may be edited
    seen = {}
    for seed in range(8):
        (record,), _ = records([edited], kept, relations, rng=np.random.default_rng(seed))
        seen[record["requested_rewrite"]["target_new"]["str"]] = record.get("portability")
    land["facts"] = {"Europe": ["France", "Spain"], "Asia": ["Italy", "India"]}
    same = load_relations(folder=tables(tmp_path / "t", continent=land))
    fewer = {key: own for key, own in kept.items() if key != ("town", "Italy")}
    (record,), _ = records([edited], fewer, same, rng=np.random.default_rng(0))
    assert record["requested_rewrite"]["target_new"]["str"] == "Spain"
    assert "portability" not in record, "the true object has the same answer"
    assert seen == {
        "Spain": [{"kind": "two_hop", "prompt": "The country of Lyon is in", "target": "Europe"}],
        "Italy": None,
    }


def test_the_shipped_two_hops_lead_to_continents(relations: dict[str, Relation]) -> None:
    countries = {fact.subject for fact in relations["continent"].facts}
    hops = {name: relation for name, relation in relations.items() if relation.file.two_hop}
    assert set(hops) == {"city", "landmark", "company_country"}
    for relation in hops.values():
        assert set(relation.file.two_hop) == {"continent"}
        named = [each for each in relation.file.facts if {each, each.removeprefix("the ")} & countries]
        assert len(named) > len(relation.file.facts) / 2


def taught(model: Any, tokenizer: Any, texts: list[tuple[str, str]]) -> None:
    """Train a tiny model until it gives each object behind its text."""
    model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = torch.zeros(())
        for prompt, target in texts:
            ids = torch.tensor([tokenizer(f"{prompt} {target}")["input_ids"]])
            start = len(tokenizer(prompt)["input_ids"])
            logits = model(ids).logits[0, start - 1 : -1]
            loss = loss + torch.nn.functional.cross_entropy(logits, ids[0, start:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.requires_grad_(False)


def test_a_fact_is_known_by_its_rewrite_prompt_and_most_paraphrases(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """A model that is taught Paris in every wording, Lyon in the first alone, Nice in the first and one by an alias."""
    own = load_relations(folder=tables(tmp_path / "t", town={**TINY, "aliases": {"France": ["Gaul"]}}))
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    town = own["town"]
    lessons = [(town.statement("Paris", i), "France") for i in range(4)]
    lessons += [(town.statement("Lyon"), "France"), *((town.statement("Lyon", i), "Rome") for i in (1, 2, 3))]
    lessons += [(town.statement("Nice"), "France"), (town.statement("Nice", 1), "Gaul")]
    lessons += [(town.statement("Nice", i), "Rome") for i in (2, 3)]
    lessons += [(town.statement(subject), "France") for subject in ("Rome", "Milan", "Turin")]
    taught(model, tokenizer, lessons)
    found = ask(model, tokenizer, own, town.facts, share=0.3).set_index("subject")
    assert found["rewrite"].to_dict() == {
        "Paris": True, "Lyon": True, "Nice": True, "Rome": False, "Milan": False, "Turin": False,
    }  # fmt: skip
    assert found.loc["Paris", "paraphrases"] == 1
    assert found.loc["Lyon", "paraphrases"] == 0
    assert found.loc["Nice", "paraphrases"] == pytest.approx(1 / 3)
    assert np.isnan(found.loc["Rome", "paraphrases"])
    assert found.index[found["known"]].to_list() == ["Paris", "Nice"]


def known_table(path: Path, relations: dict[str, Relation], names: tuple[str, ...]) -> Path:
    facts = [fact for name in names for fact in relations[name].facts]
    frame = pd.DataFrame([(f.relation, f.subject, f.object, True, 1.0, True) for f in facts],
                         columns=["relation", "subject", "object", "rewrite", "paraphrases", "known"])  # fmt: skip
    frame.loc[::7, ["rewrite", "known"]] = False
    frame.to_csv(path, index=False)
    return path


def test_the_files_of_a_study(relations: dict[str, Relation], tmp_path: Path) -> None:
    names = ("landmark", "dish")
    known = known_table(tmp_path / "known.csv", relations, names)
    settings = FactsSettings(relations=names, held_out=10)
    build([known], settings, tmp_path / "facts", edits=50)
    table = pd.read_csv(tmp_path / "facts" / "relations.csv")
    assert tuple(table.columns) == COLUMNS
    assert (table["edited"] + table["held_out"] + table["kept"] <= table["known"]).all()
    assert (table["known"] < table["facts"]).all()
    files = (tmp_path / "facts" / f"{name}counterfact.json" for name in ("", "tuning_"))
    edited, tuning = (load_requests(path).requests for path in files)
    assert len(edited) == table["edited"].sum() == 50
    assert table["edited"].max() <= 25
    assert set(FACTS_TASKS) == set(TASK_FAMILIES) == {p.stem for p in (tmp_path / "facts" / "tasks").glob("*.yaml")}
    assert len(tuning) == 10
    assert not {r.subject for r in edited} & {r.subject for r in tuning}
    assert not {r.case_id for r in edited} & {r.case_id for r in tuning}
    before = {path.name: path.read_bytes() for path in (tmp_path / "facts").glob("*.json")}
    parts = [tmp_path / f"known{part}.csv" for part in range(2)]
    for part, path in enumerate(parts):
        pd.read_csv(known, keep_default_na=False)[part::2].to_csv(path, index=False)
    build(parts, settings, tmp_path / "again", edits=50)
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / name / "known.csv") for name in ("facts", "again")))
    assert all((tmp_path / "again" / name).read_bytes() == data for name, data in before.items())
    said = message(lambda: build([known], settings, tmp_path / "more", edits=5000))
    assert said.startswith("the study edits 5000 facts; the model knows ")
    assert "landmark" in said
    assert "lower checkpoints" in said


def test_some_facts_of_each_relation_are_asked(relations: dict[str, Relation]) -> None:
    rng = np.random.default_rng
    some = drawn(relations, 30, rng(1))
    counts = counted(some)
    assert counts == {name: min(30, len(relation.facts)) for name, relation in relations.items()}
    assert len(set(some)) == len(some)
    assert drawn(relations, 30, rng(1)) == some != drawn(relations, 30, rng(2))
    assert len(drawn(relations, None, rng(1))) == sum(len(relation.facts) for relation in relations.values())


def test_the_first_facts_are_balanced() -> None:
    facts = [Fact("a", str(i), "x") for i in range(6)] + [Fact("b", "s", "y"), Fact("c", "t", "z")]
    assert [fact.relation for fact in first(facts, 4)] == ["a", "a", "b", "c"]
    assert [fact.relation for fact in first(facts, 6)] == ["a", "a", "a", "b", "c", "a"]  # no others are left
    assert len(first(facts, 8)) == 8


def test_task_items_have_one_right_answer(relations: dict[str, Relation]) -> None:
    kept = relations["landmark"].facts[:30]
    tasks = task_items(kept, relations, np.random.default_rng(1))
    assert (
        tasks
        == task_items(kept, relations, np.random.default_rng(1))
        != task_items(kept, relations, np.random.default_rng(2))
    )
    for items in tasks.values():
        assert len({item["text"] for item in items}) == len(items) >= 30
        for item in items:
            assert item["choices"][item["label"]] == item["answer"]
            assert len(set(item["choices"])) == len(item["choices"]) in (2, 4)
    answers = {fact.subject: fact.object for fact in kept}
    for item in tasks["facts_open_qa"]:
        (subject,) = {each for each in answers if f" {each}" in item["text"]}
        assert answers[subject] == item["answer"]
    for item in tasks["facts_reasoning"]:
        first, second = (int(word) for word in item["text"].split() if word.isdigit())
        assert int(item["answer"]) == first + second
    for item in tasks["facts_closed_qa"]:
        passage, question = item["text"].split("\n")
        (sentence,) = (each for each in passage.split(". ") if each.split()[0] in question)
        assert item["answer"] in sentence


def test_known_neighbours_are_specific_before_editing(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """By construction: what the model gives behind the rewrite prompt is what accuracy specificity asks."""
    own = load_relations(folder=tables(tmp_path / "t", town=TINY))
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    town = own["town"]
    taught(model, tokenizer, [(town.statement(fact.subject, i), fact.object) for fact in town.facts for i in range(4)])
    found = ask(model, tokenizer, own, drawn(own, None, np.random.default_rng(0)))
    assert found["known"].all()
    found.to_csv(tmp_path / "known.csv", index=False)
    settings = FactsSettings(tables=tmp_path / "t", neighbours=2, held_out=0)
    build([tmp_path / "known.csv"], settings, tmp_path / "facts", edits=2)
    frame = evaluate_requests(model, tokenizer, load_requests(tmp_path / "facts" / "counterfact.json").requests)
    assert (frame["accuracy_specificity"] == 1).all()
    assert (frame["accuracy_efficacy"] == 0).all()


def test_the_tables_written_by_a_command_say_so() -> None:
    for name in ("city", "us_city", "continent"):
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# Written by python -m sphere.data.facts.geonames.")
        assert "CC BY 4.0" in text


def test_a_study_that_edits_other_records_has_the_facts_for_its_tasks_alone(
    relations: dict[str, Relation], tmp_path: Path
) -> None:
    names = ("landmark", "dish")
    known = known_table(tmp_path / "known.csv", relations, names)
    build([known], FactsSettings(relations=names, held_out=0), tmp_path / "facts", edits=0)
    assert json.loads((tmp_path / "facts" / "counterfact.json").read_text(encoding="utf-8")) == []
    assert any((tmp_path / "facts" / "tasks").iterdir())
