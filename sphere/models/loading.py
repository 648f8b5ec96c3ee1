"""A causal language model and its tokenizer, from a folder into memory."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from contextlib import nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sphere.errors import InputError
from sphere.models.adapters import adapter, known_family, quantised
from sphere.models.checks import check_arrival
from sphere.models.precision import dtype_name
from sphere.progress import ready

LOG = logging.getLogger(__name__)
GGUF = b"GGUF"
"""What a GGUF file begins with."""


DTYPES = ("F64", "F32", "F16", "BF16")
"""What safetensors calls the dtypes that weights may be stored in."""
ARITHMETIC = {torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"), torch.float16: ("avx512_fp16", "fp16_arith")}
"""What processors that compute in it say they have."""


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
    ``dtype`` is a torch dtype's name or None for the checkpoint's own (GGUF: float32; a half-precision one on a
    processor that does not compute in it: float32, which is said). ``trust_remote_code`` runs Python that the folder
    brings with it, and warns of it. Raises InputError if the folder, a file in it, the dtype or the device cannot be
    used, if weights are missing or quantised, or if no family fits the model (``known_family``, ``check_arrival``).
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
    if not gguf:
        _check_config(path, trust_remote_code=trust_remote_code)
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
    narrow = model.get_output_embeddings().weight.dtype
    if dtype is None and place.type == "cpu" and not computes_in(narrow):
        LOG.warning(f"{path}: {dtype_name(narrow)} taken as float32, much faster on this processor (dtype overrules)")
        model.float()
    model.to(place).eval().requires_grad_(False)
    parts = adapter(model)
    check_arrival(parts, default_layers(parts.n_layers)[-1])
    if not gguf:
        _use_own_pipeline(tokenizer, path)
    ready()
    return LoadedModel(model, tokenizer)


def default_layers(depth: int) -> tuple[int, ...]:
    """Layers 4 to 8 of 32, as MEMIT edits on Llama-sized models, scaled to ``depth`` and at least one."""
    first, last = round(depth * 4 / 32), round(depth * 8 / 32)
    return tuple(range(first, max(first + 1, last + 1)))


def computes_in(dtype: torch.dtype) -> bool:
    """Whether this machine's processor has arithmetic of its own for ``dtype``."""
    if dtype.itemsize >= 4:
        return True
    there = torch.cpu.get_capabilities()
    return any(there.get(unit, False) for unit in ARITHMETIC[dtype])


def _check_config(path: Path, *, trust_remote_code: bool) -> None:
    """Refuse what cannot be edited by config.json and the kinds of weights, before the weights are read."""
    try:
        plain = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be loaded as a causal language model ({error}): check its files") from error
    if scheme := plain.get("quantization_config") or plain.get("compression_config"):
        raise InputError(quantised(path, scheme))
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever configuration classes raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{path} cannot be loaded as a causal language model ({reason}): check its files") from error
    for file in sorted(path.glob("*.safetensors")):
        with suppress(SafetensorError), safe_open(str(file), framework="pt") as tensors:  # torn: said when it is read
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if name.endswith("weight") and (kind := tensors.get_slice(name).get_dtype()) not in DTYPES:
                    raise InputError(quantised(path, {"quant_method": f"weights stored as {kind}"}))
    try:
        known_family(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


PIPELINE = ("normalizer", "pre_tokenizer", "model", "decoder")
"""What of a tokenizer turns text into tokens and back."""


def _use_own_pipeline(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Put back what tokenizer.json says where AutoTokenizer built it anew from a class of its own, and say so.

    What adds special tokens follows tokenizer_config.json where that speaks of it.
    """
    file, backend = path / "tokenizer.json", getattr(tokenizer, "_tokenizer", None)
    if backend is None or not file.is_file():
        return
    mine, said = json.loads(backend.to_str()), json.loads(file.read_text(encoding="utf-8"))
    if all(mine[name] == said.get(name) for name in (*PIPELINE, "post_processor")):
        return
    own = Tokenizer.from_file(str(file))
    theirs = json.loads(own.to_str())  # as this version of the library writes it
    wanted = [name for name in PIPELINE if mine[name] != theirs[name]]
    settings = path / "tokenizer_config.json"
    told = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    if mine["post_processor"] != theirs["post_processor"] and not re.search(r'"add_(bos|eos)_token"', told):
        wanted.append("post_processor")
    for name in wanted:
        setattr(backend, name, getattr(own, name))
    if wanted:
        LOG.warning(f"{path}: tokenizer.json is used where its class would differ ({', '.join(wanted)})")


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
