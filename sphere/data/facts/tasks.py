# ruff: noqa: SIM905 (word lists read better as one string)
"""General-ability tasks of real words: questions on facts that are never edited, and items made by rule.

Every item is multiple choice. A model is not good at all of them: docs/real-model.md has what each is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from sphere.data.facts.tables import Fact, Relation, said
from sphere.data.items import Item, item

_T = TypeVar("_T")

ITEMS = 100
"""Items of each task."""
NAMES = tuple("Anna Ben Clara David Emma Frank Grace Henry Julia Kevin Laura Martin Nora Oliver Sarah Thomas".split())
THINGS = tuple("apples books coins cups flowers hats keys letters oranges pens shells stones".split())
PLACES = tuple("London Paris Rome Madrid Berlin Vienna Moscow Tokyo Boston Chicago Sydney Cairo".split())
JOBS = tuple("teacher nurse baker farmer lawyer painter singer writer driver doctor pilot cook".split())
NOUNS = tuple("key letter picture friend book window sister song wall dog box chair".split())
OWNERS = tuple("cabinet teacher child farmer student house doctor singer garden neighbor shop kitchen".split())
"""Nouns that may stand between a noun and its verb."""
ENDS = ("old", "here", "beautiful", "ready", "in the room", "not far away", "very large", "gone")
PRAISE = tuple("wonderful brilliant excellent delightful superb charming great fantastic lovely perfect".split())
BLAME = tuple("terrible awful boring dreadful horrible disappointing bad dull annoying poor".split())
REVIEWED = tuple("film book meal concert hotel play novel song lecture restaurant".split())
OPPOSITES = tuple(
    "hot cold|big small|fast slow|old young|happy sad|light dark|rich poor|open closed|full empty|early late|high low"
    "|hard soft|wet dry|long short|clean dirty|strong weak|near far|up down|left right|good bad|day night|love hate"
    "|win lose|buy sell|begin end|inside outside|above below|first last|loud quiet".split("|")
)


def fact_items(kept: Sequence[Fact], relations: Mapping[str, Relation], rng: np.random.Generator) -> list[Item]:
    """Open-domain questions on facts that nobody edits; the wrong answers are other objects of the relation."""
    items = []
    for fact in (kept[i] for i in rng.permutation(len(kept))[:ITEMS]):
        relation = relations[fact.relation]
        others = [key for key in relation.file.facts if key != fact.object]
        wrong = [others[i] for i in rng.permutation(len(others))[:3]]
        question = said(relation.file.questions[0], fact.subject)
        items.append(item(f"Question: {question}\nAnswer:", fact.object, wrong, rng))
    return items


def passage_item(rng: np.random.Generator) -> Item:
    """A closed-domain question: two people live in two places and have two jobs."""
    (first, second), places, jobs = some(NAMES, 2, rng), some(PLACES, 4, rng), some(JOBS, 4, rng)
    told = zip((first, second), places, jobs, strict=False)
    passage = " ".join(f"{name} lives in {place} and works as a {job}." for name, place, job in told)
    who, number = ((first, 0), (second, 1))[int(rng.integers(2))]
    question, answers = (
        (f"Where does {who} live? {who} lives in", places),
        (f"What is the job of {who}? {who} works as a", jobs),
    )[int(rng.integers(2))]
    return item(f"{passage}\n{question}", answers[number], [*answers[:number], *answers[number + 1 :]], rng)


def sum_item(rng: np.random.Generator) -> Item:
    """Reasoning: two-step arithmetic in words, four answers."""
    first, second, thing = int(rng.integers(2, 10)), int(rng.integers(2, 10)), some(THINGS, 1, rng)[0]
    (name,) = some(NAMES, 1, rng)
    others = [str(n) for n in range(4, 20) if n != first + second]
    text = f"{name} has {first} {thing} and finds {second} more {thing}. In total, {name} has"
    return item(text, str(first + second), some(others, 3, rng), rng)


def entailment_item(rng: np.random.Generator) -> Item:
    """Does the premise entail the hypothesis? yes or no."""
    (name,), (job, other) = some(NAMES, 1, rng), some(JOBS, 2, rng)
    entailed = bool(rng.integers(2))
    text = f"{name} is a {job}.\nQuestion: Is {name} a {job if entailed else other}?\nAnswer:"
    return item(text, *(("Yes", ["No"]) if entailed else ("No", ["Yes"])), rng)


def agreement_item(rng: np.random.Generator) -> Item:
    """Grammar: the verb agrees with its subject, not with the noun before it."""
    (noun,), (between,) = some(NOUNS, 1, rng), some(OWNERS, 1, rng)
    plural = bool(rng.integers(2))
    text = f"The {noun}s of the {between}" if plural else f"The {noun} of the {between}s"
    (end,) = some(ENDS, 1, rng)
    right, wrong = ("are", "is") if plural else ("is", "are")
    return item(text, f"{right} {end}", [f"{wrong} {end}"], rng)


def opinion_item(rng: np.random.Generator) -> Item:
    """Sentiment of a one-sentence review."""
    praised = bool(rng.integers(2))
    (thing,), (first, second) = some(REVIEWED, 1, rng), some(PRAISE if praised else BLAME, 2, rng)
    text = f"Review: The {thing} was {first}, simply {second}.\nIs this review positive or negative? It is"
    return item(text, *(("positive", ["negative"]) if praised else ("negative", ["positive"])), rng)


def opposite_item(rng: np.random.Generator) -> Item:
    """Vocabulary: the opposite of a word; the wrong answers are from other pairs."""
    pairs = [pair.split() for pair in OPPOSITES]
    chosen = some(pairs, 4, rng)
    side = int(rng.integers(2))
    wrong = [pair[int(rng.integers(2))] for pair in chosen[1:]]
    return item(f"The opposite of the word {chosen[0][side]} is the word", chosen[0][1 - side], wrong, rng)


MADE: Mapping[str, Callable[[np.random.Generator], Item]] = MappingProxyType(
    {
        "facts_closed_qa": passage_item,
        "facts_reasoning": sum_item,
        "facts_nli": entailment_item,
        "facts_grammar": agreement_item,
        "facts_sentiment": opinion_item,
        "facts_vocabulary": opposite_item,
    }
)
"""Tasks made by rule."""
TASK_FAMILIES: Mapping[str, str] = {
    "facts_open_qa": "open_domain_qa",
    "facts_closed_qa": "closed_domain_qa",
    "facts_reasoning": "reasoning",
    "facts_nli": "nli",
    "facts_grammar": "grammar",
    "facts_sentiment": "sentiment",
    "facts_vocabulary": "vocabulary",
}


def task_items(
    kept: Sequence[Fact], relations: Mapping[str, Relation], rng: np.random.Generator
) -> dict[str, list[Item]]:
    """Items of every task, of which none stands twice."""
    tasks = {"facts_open_qa": fact_items(kept, relations, rng)}
    for name, make in MADE.items():
        fresh: dict[str, Item] = {}
        for _ in range(50 * ITEMS):  # the opposites have no hundred texts
            made = make(rng)
            fresh.setdefault(made["text"], made)
            if len(fresh) == ITEMS:
                break
        tasks[name] = list(fresh.values())
    return tasks


def some(of: Sequence[_T], count: int, rng: np.random.Generator) -> list[_T]:
    """``count`` different ones."""
    return [of[int(i)] for i in rng.choice(len(of), size=count, replace=False)]
