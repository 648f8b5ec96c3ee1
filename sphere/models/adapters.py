"""Architecture adapters: where a causal language model keeps the matrices that are edited.

One row of ``FAMILIES`` an architecture, found by ``config.model_type`` and never by a model's name.
To add one, add a row here, or in a package of your own (docs/adding-a-model.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sphere.errors import InputError
from sphere.plugins import added, names


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
        family = family_of(model.config.model_type)
        if family is None:
            known = sorted([*FAMILIES, *names("sphere.families")])
            raise InputError(
                f"no adapter for architecture {model.config.model_type!r}: add a row to FAMILIES in "
                f"sphere/models/adapters.py (docs/adding-a-model.md); known: {', '.join(known)}"
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


def family_of(model_type: str) -> Family | None:
    """The family of an architecture, ours or another package's (``sphere.plugins``); None if nobody knows it."""
    found = added("sphere.families", model_type, known=FAMILIES)
    if found is not None:
        family: Family = found.of_kind(Family, "a Family")
        return family
    return FAMILIES.get(model_type)


def adapter(model: PreTrainedModel) -> Adapter:
    """The adapter of ``model``; InputError naming the file to extend if its architecture is unknown."""
    return Adapter(model)
