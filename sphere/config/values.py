"""What target values are optimised with: ``values`` and ``contexts`` of a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sphere.config.base import Count, Positive, Rate, Settings


class ValueSettings(Settings):
    """Optimisation of the target values z (MEMIT, section 4.3.1)."""

    lr: Rate = 0.5
    """Adam's learning rate."""
    steps: Positive = 25
    """Gradient steps at most."""
    clamp_norm_factor: Rate = 0.75
    """Longest step away from the clean hidden state, as a factor of its norm."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the step's length in the loss."""
    kl_factor: Annotated[float, Field(ge=0)] = 0.0625
    """Weight of the divergence on "{subject} is a"."""
    stop_loss: Annotated[float, Field(ge=0)] = 0.05
    """A request whose loss is below this is finished."""


class ContextSettings(Settings):
    """Prefixes sampled once from the unedited model, before which a fact is optimised to hold."""

    count: Count = 5
    """Sampled prefixes beside the empty one."""
    length: Positive = 10
    """Tokens in a prefix."""
    seed: int = 0
    """Seed of the sampling."""
