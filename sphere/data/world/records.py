"""The world's edit records, in CounterFact's and zsRE's own schemas, and reference texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from sphere.data.world.people import RELATIONS, Person, Role, World, distractors, filler, pick, sentence
from sphere.errors import InputError


def records(world: World, role: Role) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The edits of one role's people as CounterFact records and as zsRE records, in stream order.

    The stream passes through everybody once before it comes back for a person's next relation.
    """
    rng = np.random.default_rng([world.settings.seed, 4, {"test": 0, "tuning": 1, "qa": 2}[role]])
    holders = never_edited(world)
    counterfact, zsre = [], []
    people = world.with_role(role)
    for turn, person in product(range(world.settings.edits_per_person), people):
        number = world.edited_relations[person.index][turn]
        relation = RELATIONS[number]
        true = person.fact(number)
        new = distractors(true, relation.objects, 1, rng)[0]
        counterfact.append(_counterfact(world, person, number, true, new, holders, rng))
        asked = pick(world.with_role("qa"), rng)
        about = int(rng.integers(len(RELATIONS)))
        zsre.append(
            {
                "subject": person.name,
                "src": relation.questions[0].format(person.name),
                "pred": true,
                "rephrase": relation.questions[1].format(person.name),
                "alt": distractors(true, relation.objects, 1, rng)[0],
                "answers": [new],
                "loc": RELATIONS[about].questions[0].format(asked.name),
                "loc_ans": asked.fact(about),
                "cond": f"{true} >> {new} || {relation.questions[0].format(person.name)}",
            }
        )
    return counterfact, zsre


def never_edited(world: World) -> dict[tuple[int, str], list[Person]]:
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
        texts = [sentence(template, other.name) for other in known for template in relation.statements[:3]]
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
            f"{filler(rng)} {sentence(template, person.name)}" for template in relation.statements[1:3]
        ],
        "neighborhood_prompts": prompts(true, 10),
        "attribute_prompts": prompts(new, 10),
        "portability": [
            {"kind": "subject_alias", "prompt": sentence(relation.statements[0], person.last_name), "target": new},
            *(
                {"kind": "unchanged", "prompt": sentence(other.statements[0], person.name), "target": person.fact(each)}
                for each, other in enumerate(RELATIONS)
                if each not in world.edited_relations[person.index]
            ),
        ],
        "generation_prompts": [sentence(relation.openers[i % len(relation.openers)], person.name) for i in range(10)],
    }


def reference_texts(world: World) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Texts about holders of each object, in the schema of CounterFact's attribute snippets."""
    rng = np.random.default_rng([world.settings.seed, 5])
    snippets: dict[str, dict[str, list[dict[str, str]]]] = {}
    for (number, value), people in sorted(never_edited(world).items()):
        relation = RELATIONS[number]
        texts = [
            {
                "name": person.name,
                "text": " ".join(
                    f"{sentence(pick(RELATIONS[r].statements, rng), person.name)} {person.fact(r)}."
                    for r in range(len(RELATIONS))
                ),
            }
            for person in people[:5]
        ]
        snippets.setdefault(relation.identifier, {})[f"{relation.identifier}-{value}"] = texts
    return snippets
