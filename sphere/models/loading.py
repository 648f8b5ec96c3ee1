"""A causal language model and its tokenizer, from a folder into memory."""

from __future__ import annotations

import io
import re
import sys
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sphere.errors import InputError

GGUF = b"GGUF"
"""What a GGUF file begins with."""


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
    """Load a causal language model and its tokenizer for editing, in evaluation mode.

    ``path`` is a folder in Hugging Face's layout (safetensors only) or a GGUF file, whose weights are dequantised.
    ``dtype`` is a torch dtype's name or None for the checkpoint's own (GGUF: float32). ``trust_remote_code`` runs
    Python that the folder brings with it, and warns of it. Raises InputError if the folder, a file in it, the dtype or
    the device cannot be used, or if weights are missing.
    """
    path = Path(path)
    gguf = is_gguf(path)
    if not gguf and not (path / "config.json").is_file():
        raise InputError(f"{path} is not a Hugging Face model folder: give one with a config.json, or a .gguf file")
    wanted = (torch.float32 if gguf else "auto") if dtype is None else getattr(torch, dtype, None)
    if wanted != "auto" and not (isinstance(wanted, torch.dtype) and wanted.is_floating_point):
        raise InputError(f"{dtype!r} is not a torch dtype for weights: use float32, bfloat16 or float16")
    place = resolve_device(device)
    if trust_remote_code:
        print(f"warning: {path} may run its own code, since its model file says trust_remote_code", file=sys.stderr)
    where = path.parent if gguf else path
    how: dict[str, Any] = {"gguf_file": path.name} if gguf else {}
    try:
        with redirect_stderr(io.StringIO()) if gguf else nullcontext():  # a progress bar that nothing else turns off
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code, **how)
            found: Any = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=wanted,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                gguf_file=path.name if gguf else None,
            )
        model, report = found
    except Exception as error:  # the readers of configuration, tokenizer and weights each raise their own
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{path} cannot be loaded as a causal language model ({reason}): check its files") from error
    if gguf:
        _forget_quantisation(model)
    absent = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
    if absent:
        raise InputError(f"{path}: {absent[0]} is missing or has another shape than config.json says: check its files")
    model.to(place).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer)


def is_gguf(path: Path) -> bool:
    """Whether ``path`` is a GGUF file, by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF)) == GGUF
    except OSError:
        return False


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Let a dequantised model be what it is: one with plain weights, which can be saved."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
