"""The sections ``tasks`` and ``generation`` of a study."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sphere.config.base import Count, Positive, Settings


class TaskSettings(Settings):
    """General ability, scored by lm-evaluation-harness."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """The world's own (world_reasoning, ...), ours (a file of config/tasks/), or the harness's, whose data are the row
    of config/sources.tsv of the same name (gsm8k, rte, nq_open, boolq, ...)."""
    limit: Positive | None = None
    """Items of each task, from its start; null takes all."""
    fewshot: Count = 0
    """Solved examples before an item."""


class GenerationSettings(Settings):
    """Free generations, for fluency and consistency."""

    records: Positive | None = 50
    """Records that get generations, evenly spread over the stream; null gives all of them some."""
    length: Positive = 100
    """Tokens of prompt and continuation together."""
    family: bool = True
    """Whether the generation family of editing metrics is measured too."""
    seed: Count = 0
    """Seed of the texts for fluency and consistency, which are sampled from the five likeliest tokens."""
