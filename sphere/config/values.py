"""What target values are optimised with: ``values`` and ``contexts`` of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from sphere.config.base import Count, Positive, Rate, Settings, validated


class ValueSettings(Settings):
    """Optimisation of the target values z (MEMIT, section 4.3.1)."""

    lr: Rate = 0.5
    """Adam's learning rate."""
    steps: Annotated[int, Field(ge=2)] = 25
    """Evaluations of the loss at most; all but the last are followed by an update: 25 is 24 updates, as published."""
    clamp_norm_factor: Rate = 0.75
    """Longest step away from the clean state (``relative_to``), as a factor of its norm."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the step's length, over the squared norm of the clean state, in the loss."""
    kl_factor: Annotated[float, Field(ge=0)] = 0.0625
    """Weight of the divergence on "{subject} is a"."""
    stop_loss: Annotated[float, Field(ge=0)] = 0.05
    """A request whose loss is below this is finished."""
    weights: Literal["current", "pretrained"] = "current"
    """The model they are optimised on: as edited so far (the papers' protocol), or before any edit (another one)."""
    relative_to: Literal["hidden", "mlp"] = "hidden"
    """The clean state: the layer's output (MEMIT and its kin) or its MLP's (ROME)."""
    residual: Literal["spread", "ends", "replay"] = "spread"
    """What each layer is to add: an equal share towards the last layer's value (MEMIT); ``ends``, the first and last
    alone, each towards a value of its own (BLUE); ``replay``, all towards what follows from the first's (FE)."""
    stop: Literal["loss", "most_probable"] = "loss"
    """When a request is finished: its loss below ``stop_loss``, or its target the likeliest text everywhere (MPES)."""
    anchor: bool = False
    """Scale values to the mean length of the first batch's, and skip requests of twice that length (NAS)."""

    def optimised_with(self) -> dict[str, Any]:
        """The settings that target values depend on where they are found: all but what is done to them afterwards."""
        return {key: value for key, value in self.plain().items() if key != "anchor"}

    def changed(self, overrides: Mapping[str, Any], where: str) -> ValueSettings:
        """These settings with some replaced; InputError, which begins with ``where``, on a bad or unknown one."""
        return validated(ValueSettings, {**self.model_dump(), **overrides}, where) if overrides else self


class ContextSettings(Settings):
    """Prefixes sampled once from the unedited model, before which a fact is optimised to hold."""

    count: Count = 5
    """Sampled prefixes beside the empty one."""
    length: Positive = 10
    """Tokens in a prefix."""
    seed: int = 0
    """Seed of the sampling."""
