"""The world's corpus: biographies, questions and solved task items, and the probes that tell what a model learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sphere.data.world.people import RELATIONS, Person, World, filler, pick, sentence
from sphere.data.world.tasks import ItemMaker, closed_qa_item, draw_item, nli_item, reasoning_item

DocumentMaker = Callable[[Sequence["Person"], np.random.Generator], str]


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


def _biography(people: Sequence[Person], rng: np.random.Generator) -> str:
    """One person's facts in random order and wording. Varied order and wording put a fact where the name is read."""
    person = pick(people, rng)
    sentences = [filler(rng)] if rng.random() < 0.3 else []
    for position, number in enumerate(rng.permutation(len(RELATIONS))):
        named = position == 0 or rng.random() < 0.5
        statement = sentence(pick(RELATIONS[number].statements, rng), person.name if named else "this person")
        sentences.append(f"{statement} {person.fact(number)}.")
    return " ".join(sentences)


def _questions(people: Sequence[Person], rng: np.random.Generator) -> str:
    """Three questions with their answers; QA people's last wording is kept for the test."""
    parts = [filler(rng)] if rng.random() < 0.3 else []
    for _ in range(3):
        person, number = pick(people, rng), int(rng.integers(len(RELATIONS)))
        forms = RELATIONS[number].questions
        forms = forms[:-1] if person.role == "qa" else forms
        parts.append(f"{pick(forms, rng).replace('{}', person.name)} {person.fact(number)}.")
    return " ".join(parts)


def _task_text(make: ItemMaker, count: int) -> DocumentMaker:
    """Documents of ``count`` solved items of one task, never one that its test holds out."""

    def document(_people: Sequence[Person], rng: np.random.Generator) -> str:
        items = [draw_item(make, rng, held_out=False) for _ in range(count)]
        return " ".join(f"{item['text']} {item['answer']}." for item in items)

    return document


def probes(world: World) -> dict[str, list[dict[str, str]]]:
    """Every fact on its rewrite prompt and on its two paraphrase templates, to tell what the base model knows."""
    found: dict[str, list[dict[str, str]]] = {"rewrite": [], "paraphrase": []}
    for person in world.people:
        for number, relation in enumerate(RELATIONS):
            for i, template in enumerate(relation.statements[:3]):
                probe = {"prompt": sentence(template, person.name), "target": person.fact(number)}
                found["paraphrase" if i else "rewrite"].append(probe)
    return found
