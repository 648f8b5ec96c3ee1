"""A causal language model and its tokenizer, from a folder into memory."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sphere.errors import InputError


@dataclass(frozen=True)
class LoadedModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def resolve_device(device: str) -> torch.device:
    """``auto`` takes a GPU where there is one; anything else is taken at its word or refused."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N")
    place = torch.device(device)
    if place.type == "cuda":
        there = torch.cuda.device_count()
        if not there:
            raise InputError(f"device {device!r} was asked for but torch sees no GPU: use device: auto or cpu")
        if (place.index or 0) >= there:
            raise InputError(f"device {device!r} was asked for, torch sees {there} GPUs: use cuda:{there - 1} or less")
    return place


def load(
    path: str | Path, *, device: str = "auto", dtype: str | None = None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load a causal language model and its tokenizer from a folder for editing (safetensors only, evaluation mode).

    ``dtype`` is a torch dtype's name or None for the checkpoint's own. ``trust_remote_code`` runs Python that the
    folder brings with it, and warns of it. Raises InputError if the folder, a file in it,
    the dtype or the device cannot be used, or if weights are missing.
    """
    if not (Path(path) / "config.json").is_file():
        raise InputError(f"{path} is not a Hugging Face model folder: give one with a config.json")
    wanted = "auto" if dtype is None else getattr(torch, dtype, None)
    if wanted != "auto" and not (isinstance(wanted, torch.dtype) and wanted.is_floating_point):
        raise InputError(f"{dtype!r} is not a torch dtype for weights: use float32, bfloat16 or float16")
    place = resolve_device(device)
    if trust_remote_code:
        print(f"warning: {path} may run its own code, since its model file says trust_remote_code", file=sys.stderr)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        found: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=wanted,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        model, report = found
    except Exception as error:  # the readers of configuration, tokenizer and weights each raise their own
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{path} cannot be loaded as a causal language model ({reason}): check its files") from error
    absent = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
    if absent:
        raise InputError(f"{path}: {absent[0]} is missing or has another shape than config.json says: check its files")
    model.to(place).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer)
