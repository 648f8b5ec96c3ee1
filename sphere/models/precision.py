"""A model in higher precision for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sphere.errors import NumericalError


@contextmanager
def widened(model: PreTrainedModel) -> Iterator[torch.dtype]:
    """The model's parameters in float32 if they were narrower, else in float64, and back; yields the dtype.

    Buffers stay as they are: rotary frequencies are kept wider than the parameters, and would come back rounded.
    """
    wide = torch.float32 if model.get_output_embeddings().weight.dtype.itemsize < 4 else torch.float64
    before = [(parameter, parameter.dtype) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.data = parameter.data.to(wide)
        yield wide
    finally:
        for parameter, dtype in before:
            parameter.data = parameter.data.to(dtype)


def finite(logits: Tensor, refuse: bool = True) -> Tensor:
    """``logits`` themselves; if ``refuse``, NumericalError that names the dtype to take if one is not finite."""
    if not refuse or torch.isfinite(logits).all():
        return logits
    if logits.dtype.itemsize < 4:
        fix = "load it in float32 (--dtype float32, or dtype: float32 in its file in config/models/)"
    else:
        fix = "its weights are broken, or an edit has diverged"
    raise NumericalError(f"the model's logits are not finite in {dtype_name(logits.dtype)}: {fix}")


def dtype_name(dtype: torch.dtype) -> str:
    """A torch dtype as settings call it: ``float32``."""
    return str(dtype).removeprefix("torch.")
