"""A model in higher precision for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


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


def dtype_name(dtype: torch.dtype) -> str:
    """A torch dtype as settings call it: ``float32``."""
    return str(dtype).removeprefix("torch.")
