"""Architecture adapters: where a causal language model keeps the matrices that are edited.

One row of ``FAMILIES`` an architecture, found by ``config.model_type`` and never by a model's name.
To add one, add a row here (docs/adding-a-model.md).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sphere.errors import InputError


@dataclass(frozen=True)
class Family:
    """Module paths of one architecture, relative to the causal language model."""

    backbone: str
    """The transformer without the language-modelling head."""
    layers: str
    """Its list of layers."""
    projection: str
    """Within a layer: the MLP's output projection, the matrix that is edited."""
    final_norm: str
    transposed: bool = False
    """Whether the projection stores (d_in, d_out), as GPT-2's Conv1D does."""


_LLAMA = Family("model", "model.layers", "mlp.down_proj", "model.norm")
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt2": Family("transformer", "transformer.h", "mlp.c_proj", "transformer.ln_f", transposed=True),
    "gptj": Family("transformer", "transformer.h", "mlp.fc_out", "transformer.ln_f"),
    "gpt_neox": Family("gpt_neox", "gpt_neox.layers", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
}


WIDENED = "_sphere_widened"
"""Where a module that is kept in float32 keeps its own dtype and the hooks that convert."""


class Adapter:
    """One model seen through its family: layers, edited weights as (d_out, d_in), norm and head."""

    def __init__(self, model: PreTrainedModel) -> None:
        family = FAMILIES.get(model.config.model_type)
        if family is None:
            raise InputError(
                f"no adapter for architecture {model.config.model_type!r}: add a row to FAMILIES in "
                f"sphere/models.py (docs/adding-a-model.md); known: {', '.join(sorted(FAMILIES))}"
            )
        self.model = model
        self.family = family
        self.backbone: nn.Module = model.get_submodule(family.backbone)
        layers = model.get_submodule(family.layers)
        assert isinstance(layers, nn.ModuleList)
        self.layers: nn.ModuleList = layers
        self.final_norm: nn.Module = model.get_submodule(family.final_norm)
        self.head: nn.Module = model.get_output_embeddings()
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = self.head.weight.dtype

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    def layer(self, index: int) -> nn.Module:
        return self.layers[self._checked(index)]

    def projection(self, index: int) -> nn.Module:
        """The edited module of layer ``index``; its input at the subject's last token is the key."""
        return self.layer(index).get_submodule(self.family.projection)

    def parameter(self, index: int) -> nn.Parameter:
        """The edited parameter as stored; see ``weight`` for its (d_out, d_in) view."""
        parameter = self.projection(index).weight
        assert isinstance(parameter, nn.Parameter)
        return parameter

    def weight(self, index: int) -> Tensor:
        """The edited weight as a (d_out, d_in) view sharing the model's storage; a neuron is a row."""
        stored = self.parameter(index).detach()
        return stored.T if self.family.transposed else stored

    def widen(self, indices: Iterable[int]) -> None:
        """Keep the edited modules of these layers in float32 from now on, whatever the rest of the model is in.

        Thousands of small updates would drown in the rounding of a half-precision weight. What goes in and out of the
        module keeps its own precision. A module that is float32 or wider, or widened already, stays as it is.
        """
        for index in indices:
            module, own = self.projection(index), self.parameter(index).dtype
            if torch.promote_types(own, torch.float32) == own:
                continue
            module.float()
            rest = self.head.weight  # the model's own precision, whatever that is when the module runs
            enter = module.register_forward_pre_hook(lambda _, args: (args[0].float(), *args[1:]))
            leave = module.register_forward_hook(lambda _, __, output, rest=rest: output.to(rest.dtype))
            module.__dict__[WIDENED] = (own, enter, leave)

    def narrow(self, indices: Iterable[int]) -> None:
        """Undo ``widen``: the weights are rounded to the module's own precision."""
        for index in indices:
            module = self.projection(index)
            if WIDENED in module.__dict__:
                own, *hooks = module.__dict__.pop(WIDENED)
                for hook in hooks:
                    hook.remove()
                module.to(own)

    def set_weight(self, index: int, value: Tensor) -> None:
        """Write a (d_out, d_in) matrix into the model, cast to the parameter's own dtype."""
        self.weight(index).copy_(value)

    def check_length(self, tokens: int, prompt: str) -> None:
        """InputError if ``tokens`` are more than the model has positions for."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and tokens > limit:
            raise InputError(f"prompt {prompt[:40]!r}... has {tokens} tokens, the model takes {limit}: shorten it")

    def weight_name(self, index: int) -> str:
        """The parameter's name in the model's state dict."""
        return f"{self.family.layers}.{self._checked(index)}.{self.family.projection}.weight"

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.n_layers:
            raise InputError(f"layer {index} is not in this model: it has layers 0 to {self.n_layers - 1}")
        return index


def adapter(model: PreTrainedModel) -> Adapter:
    """The adapter of ``model``; InputError naming the file to extend if its architecture is unknown."""
    return Adapter(model)


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
