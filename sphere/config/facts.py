"""The section ``facts`` of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from sphere.config.base import Count, Positive, Settings, Share
from sphere.config.names import Name

FACTS_TASKS = (
    *("facts_open_qa", "facts_closed_qa", "facts_reasoning", "facts_nli"),
    *("facts_grammar", "facts_sentiment", "facts_vocabulary"),
)
"""The general-ability tasks that facts come with."""


class FactsSettings(Settings):
    """Facts of the real world that a model knows, as edit records."""

    model: Name | None = None
    """The model of the study that is asked what it knows; null asks its first."""
    relations: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names of sphere/data/facts/relations/NAME.yaml; null takes all."""
    tables: Path | None = None
    """A folder with relations of yours, in the same form, instead."""
    asked: Positive | None = None
    """Facts of each relation that the model is asked, drawn with the seed; null asks all."""
    share: Share = 0.5
    """Share of a fact's paraphrases that have to give its object, beside its rewrite prompt, for it to be known."""
    neighbours: Positive = 5
    """Known facts of each object that nobody edits: the neighbours of its other facts (one-to-one: half)."""
    held_out: Count = 60
    """Known facts that only tuning edits."""
    seed: Count = 0
    """Seed of the division of the facts, and of their new objects."""
