"""Edit records made of facts, in CounterFact's and zsRE's own schemas.

The facts of an object are divided: some are never edited and are its other facts' neighbours, whose answer must stay;
the rest may be edited, each to another object of its relation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sphere.data.facts.tables import Fact, Relation, counted, said
from sphere.data.fields import question
from sphere.errors import InputError

MOST_NEIGHBOURS = 10
"""Neighbourhood prompts of a record, as in CounterFact."""
GENERATIONS = 10
"""Generation prompts of a record, as in CounterFact."""


@dataclass(frozen=True)
class Division:
    """Facts by what a study does with them."""

    edited: tuple[Fact, ...]
    """Those that streams edit, in the order in which records are made."""
    held_out: tuple[Fact, ...]
    """Those that only tuning edits."""
    kept: Mapping[tuple[str, str], tuple[Fact, ...]]
    """(relation, object) -> those that nobody edits."""


def divide(
    facts: Sequence[Fact], *, neighbours: int, held_out: int, rng: np.random.Generator, one_to_one: Collection[str] = ()
) -> Division:
    """Keep ``neighbours`` facts of every object, hold ``held_out`` back for tuning, and let the rest be edited.

    An object with no more facts than that has none to edit. Of the relations ``one_to_one``, whose objects have one
    fact each, half of the facts are kept, so that every edited fact can have a new object of its own. Of a relation
    with more than half of all that could be edited, the rest of its facts are left alone. Raises InputError, with how
    many facts there are of which relations, if fewer than ``held_out`` can be edited.
    """
    groups: dict[tuple[str, str], list[Fact]] = {}
    for fact in sorted(facts):
        groups.setdefault((fact.relation, "" if fact.relation in one_to_one else fact.object), []).append(fact)
    kept: dict[tuple[str, str], tuple[Fact, ...]] = {}
    free: list[Fact] = []
    for (relation, _), own in groups.items():
        shuffled = [own[i] for i in rng.permutation(len(own))]
        most = -(-len(own) // 2) if relation in one_to_one else neighbours
        for fact in shuffled[:most]:
            kept[relation, fact.object] = (*kept.get((relation, fact.object), ()), fact)
        free += shuffled[most:]
    objects = counted({Fact(fact.relation, "", fact.object) for fact in facts})
    several = {name for name, count in objects.items() if count > 1}
    free = [fact for fact in free if fact.relation in several]  # a new object is another one of the relation
    order = _balanced([free[i] for i in rng.permutation(len(free))])
    if len(order) <= held_out:
        raise InputError(
            f"{len(facts)} facts are known ({_counts(facts)}), of which {len(order)} have {neighbours} neighbours and "
            f"can be edited: lower facts.held_out ({held_out}) or facts.neighbours"
        )
    return Division(tuple(order[held_out:]), tuple(order[:held_out]), kept)


def _balanced(facts: list[Fact]) -> list[Fact]:
    """``facts`` without the last ones of a relation that would be more than half of them; all if there is no other."""
    counts = counted(facts)
    largest = max(counts, key=lambda name: (counts[name], name), default="")
    others = len(facts) - counts.get(largest, 0)
    if others == 0 or counts[largest] <= others:
        return facts
    left, taken = others, []
    for fact in facts:
        if fact.relation == largest:
            left -= 1
        if fact.relation != largest or left >= 0:
            taken.append(fact)
    return taken


def first(facts: Sequence[Fact], wanted: int) -> list[Fact]:
    """The first ``wanted`` of ``facts``, where others are left without those of a relation that has half of them."""
    most = -(-wanted // 2)
    taken: list[Fact] = []
    passed: list[Fact] = []
    counts: dict[str, int] = {}
    for fact in facts:
        counts[fact.relation] = counts.get(fact.relation, 0) + 1
        (taken if counts[fact.relation] <= most else passed).append(fact)
    return (taken + passed)[:wanted]


def require(division: Division, wanted: int, facts: Sequence[Fact], neighbours: int) -> None:
    """InputError, with how many there are of which relations, if fewer than ``wanted`` facts can be edited."""
    if len(division.edited) < wanted:
        raise InputError(
            f"the study edits {wanted} facts; the model knows {len(facts)} ({_counts(facts)}), of which "
            f"{len(division.edited)} have {neighbours} neighbours and are not held out: lower checkpoints, "
            "facts.held_out or facts.neighbours, or take more relations"
        )


def _counts(facts: Sequence[Fact]) -> str:
    counts = sorted(counted(facts).items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{number} {name}" for name, number in counts) or "none"


def records(
    facts: Sequence[Fact], kept: Mapping[tuple[str, str], Sequence[Fact]], relations: Mapping[str, Relation],
    *, rng: np.random.Generator, first_id: int = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """One CounterFact record and one zsRE record for each of ``facts``, to the same new object.

    The new object is another one of the same relation that some kept fact has, and where the relation is one-to-one
    another one for each of ``facts``; neighbours share the true object (one-to-one: nothing does), and zsRE's unrelated
    question is about a kept fact of another subject.
    """
    objects: dict[str, list[str]] = {}
    for name, key in sorted(kept):
        objects.setdefault(name, []).append(key)
    asked = [fact for key in sorted(kept) for fact in kept[key]]
    counterfact, zsre = [], []
    for number, fact in enumerate(facts, first_id):
        relation = relations[fact.relation]
        others = [key for key in objects[fact.relation] if key != fact.object]
        new = others[int(rng.integers(len(others)))]
        if relation.one_to_one:
            objects[fact.relation].remove(new)
        counterfact.append(_counterfact(number, fact, new, kept, relations, rng))
        zsre.append(_zsre(fact, new, asked[int(rng.integers(len(asked)))], relation, relations))
    return counterfact, zsre


def _counterfact(
    number: int, fact: Fact, new: str, kept: Mapping[tuple[str, str], Sequence[Fact]],
    relations: Mapping[str, Relation], rng: np.random.Generator,
) -> dict[str, Any]:  # fmt: skip
    relation = relations[fact.relation]

    def prompts(key: str) -> list[str]:
        own = kept.get((fact.relation, key), ())
        return [relation.statement(own[i].subject) for i in rng.permutation(len(own))[:MOST_NEIGHBOURS]]

    openers = [*relation.file.openers, *relation.file.statements]
    portability = [
        *_aliased(fact, new, relation),
        *_two_hops(fact, new, kept, relations),
        *_inverse(fact, new, relation),
    ]
    return {
        "case_id": number,
        "pararel_idx": number,
        "requested_rewrite": {
            "prompt": _about(relation.file.statements[0], fact.subject),
            "relation_id": fact.relation,
            "target_new": _target(relation, new),
            "target_true": _target(relation, fact.object),
            "subject": fact.subject,
        },
        "paraphrase_prompts": [relation.statement(fact.subject, i) for i in range(1, len(relation.file.statements))],
        "neighborhood_prompts": prompts(fact.object),
        **({"portability": portability} if portability else {}),
        "attribute_prompts": prompts(new),
        "generation_prompts": [said(openers[i % len(openers)], fact.subject) for i in range(GENERATIONS)],
    }


def _aliased(fact: Fact, new: str, relation: Relation) -> list[dict[str, Any]]:
    """The rewrite prompt with each other name of the subject."""
    prompts = [relation.statement(name) for name in relation.names_of_subject(fact.subject)[1:]]
    return [question("subject_alias", prompt, relation.names_of(new)) for prompt in prompts]


def _inverse(fact: Fact, new: str, relation: Relation) -> list[dict[str, Any]]:
    """The new object's subject, where the relation is one-to-one."""
    names = relation.names_of_subject(fact.subject)
    return [question("inverse", said(statement, new), names) for statement in relation.file.inverse]


def _two_hops(
    fact: Fact, new: str, kept: Mapping[tuple[str, str], Sequence[Fact]], relations: Mapping[str, Relation]
) -> list[dict[str, Any]]:
    """Questions whose answer follows from the new fact and a fact of its object that nobody edits.

    None where the true object has the same answer: the unedited model would be right.
    """
    found = []
    for second, statements in relations[fact.relation].file.two_hop.items():
        for name, answer in sorted(kept):
            subjects = {each.subject for each in kept[name, answer]} if name == second else set()
            everybody = relations[second].file.facts.get(answer, ()) if subjects else ()
            if _named(new) & subjects and not _named(fact.object) & set(everybody):
                texts = [said(statement, fact.subject) for statement in statements]
                found += [question("two_hop", text, (answer,)) for text in texts]
    return found


def _named(key: str) -> set[str]:
    """An object, as the subject of another relation may be called."""
    return {key, key.removeprefix("the ")}


def _target(relation: Relation, key: str) -> dict[str, Any]:
    """An object as CounterFact keeps it, with its other names where it has some."""
    aliases = list(relation.names_of(key)[1:])
    return {"str": key, "id": f"{relation.name}-{key}"} | ({"aliases": aliases} if aliases else {})


def _about(template: str, subject: str) -> str:
    """The template with ``{}``, as CounterFact keeps it; a subject at its beginning keeps its own first letter."""
    return template if template.startswith("{}") else template[0].upper() + template[1:]


def _zsre(fact: Fact, new: str, other: Fact, relation: Relation, relations: Mapping[str, Relation]) -> dict[str, Any]:
    question, rephrased = (said(template, fact.subject) for template in relation.file.questions[:2])
    return {
        "subject": fact.subject,
        "src": question,
        "pred": fact.object,
        "rephrase": rephrased,
        "alt": new,
        "answers": list(relation.names_of(new)),
        "loc": said(relations[other.relation].file.questions[0], other.subject),
        "loc_ans": other.object,
        "cond": f"{fact.object} >> {new} || {question}",
    }
