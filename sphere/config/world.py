"""The section ``world`` of a study."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sphere.config.base import Count, Positive, Settings, Share

WORLD_TASKS = ("world_reasoning", "world_nli", "world_open_qa", "world_closed_qa")
"""The general-ability tasks that a world comes with."""


class WorldSettings(Settings):
    """The embedded fictional world."""

    seed: int = 0
    """Seed of people, facts, corpus and task items."""
    people: Positive = 400
    """People whose facts the edit streams change."""
    edits_per_person: Annotated[int, Field(ge=1, le=4)] = 1
    """Facts of a person that may be edited; times ``people``, the longest possible stream."""
    tuning_people: Count = 60
    """Held-out people whose facts only tuning changes."""
    qa_people: Positive = 40
    """People whose facts nobody changes; they carry the open-domain questions."""
    documents: Positive = 120_000
    """Documents in the training corpus."""
    corpus_shares: tuple[float, float, float, float, float] = (0.43, 0.25, 0.07, 0.08, 0.17)
    """Parts of biographies, questions, reasoning, NLI and closed-domain QA among the documents."""
    curriculum: Share = 0.3
    """Share of the corpus over which people are introduced, from a tenth of them to all; 0 starts with all."""
    task_items: Positive = 200
    """Test items of each general-ability task."""

    @property
    def longest_stream(self) -> int:
        """Edits that the test people allow."""
        return self.people * self.edits_per_person

    @property
    def longest_tuning(self) -> int:
        """Edits that the tuning people allow."""
        return self.tuning_people * self.edits_per_person
