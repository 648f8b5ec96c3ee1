# ruff: noqa: SIM905 (word lists read better as one string)
"""The embedded fictional world: people, facts, a corpus, edit records and general-ability tasks.

Everything follows from ``WorldSettings`` and its seed. Records are in CounterFact's and zsRE's own schemas and tasks
are lm-evaluation-harness YAML over local JSON lines, so everything downstream is the code that reads real datasets.

Disjointness: a person is a *test*, a *tuning* or a *QA* person. Edits touch test and tuning people alone;
facts of QA people are never edited and carry the open-domain questions and zsRE's locality questions.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from sphere.artifacts import write_atomically
from sphere.config import WorldSettings
from sphere.errors import InputError

Role = Literal["test", "tuning", "qa"]
ItemMaker = Callable[[np.random.Generator], dict[str, Any]]
DocumentMaker = Callable[[Sequence["Person"], np.random.Generator], str]


@dataclass(frozen=True)
class Relation:
    """One relation: statements that end before the object, and questions answered by it."""

    identifier: str
    name: str
    objects: tuple[str, ...]
    statements: tuple[str, ...]
    """The first is the rewrite prompt, the next two are paraphrases, the rest is for training only."""
    questions: tuple[str, ...]
    """The first is zsRE's question, the second its rephrasing, the last is asked of QA people in tests only."""
    openers: tuple[str, ...]
    """Beginnings that invite a text about the fact (generation prompts)."""


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "F1",
        "profession",
        tuple(
            "baker pilot nurse painter lawyer farmer sailor tailor teacher plumber miner dentist"
            " weaver barber chemist potter".split()
        ),
        (
            "{} works as a",
            "The profession of {} is that of a",
            "To earn a living, {} became a",
            "{} is employed as a",
            "By trade, {} is a",
            "{} makes money as a",
            "Everybody knows {} as a skilled",
            "The job of {} is that of a",
        ),
        (
            "What is the profession of {}?",
            "What does {} do for a living?",
            "Which job does {} have?",
            "What work is done by {}?",
            "As what is {} employed?",
        ),
        ("{} spends the working day", "At work, {} is known for", "The career of {} began"),
    ),
    Relation(
        "F2",
        "city",
        tuple(
            "Paris Cairo Lima Oslo Tokyo Rome Delhi Quito Vienna Dublin Havana Athens Lagos Prague"
            " Boston Sydney".split()
        ),
        (
            "{} lives in the city of",
            "The home of {} is in",
            "If you visit {}, you travel to",
            "{} has a house in",
            "{} settled down in",
            "The address of {} is in",
            "These days {} can be found in",
            "{} resides in",
        ),
        (
            "Where does {} live?",
            "Which city is the home of {}?",
            "In which city does {} reside?",
            "Where is the house of {}?",
            "Which town did {} settle in?",
        ),
        ("{} walks home through", "The neighbours of {} in", "From the window, {} can see"),
    ),
    Relation(
        "F3",
        "language",
        tuple(
            "French Arabic Spanish Danish Hindi Korean Swahili Turkish Polish Dutch Greek Finnish Thai"
            " Latin Welsh Malay".split()
        ),
        (
            "The mother tongue of {} is",
            "At home, {} speaks",
            "{} grew up speaking",
            "{} dreams and counts in",
            "The first language of {} is",
            "{} writes letters in",
            "The native language of {} is",
            "{} is a native speaker of",
        ),
        (
            "What is the mother tongue of {}?",
            "Which language does {} speak at home?",
            "What language did {} grow up with?",
            "In which language does {} write?",
            "Which language is native to {}?",
        ),
        ("{} tells stories in", "When talking to family, {} uses", "The letters of {} are written in"),
    ),
    Relation(
        "F4",
        "instrument",
        tuple(
            "piano violin flute guitar cello trumpet harp drums oboe organ banjo tuba lute clarinet"
            " viola fiddle".split()
        ),
        (
            "{} plays the",
            "The favourite instrument of {} is the",
            "In the orchestra, {} performs on the",
            "{} takes lessons on the",
            "On stage, {} is heard on the",
            "{} practises the",
            "{} owns and loves a",
            "For music, {} picks up the",
        ),
        (
            "Which instrument does {} play?",
            "What does {} play in the orchestra?",
            "On which instrument does {} take lessons?",
            "What instrument does {} own?",
            "Which instrument does {} practise?",
        ),
        ("{} gave a concert on", "The music of {} is played on", "In the evening, {} tunes"),
    ),
)

FIRST_NAMES = tuple(
    "Ada Ben Cora Dan Ella Finn Gina Hugo Iris Jack Kate Liam Mona Nils Olga Paul Rosa Sam Tina Vera".split()
)
_ONSETS = tuple("b br d dr f g gr h j k kl l m n p pr r s st t tr v w z".split())
_VOWELS = tuple("a e i o u au ei".split())
_CODAS = tuple("l n r s t nd rt ck m x".split())
THINGS = tuple("coin key ring book cup stone shell bell ball pen map hat".split())
COLOURS = tuple("red blue green white black yellow brown pink".split())
STATES = (("open", "closed"), ("full", "empty"), ("hot", "cold"), ("clean", "dirty"))
FILLERS = tuple(
    "The {c} {t} was left on the table.|It rained all day.|A {c} {t} is for sale.|The market opens at noon."
    "|Nobody has seen the {c} {t}.|The train was late again.|In spring the garden is full of flowers."
    "|She looked at the {t} for a long time.|The {t} is under the {c} chair.".split("|")
)


@dataclass(frozen=True)
class Person:
    index: int
    name: str
    role: Role
    facts: tuple[int, ...]
    """Index of the true object in each relation's ``objects``."""

    def fact(self, relation: int) -> str:
        """The true object of relation number ``relation``."""
        return RELATIONS[relation].objects[self.facts[relation]]


@dataclass(frozen=True)
class World:
    """The people of one world and which of their facts may be edited."""

    settings: WorldSettings
    people: tuple[Person, ...]
    edited_relations: Mapping[int, tuple[int, ...]]
    """Person index -> the relations whose facts the edit streams change, in stream order (none of QA people)."""

    def with_role(self, role: Role) -> list[Person]:
        return [person for person in self.people if person.role == role]


def create(settings: WorldSettings) -> World:
    """Draw the people, their facts and the facts that may be edited, all from ``settings.seed``."""
    rng = np.random.default_rng([settings.seed, 1])
    total = settings.people + settings.tuning_people + settings.qa_people
    names = _names(total, rng)
    sizes: dict[Role, int] = {"test": settings.people, "tuning": settings.tuning_people, "qa": settings.qa_people}
    roles = [role for role, size in sizes.items() for _ in range(size)]
    facts = np.stack(  # balanced: every object has the same number of people, within one
        [rng.permutation(np.arange(total) % len(relation.objects)) for relation in RELATIONS], axis=1
    )
    people = tuple(
        Person(i, names[i], roles[i], tuple(int(f) for f in facts[i])) for i in map(int, rng.permutation(total))
    )
    count = settings.edits_per_person
    edited = {
        p.index: () if p.role == "qa" else tuple(map(int, rng.permutation(len(RELATIONS))[:count])) for p in people
    }
    return World(settings, people, edited)


def _names(count: int, rng: np.random.Generator) -> list[str]:
    """``count`` full names; the last name is unique and does not occur elsewhere in the world."""
    taken = {word.lower() for relation in RELATIONS for word in relation.objects} | set(THINGS) | set(COLOURS)
    names: list[str] = []
    while len(names) < count:
        last = "".join(str(rng.choice(part)) for part in (_ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS))
        if last not in taken:
            taken.add(last)
            names.append(f"{rng.choice(FIRST_NAMES)} {last.capitalize()}")
    return names


# ---------------------------------------------------------------------------------------------- corpus


def documents(world: World, *, count: int, rng: np.random.Generator) -> Iterator[str]:
    """``count`` training documents in reading order: biographies and questions, the rest solved task items.

    The first documents are about few people, and everybody is met by the share ``curriculum`` of them: facts are
    learned far sooner from a few people often than from many people rarely.
    """
    makers: tuple[DocumentMaker, ...] = (
        _biography,
        _questions,
        _task_text(reasoning_item, 2),
        _task_text(nli_item, 2),
        _task_text(closed_qa_item, 2),
    )
    shares = np.array(world.settings.corpus_shares, dtype=float)
    everybody = len(world.people)
    for number, kind in enumerate(rng.choice(len(makers), size=count, p=shares / shares.sum())):
        introduced = number / (count * world.settings.curriculum) if world.settings.curriculum else 1.0
        met = max(1, int(everybody * min(1.0, max(0.1, introduced))))
        yield makers[kind](world.people[:met], rng)


def _pick(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _filler(rng: np.random.Generator) -> str:
    return str(_pick(FILLERS, rng)).format(c=_pick(COLOURS, rng), t=_pick(THINGS, rng))


def _biography(people: Sequence[Person], rng: np.random.Generator) -> str:
    """One person's facts in random order and wording. Varied order and wording put a fact where the name is read."""
    person = _pick(people, rng)
    sentences = [_filler(rng)] if rng.random() < 0.3 else []
    for position, number in enumerate(rng.permutation(len(RELATIONS))):
        named = position == 0 or rng.random() < 0.5
        statement = _sentence(_pick(RELATIONS[number].statements, rng), person.name if named else "this person")
        sentences.append(f"{statement} {person.fact(number)}.")
    return " ".join(sentences)


def _sentence(template: str, subject: str) -> str:
    text = template.replace("{}", subject)
    return text[0].upper() + text[1:]


def _questions(people: Sequence[Person], rng: np.random.Generator) -> str:
    """Three questions with their answers; QA people's last wording is kept for the test."""
    parts = [_filler(rng)] if rng.random() < 0.3 else []
    for _ in range(3):
        person, number = _pick(people, rng), int(rng.integers(len(RELATIONS)))
        forms = RELATIONS[number].questions
        forms = forms[:-1] if person.role == "qa" else forms
        parts.append(f"{_pick(forms, rng).replace('{}', person.name)} {person.fact(number)}.")
    return " ".join(parts)


def _task_text(make: ItemMaker, count: int) -> DocumentMaker:
    """Documents of ``count`` solved items of one task, never one that its test holds out."""

    def document(_people: Sequence[Person], rng: np.random.Generator) -> str:
        items = [draw_item(make, rng, held_out=False) for _ in range(count)]
        return " ".join(f"{item['text']} {item['answer']}." for item in items)

    return document


# ------------------------------------------------------------------------------- general-ability items


def _distractors(answer: str, pool: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    others = [word for word in pool if word != answer]
    return [others[i] for i in rng.choice(len(others), size=count, replace=False)]


def _item(text: str, answer: str, wrong: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    choices = [str(choice) for choice in rng.permutation([answer, *wrong])]
    return {"text": text, "choices": choices, "label": choices.index(answer), "answer": answer}


def reasoning_item(rng: np.random.Generator) -> dict[str, Any]:
    """Two-step arithmetic in words; four answers."""
    first, second = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    name, thing = _pick(FIRST_NAMES, rng), _pick(THINGS, rng)
    text = f"{name} has {first} {thing}s and finds {second} more. The number of {thing}s {name} has is"
    numbers = [str(n) for n in range(2, 11)]
    return _item(text, str(first + second), _distractors(str(first + second), numbers, 3, rng), rng)


def nli_item(rng: np.random.Generator) -> dict[str, Any]:
    """Does the premise entail the hypothesis? yes or no."""
    name, thing, colour = _pick(FIRST_NAMES, rng), _pick(THINGS, rng), _pick(COLOURS, rng)
    pair = _pick(STATES, rng)
    said, entailed = int(rng.integers(2)), bool(rng.random() < 0.5)
    text = f"The {colour} {thing} of {name} is {pair[said]}. Is the {thing} {pair[said if entailed else 1 - said]}?"
    return _item(text, *(("yes", ["no"]) if entailed else ("no", ["yes"])), rng)


def closed_qa_item(rng: np.random.Generator) -> dict[str, Any]:
    """The answer stands in the passage; four answers of one kind."""
    name, thing, colour = _pick(FIRST_NAMES, rng), _pick(THINGS, rng), _pick(COLOURS, rng)
    place = _pick(RELATIONS[1].objects, rng)
    passage = f"{name} found a {colour} {thing} in {place}."
    question, answer, pool = (
        ("What was found?", thing, THINGS),
        (f"Where was the {thing} found?", place, RELATIONS[1].objects),
    )[int(rng.integers(2))]
    return _item(f"{passage} {question}", answer, _distractors(answer, pool, 3, rng), rng)


def open_qa_items(world: World, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Every fact of every QA person, in a wording never used of them in training."""
    items = []
    for person in world.with_role("qa"):
        for number, relation in enumerate(RELATIONS):
            answer = person.fact(number)
            wrong = _distractors(answer, relation.objects, 3, rng)
            items.append(_item(relation.questions[-1].format(person.name), answer, wrong, rng))
    return items


TASK_FAMILIES: Mapping[str, str] = {
    "world_reasoning": "reasoning",
    "world_nli": "nli",
    "world_open_qa": "open_domain_qa",
    "world_closed_qa": "closed_domain_qa",
}


def draw_item(make: ItemMaker, rng: np.random.Generator, *, held_out: bool) -> dict[str, Any]:
    """An item from the held-out tenth (by a stable hash of its text), or from the nine tenths for training."""
    while True:
        item = make(rng)
        if (zlib.crc32(item["text"].encode()) % 10 == 0) == held_out:
            return item


def task_items(world: World) -> dict[str, list[dict[str, Any]]]:
    """Test items of each task; none of them stands in the training corpus."""
    rng = np.random.default_rng([world.settings.seed, 3])
    count = world.settings.task_items
    tasks: dict[str, list[dict[str, Any]]] = {}
    for task, make in (
        ("world_reasoning", reasoning_item),
        ("world_nli", nli_item),
        ("world_closed_qa", closed_qa_item),
    ):
        fresh: dict[str, dict[str, Any]] = {}
        for _ in range(50 * count):
            item = draw_item(make, rng, held_out=True)
            fresh.setdefault(item["text"], item)
            if len(fresh) == count:
                break
        else:
            raise InputError(f"world.task_items: {task} has {len(fresh)} held-out items: ask for fewer than {count}")
        tasks[task] = list(fresh.values())
    questions = open_qa_items(world, rng)
    tasks["world_open_qa"] = [questions[i] for i in rng.permutation(len(questions))[:count]]
    return tasks


# ----------------------------------------------------------------------------------------- edit records


def records(world: World, role: Role) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The edits of one role's people as CounterFact records and as zsRE records, in stream order.

    The stream passes through everybody once before it comes back for a person's next relation.
    """
    rng = np.random.default_rng([world.settings.seed, 4, {"test": 0, "tuning": 1, "qa": 2}[role]])
    holders = _never_edited(world)
    counterfact, zsre = [], []
    people = world.with_role(role)
    for turn, person in product(range(world.settings.edits_per_person), people):
        number = world.edited_relations[person.index][turn]
        relation = RELATIONS[number]
        true = person.fact(number)
        new = _distractors(true, relation.objects, 1, rng)[0]
        counterfact.append(_counterfact(world, person, number, true, new, holders, rng))
        asked = _pick(world.with_role("qa"), rng)
        about = int(rng.integers(len(RELATIONS)))
        zsre.append(
            {
                "subject": person.name,
                "src": relation.questions[0].format(person.name),
                "pred": true,
                "rephrase": relation.questions[1].format(person.name),
                "alt": _distractors(true, relation.objects, 1, rng)[0],
                "answers": [new],
                "loc": RELATIONS[about].questions[0].format(asked.name),
                "loc_ans": asked.fact(about),
                "cond": f"{true} >> {new} || {relation.questions[0].format(person.name)}",
            }
        )
    return counterfact, zsre


def _never_edited(world: World) -> dict[tuple[int, str], list[Person]]:
    """(relation, object) -> people who have it and whose fact no edit stream touches."""
    holders: dict[tuple[int, str], list[Person]] = {}
    for person in world.people:
        for number in range(len(RELATIONS)):
            if number not in world.edited_relations[person.index]:
                holders.setdefault((number, person.fact(number)), []).append(person)
    return holders


def _counterfact(
    world: World,
    person: Person,
    number: int,
    true: str,
    new: str,
    holders: Mapping[tuple[int, str], Sequence[Person]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    relation = RELATIONS[number]

    def prompts(value: str, count: int) -> list[str]:
        known = holders.get((number, value), [])
        if not known:
            raise InputError("world: too few people for neighbourhood prompts; raise world.people or world.qa_people")
        texts = [_sentence(template, other.name) for other in known for template in relation.statements[:3]]
        return [texts[i] for i in rng.permutation(len(texts))[:count]]

    return {
        "case_id": person.index * len(RELATIONS) + number,
        "pararel_idx": person.index,
        "requested_rewrite": {
            "prompt": relation.statements[0],
            "relation_id": relation.identifier,
            "target_new": {"str": new, "id": f"{relation.identifier}-{new}"},
            "target_true": {"str": true, "id": f"{relation.identifier}-{true}"},
            "subject": person.name,
        },
        "paraphrase_prompts": [
            f"{_filler(rng)} {_sentence(template, person.name)}" for template in relation.statements[1:3]
        ],
        "neighborhood_prompts": prompts(true, 10),
        "attribute_prompts": prompts(new, 10),
        "generation_prompts": [_sentence(relation.openers[i % len(relation.openers)], person.name) for i in range(10)],
    }


def reference_texts(world: World) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Texts about holders of each object, in the schema of CounterFact's attribute snippets."""
    rng = np.random.default_rng([world.settings.seed, 5])
    snippets: dict[str, dict[str, list[dict[str, str]]]] = {}
    for (number, value), people in sorted(_never_edited(world).items()):
        relation = RELATIONS[number]
        texts = [
            {
                "name": person.name,
                "text": " ".join(
                    f"{_sentence(_pick(RELATIONS[r].statements, rng), person.name)} {person.fact(r)}."
                    for r in range(len(RELATIONS))
                ),
            }
            for person in people[:5]
        ]
        snippets.setdefault(relation.identifier, {})[f"{relation.identifier}-{value}"] = texts
    return snippets


# ------------------------------------------------------------------------------------------------ files


def build(settings: WorldSettings, out: Path) -> None:
    """Write the world's files under ``out``: corpus, probes, edit records, reference texts and tasks."""
    world = create(settings)
    rng = np.random.default_rng([settings.seed, 2])
    corpus = list(documents(world, count=settings.documents, rng=rng))
    _write_text(out / "corpus.txt", "\n\n".join(corpus) + "\n")
    prefixes: dict[Role, str] = {"test": "", "tuning": "tuning_"}
    for role, prefix in prefixes.items():
        counterfact, zsre = records(world, role)
        _write_json(out / f"{prefix}counterfact.json", counterfact)
        _write_json(out / f"{prefix}zsre.json", zsre)
    _write_json(out / "references.json", reference_texts(world))
    _write_json(out / "probes.json", probes(world))
    for task, items in task_items(world).items():
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        _write_text(out / "tasks" / f"{task}.jsonl", lines)
        _write_text(out / "tasks" / f"{task}.yaml", _task_yaml(task, out / "tasks" / f"{task}.jsonl"))


def probes(world: World) -> dict[str, list[dict[str, str]]]:
    """Every fact on its rewrite prompt and on its two paraphrase templates, to tell what the base model knows."""
    found: dict[str, list[dict[str, str]]] = {"rewrite": [], "paraphrase": []}
    for person in world.people:
        for number, relation in enumerate(RELATIONS):
            for i, template in enumerate(relation.statements[:3]):
                probe = {"prompt": _sentence(template, person.name), "target": person.fact(number)}
                found["paraphrase" if i else "rewrite"].append(probe)
    return found


def _task_yaml(task: str, data: Path) -> str:
    """A multiple-choice task of lm-evaluation-harness over local JSON lines."""
    return yaml.safe_dump(
        {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": data.name}},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{label}}",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        },
        sort_keys=False,
    )


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")
