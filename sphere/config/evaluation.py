"""The sections ``tasks``, ``generation``, ``strict`` and ``neutral`` of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sphere.config.base import Count, Positive, Settings

PromptForm = Literal["bare", "question"]


class TaskSettings(Settings):
    """General ability, scored by lm-evaluation-harness."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """The world's own (world_reasoning, ...), the facts' (facts_open_qa, ...), corpus_perplexity, ours (a file of
    config/tasks/), or the harness's, whose data are the row of config/sources.tsv of the same name (gsm8k, rte,
    nq_open, boolq, ...)."""
    limit: Positive | None = None
    """Items of each task, from its start; null takes all."""
    fewshot: Count = 0
    """Solved examples before an item; a passage has none."""


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


class StrictSettings(Settings):
    """Whole answers, generated freely and compared with the wanted object and its aliases."""

    records: Positive | None = 20
    """Records that are asked, evenly spread over the stream; null asks all."""
    tokens: Positive = 32
    """Tokens of an answer that comes to no end of its own."""
    forms: Annotated[tuple[PromptForm, ...], Field(min_length=1)] = ("bare",)
    """How a prompt is put: bare, as under teacher forcing, or as a question, in the model's chat template."""


class NeutralSettings(Settings):
    """Text that no edit is about: bits a byte, and how far the model has moved on it."""

    file: Path | None = None
    """Texts of yours, separated by blank lines, or ME-PPL's JSON; null takes those of the study's corpus behind the
    ones that key statistics are taken from."""
    passages: Positive = 32
    """Texts."""
    length: Annotated[int, Field(ge=2)] = 64
    """Tokens that are taken of each, from its beginning."""
