"""Architecture adapters: where a causal language model keeps the matrices that are edited.

One row of ``FAMILIES`` an architecture, found by ``config.model_type`` and never by a model's name.
To add one, add a row here, or in a package of your own (docs/adding-a-model.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sphere.errors import InputError, NumericalError
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
    behind: str = ""
    """Within a layer: the RMS norm that the projection's output passes before it enters the residual stream, if any."""
    factor: str = ""
    """Key of config.json: the number that the output is multiplied by before it enters the stream, if any."""


_LLAMA = Family("model", "model.layers", "mlp.down_proj", "model.norm")
_NORMED = replace(_LLAMA, behind="post_feedforward_layernorm")
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "smollm3": _LLAMA,
    "granite": replace(_LLAMA, factor="residual_multiplier"),
    "olmo2": _NORMED,
    "gemma2": _NORMED,
    "gemma3_text": _NORMED,
    "gpt2": Family("transformer", "transformer.h", "mlp.c_proj", "transformer.ln_f", transposed=True),
    "gptj": Family("transformer", "transformer.h", "mlp.fc_out", "transformer.ln_f"),
    "gpt_neox": Family("gpt_neox", "gpt_neox.layers", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""What config.json calls the number of experts."""
WIDENED = "_sphere_widened"
"""Where a module that is kept in float32 keeps its own dtype and the hooks that convert."""


class Adapter:
    """One model seen through its family: layers, edited weights as (d_out, d_in), norm and head."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.family: Family = known_family(model.config)
        family = self.family
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

    def mlp(self, index: int) -> nn.Module | None:
        """The module that the projection is a part of, through which each token goes alone; None: the layer itself."""
        name = self.family.projection.rpartition(".")[0]
        return self.layer(index).get_submodule(name) if name else None

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

    def check_narrow(self, indices: Iterable[int]) -> None:
        """NumericalError if a weight of these layers is not finite in the module's own precision."""
        for index in indices:
            own = self.projection(index).__dict__.get(WIDENED, (self.parameter(index).dtype,))[0]
            if bad := int((~torch.isfinite(self.weight(index).to(own))).sum()):
                name = str(own).removeprefix("torch.")
                raise NumericalError(
                    f"the edited weight of layer {index} has {bad} entries that {name} cannot hold: "
                    "load the model in float32 (--dtype float32)"
                )

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

    def logits(self, states: Tensor) -> Tensor:
        """Logits (..., V) of normed states (..., d): the head, and what some families do to its output."""
        found: Tensor = self.head(states)
        divisor, cap = (getattr(self.model.config, key, None) for key in ("logits_scaling", "final_logit_softcapping"))
        if divisor is not None:  # Granite
            found = found / divisor
        return found if cap is None else cap * torch.tanh(found / cap)  # Gemma

    def window(self, index: int) -> int | None:
        """How many positions, its own among them, a token of layer ``index`` sees; None: all before it."""
        config = self.model.config
        kinds = getattr(config, "layer_types", None)
        if kinds is not None and kinds[self._checked(index)] != "sliding_attention":
            return None
        return getattr(config, "sliding_window", None)

    # ------------------------------------------------------------- from the projection into the residual stream

    def output(self, index: int, keys: Tensor) -> Tensor:
        """What the projection of layer ``index`` puts out for ``keys`` (d_in, n), as it stands: (d_out, n)."""
        found = self.weight(index).to(keys.dtype) @ keys
        bias = getattr(self.projection(index), "bias", None)
        return found if bias is None else found + bias.to(keys.dtype)[:, None]

    def arrives(self, index: int, outputs: Tensor) -> Tensor:
        """What the residual stream gets of the projection's ``outputs`` (..., d) at layer ``index``."""
        if self.family.behind:
            arrived: Tensor = self.layer(index).get_submodule(self.family.behind)(outputs)
            return arrived
        return outputs * self._factor() if self.family.factor else outputs

    def sent(self, index: int, outputs: Tensor, change: Tensor) -> Tensor:
        """How the projection's ``outputs`` (..., d) must change for the residual stream to get ``change`` more.

        Behind a norm, what arrives lies on an ellipsoid, y = g x / rms(x): the output keeps its length and gets the
        direction that gives y + ``change``, or, where that is not on the ellipsoid, the point of it in its direction.
        """
        if self.family.behind:
            gain = self._gain(index, outputs.dtype)
            aim = (self.arrives(index, outputs) + change) / gain.where(gain != 0, torch.inf)
            length = outputs.norm(dim=-1, keepdim=True)
            return aim * (length / aim.norm(dim=-1, keepdim=True).clamp_min(1e-12)) - outputs
        return change / self._factor() if self.family.factor else change

    def reachable(self, index: int, outputs: Tensor, change: Tensor) -> Tensor:
        """The part of ``change`` (..., d) of the residual stream that a change of ``outputs`` can make; all, mostly."""
        if not self.family.behind:
            return change
        moved = self.arrives(index, outputs + self.sent(index, outputs, change))
        return moved - self.arrives(index, outputs)

    def _factor(self) -> float:
        return float(getattr(self.model.config, self.family.factor))

    def _gain(self, index: int, dtype: torch.dtype) -> Tensor:
        """The norm's gain g (d,), however its weight is stored: what it makes of a long vector of equal entries."""
        width = self.model.config.hidden_size
        gain: Tensor = self.arrives(index, torch.full((width,), 1e3, dtype=dtype, device=self.device))
        return gain

    # --------------------------------------------------------------------------------------------------- checks

    def check_known(self, ids: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """InputError if the model has no embedding for one of the tokens ``ids`` of ``text``."""
        known = self.vocabulary
        if (unknown := max(ids, default=0)) >= known:
            token = tokenizer.convert_ids_to_tokens(unknown)
            raise InputError(
                f"{text[:40]!r}... has the token {token!r} (id {unknown}), which the "
                f"model lacks (it has {known}): leave it out, or take the tokenizer that belongs to the model"
            )

    def check_row(self, ids: Sequence[int], text: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """``check_known``, and InputError if the model has fewer positions than ``text`` has tokens."""
        self.check_known(ids, text, tokenizer)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and len(ids) > limit:
            raise InputError(f"prompt {text[:40]!r}... has {len(ids)} tokens, the model takes {limit}: shorten it")

    @property
    def vocabulary(self) -> int:
        """How many tokens the model has an embedding for."""
        return next(self.model.get_input_embeddings().parameters()).shape[0]

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


def known_family(config: PreTrainedConfig) -> Family:
    """The family of a model's configuration; InputError that says what the model is if it has none."""
    kind, family = config.model_type, family_of(config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(quantised(kind, config.quantization_config))
    if family is not None:
        return family
    if any(getattr(config, key, None) is not None for key in ("vision_config", "audio_config")):
        raise InputError(f"architecture {kind!r} reads images or sound beside text: take a text model of its family")
    if any(getattr(config, key, None) for key in EXPERTS):
        raise InputError(f"architecture {kind!r} is a mixture of experts, no single MLP: take a dense model")
    known = sorted([*FAMILIES, *names("sphere.families")])
    raise InputError(
        f"no adapter for architecture {kind!r}: add a row to FAMILIES in "
        f"sphere/models/adapters.py (docs/adding-a-model.md); known: {', '.join(known)}"
    )


def quantised(what: object, settings: Any) -> str:
    """One line on a quantised model: its scheme, and the way out. ``settings``: its ``quantization_config``."""
    given = settings if isinstance(settings, Mapping) else settings.to_dict()
    method = given.get("quant_method", "an unknown scheme")
    scheme = str(getattr(method, "value", method))
    bits = next((n for n in (4, 8) if given.get(f"load_in_{n}bit")), given.get("bits"))
    scheme += f", {bits} bit" if bits else ""
    return (
        f"{what} is quantised ({scheme}), and such weights cannot be edited: take the unquantised original, "
        "or a GGUF file of it, which is dequantised"
    )


def adapter(model: PreTrainedModel) -> Adapter:
    """The adapter of ``model``; InputError naming the file to extend if its architecture is unknown."""
    return Adapter(model)
