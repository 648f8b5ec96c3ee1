"""A model in higher precision for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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


_lenient: ContextVar[bool] = ContextVar("lenient", default=False)


@contextmanager
def diverged_may_miss(whether: bool = True) -> Iterator[None]:
    """Let logits that are not finite pass as long as the block lasts: whatever is scored by them is a miss."""
    before = _lenient.set(whether)
    try:
        yield
    finally:
        _lenient.reset(before)


def finite(logits: Tensor) -> Tensor:
    """``logits`` themselves; NumericalError that names the dtype to take if one is not (``diverged_may_miss``)."""
    if _lenient.get() or torch.isfinite(logits).all():
        return logits
    if logits.dtype.itemsize < 4:
        fix = "load it in float32 (--dtype float32, or dtype: float32 in its file in config/models/)"
    else:
        fix = "its weights are broken, or an edit has diverged"
    raise NumericalError(f"the model's logits are not finite in {dtype_name(logits.dtype)}: {fix}")


def dtype_name(dtype: torch.dtype) -> str:
    """A torch dtype as settings call it: ``float32``."""
    return str(dtype).removeprefix("torch.")
