"""What is checked of a model before it is edited: that it is what its family's row takes it for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sphere.errors import InputError
from sphere.models.adapters import Adapter
from sphere.models.hooks import capture_output, forward, removing

TOLERANCE = 0.05
"""Relative; a wrong map misses by about as much as the change itself."""


@torch.no_grad()
def check_arrival(parts: Adapter, layer: int) -> None:
    """Put a known change out of the projection of ``layer`` and look what its residual stream gets; then at the logits.

    InputError if that is not what the family's row says: an edit would then miss its target values.
    """
    size = min(5, parts.vocabulary)
    ids = torch.arange(1, size, device=parts.device)[None]
    last = parts.layer(parts.n_layers - 1)
    with (
        capture_output(parts.projection(layer)) as outputs,
        capture_output(parts.layer(layer)) as clean,
        capture_output(last) as top,
    ):
        logits = parts.model(input_ids=ids, use_cache=False).logits
    _compare(parts, parts.logits(parts.final_norm(top[0])), logits, "its logits are not what norm and head make")
    state, output = clean[0].float(), outputs[0].float()
    change = torch.randn(state.shape, generator=torch.Generator().manual_seed(0)).to(parts.device)
    change *= state.norm() / change.norm()
    if parts.family.behind:  # which takes the length away
        change *= output.norm() / state.norm()
    handle = parts.projection(layer).register_forward_hook(_adding(change))
    with removing([handle]), capture_output(parts.layer(layer), stop=True) as changed:
        forward(parts.backbone, input_ids=ids, use_cache=False)
    expected = state + parts.arrives(layer, output + change) - parts.arrives(layer, output)
    what = f"layer {layer}'s MLP does not enter the residual stream as its family's row says"
    _compare(parts, expected, changed[0].float(), what)


def _adding(change: Tensor) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output + change.to(output.dtype)

    return hook


def _compare(parts: Adapter, expected: Tensor, found: Tensor, what: str) -> None:
    expected, found = expected.float(), found.float()
    if not torch.isfinite(found).all() or float((expected - found).norm()) <= TOLERANCE * float(found.norm()):
        return  # what is not finite is refused where it is used, with the dtype to take
    kind = parts.model.config.model_type
    raise InputError(f"this model ({kind!r}): {what}, so edits would miss: see docs/adding-a-model.md")
