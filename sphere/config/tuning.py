"""The sections ``locate``, ``tuning`` and ``sensitivity`` of a study: what is tried on held-out records."""

from __future__ import annotations

from math import ceil
from typing import Annotated

from pydantic import Field

from sphere.config.base import Count, Positive, Settings, Share
from sphere.config.names import MethodName


class LocateSettings(Settings):
    """Causal tracing, and a first batch of edits in several sets of layers: which layers to edit."""

    records: Positive = 20
    """Held-out facts that are traced, and edited in a first batch."""
    method: MethodName = "alphaedit"
    """Makes the first batches; none of the study's need be, since layers belong to a model."""
    seed: Count = 0
    """Seed of the noise that a subject's embeddings are corrupted with."""


class TuningSettings(Settings):
    """Hyperparameter search on held-out records, the same budget for every method."""

    trials: Positive = 6
    """Settings tried of each method."""
    edits: Positive = 60
    """Held-out edits in a trial; too few choose settings that collapse later."""
    evaluations: Positive = 3
    """Evaluations in a trial, evenly spread over its batches at most; the score is their mean."""
    seed: int = 0
    """Seed of the draw of settings where the grid has more than ``trials``."""

    def evaluated_every(self, batch_size: int) -> int:
        """Edits from one evaluation of a trial to the next: whole batches."""
        return batch_size * ceil(self.edits / self.evaluations / batch_size)


class SensitivitySettings(Settings):
    """The projection's two settings on held-out records, every pair of them, at the method's tuned settings else."""

    method: str = "sphere"
    """A method of the study that has the projection."""
    eta: Annotated[tuple[Share, ...], Field(min_length=1)] = (0, 0.3, 0.5, 0.7)
    """Cumulative ratios; these are the paper's, and 0 protects nothing."""
    alpha: Annotated[tuple[Share, ...], Field(min_length=1)] = (0, 0.3, 0.5, 0.7)
    """Suppression strengths; these are the paper's, and 0 takes nothing away."""
    edits: Positive = 60
    """Held-out edits made with each pair."""
