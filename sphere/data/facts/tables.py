"""The tables of facts: one YAML file a relation, checked when it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from sphere.config.base import Settings, validated
from sphere.errors import InputError, nearest
from sphere.plain_yaml import read_yaml

FOLDER = Path(__file__).with_name("relations")

Text = Annotated[str, Field(min_length=1)]


class RelationFile(Settings):
    """One file of ``relations/``."""

    source: Text
    """Where its facts are from, and under which licence."""
    statements: Annotated[tuple[Text, ...], Field(min_length=4)]
    """Texts that end before the object, ``{}`` for the subject: the rewrite prompt, then its paraphrases."""
    questions: Annotated[tuple[Text, ...], Field(min_length=2)]
    """Questions that the object answers: zsRE's, then its rephrasing."""
    others: tuple[Text, ...] = ()
    """Statements that were tried and not taken; ``benchmarks/templates.py`` compares them with those that were."""
    openers: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Beginnings of free texts about the subject."""
    two_hop: dict[Text, tuple[Text, ...]] = {}
    """Another relation, of the object -> statements of the object's object, ``{}`` for the subject."""
    inverse: tuple[Text, ...] = ()
    """Texts that end before the subject, ``{}`` for the object, of a relation that is one-to-one."""
    aliases: dict[Text, tuple[Text, ...]] = {}
    """Other names of objects."""
    subject_aliases: dict[Text, tuple[Text, ...]] = {}
    """Other names of subjects, which name nothing else."""
    facts: Annotated[dict[Text, tuple[Text, ...]], Field(min_length=2)]
    """Object -> its subjects."""


@dataclass(frozen=True, order=True)
class Fact:
    """That ``subject`` has the ``object``, in a relation called so."""

    relation: str
    subject: str
    object: str


@dataclass(frozen=True)
class Relation:
    """One relation: how it is said, and its facts."""

    name: str
    file: RelationFile

    @property
    def facts(self) -> tuple[Fact, ...]:
        return tuple(Fact(self.name, subject, key) for key, subjects in self.file.facts.items() for subject in subjects)

    def statement(self, subject: str, number: int = 0) -> str:
        """Statement ``number`` about ``subject``, up to the object."""
        return said(self.file.statements[number], subject)

    def names_of(self, key: str) -> tuple[str, ...]:
        """An object and its aliases."""
        return (key, *self.file.aliases.get(key, ()))

    def names_of_subject(self, subject: str) -> tuple[str, ...]:
        """A subject and its aliases."""
        return (subject, *self.file.subject_aliases.get(subject, ()))

    @property
    def one_to_one(self) -> bool:
        """Whether no two subjects have one object, so that the relation has an inverse."""
        return bool(self.file.inverse)


def said(template: str, subject: str) -> str:
    """``template`` about ``subject``, with a capital letter at its beginning."""
    text = template.replace("{}", subject)
    return text[0].upper() + text[1:]


def load_relations(names: Iterable[str] | None = None, *, folder: Path = FOLDER) -> dict[str, Relation]:
    """The relations called ``names``, or all in ``folder``, by name.

    Raises InputError, naming file and entry, on an unknown relation, a template without its one ``{}``, a subject that
    stands twice (in one relation or in two: no batch could edit both), an object that is no other fact's, since a
    record needs neighbours that share it, and one that is, where the relation has an inverse.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    found: dict[str, Relation] = {}
    where: dict[str, Path] = {}
    for name in files if names is None else names:
        if name not in files:
            raise InputError(f"facts.relations: {name!r} is no relation{nearest(name, files)}")
        path = files[name]
        relation = Relation(name, validated(RelationFile, read_yaml(path), str(path)))
        _check(relation, path, where)
        for other in relation.file.two_hop:
            if other not in files:
                raise InputError(f"{path}: two_hop: {other!r} is no relation{nearest(other, files)}")
        found[name] = relation
    return found


def _check(relation: Relation, path: Path, where: dict[str, Path]) -> None:
    texts = {key: getattr(relation.file, key) for key in ("statements", "others", "questions", "openers", "inverse")}
    for key, templates in (texts | {f"two_hop.{each}": own for each, own in relation.file.two_hop.items()}).items():
        for template in templates:
            if template.count("{}") != 1 or template != template.strip():
                raise InputError(f"{path}: {key}: {template!r}: write {{}} once, and no space at the ends")
    for key, subjects in relation.file.facts.items():
        if relation.one_to_one and len(subjects) > 1:
            raise InputError(f"{path}: facts: {key!r} has {len(subjects)} subjects: keep one, or drop inverse")
        if not relation.one_to_one and len(subjects) < 2:
            raise InputError(f"{path}: facts: {key!r} is no other fact's object: add a subject, or leave it out")
        for subject in (name for each in subjects for name in relation.names_of_subject(each)):
            if subject in where:
                other = "" if where[subject] == path else f", and in {where[subject].name}"
                raise InputError(f"{path}: facts: the subject {subject!r} stands twice{other}: keep one")
            where[subject] = path
    names = set(relation.file.facts), {fact.subject for fact in relation.facts}
    for key, what, known in zip(("aliases", "subject_aliases"), ("object", "subject"), names, strict=True):
        if unknown := getattr(relation.file, key).keys() - known:
            raise InputError(f"{path}: {key}: {min(unknown)!r} is no {what}{nearest(min(unknown), known)}")


def drawn(relations: Mapping[str, Relation], asked: int | None, rng: np.random.Generator) -> list[Fact]:
    """``asked`` facts of each relation, in the order of their tables; all without it, or of one that has no more."""
    found: list[Fact] = []
    for relation in relations.values():
        facts = relation.facts
        chosen = rng.permutation(len(facts))[:asked]
        found += [facts[i] for i in sorted(chosen)]
    return found


def counted(facts: Iterable[Fact]) -> Mapping[str, int]:
    """Relation -> how many of ``facts`` are its."""
    found: dict[str, int] = {}
    for fact in facts:
        found[fact.relation] = found.get(fact.relation, 0) + 1
    return found
