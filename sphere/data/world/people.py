# ruff: noqa: SIM905 (word lists read better as one string)
"""The people of the embedded world, their relations and facts, and which of them may be edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sphere.config.world import WorldSettings

Role = Literal["test", "tuning", "qa"]


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

    @property
    def last_name(self) -> str:
        """The name that nobody else has."""
        return self.name.split()[-1]

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


def pick(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def filler(rng: np.random.Generator) -> str:
    return str(pick(FILLERS, rng)).format(c=pick(COLOURS, rng), t=pick(THINGS, rng))


def sentence(template: str, subject: str) -> str:
    text = template.replace("{}", subject)
    return text[0].upper() + text[1:]


def distractors(answer: str, pool: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    others = [word for word in pool if word != answer]
    return [others[i] for i in rng.choice(len(others), size=count, replace=False)]
