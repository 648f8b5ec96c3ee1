"""The world's general-ability tasks, as lm-evaluation-harness YAML over local JSON lines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sphere.data.items import item
from sphere.data.world.people import COLOURS, FIRST_NAMES, RELATIONS, STATES, THINGS, World, distractors, pick
from sphere.errors import InputError

ItemMaker = Callable[[np.random.Generator], dict[str, Any]]


def reasoning_item(rng: np.random.Generator) -> dict[str, Any]:
    """Two-step arithmetic in words; four answers."""
    first, second = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    name, thing = pick(FIRST_NAMES, rng), pick(THINGS, rng)
    text = f"{name} has {first} {thing}s and finds {second} more. The number of {thing}s {name} has is"
    numbers = [str(n) for n in range(2, 11)]
    return item(text, str(first + second), distractors(str(first + second), numbers, 3, rng), rng)


def nli_item(rng: np.random.Generator) -> dict[str, Any]:
    """Does the premise entail the hypothesis? yes or no."""
    name, thing, colour = pick(FIRST_NAMES, rng), pick(THINGS, rng), pick(COLOURS, rng)
    pair = pick(STATES, rng)
    said, entailed = int(rng.integers(2)), bool(rng.random() < 0.5)
    text = f"The {colour} {thing} of {name} is {pair[said]}. Is the {thing} {pair[said if entailed else 1 - said]}?"
    return item(text, *(("yes", ["no"]) if entailed else ("no", ["yes"])), rng)


def closed_qa_item(rng: np.random.Generator) -> dict[str, Any]:
    """The answer stands in the passage; four answers of one kind."""
    name, thing, colour = pick(FIRST_NAMES, rng), pick(THINGS, rng), pick(COLOURS, rng)
    place = pick(RELATIONS[1].objects, rng)
    passage = f"{name} found a {colour} {thing} in {place}."
    question, answer, pool = (
        ("What was found?", thing, THINGS),
        (f"Where was the {thing} found?", place, RELATIONS[1].objects),
    )[int(rng.integers(2))]
    return item(f"{passage} {question}", answer, distractors(answer, pool, 3, rng), rng)


def open_qa_items(world: World, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Every fact of every QA person, in a wording never used of them in training."""
    items = []
    for person in world.with_role("qa"):
        for number, relation in enumerate(RELATIONS):
            answer = person.fact(number)
            wrong = distractors(answer, relation.objects, 3, rng)
            items.append(item(relation.questions[-1].format(person.name), answer, wrong, rng))
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
