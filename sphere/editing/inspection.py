"""What there is to know of a model before it is edited, and what an edit costs on this machine (``sphere check``)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.values import target_values
from sphere.models.adapters import Adapter
from sphere.models.loading import LoadedModel, default_layers
from sphere.models.precision import dtype_name

SAMPLE = "The mother tongue of Ada Lovelace is"
REQUEST = EditRequest(0, "Ada Lovelace", SAMPLE, SAMPLE.index("Ada"), "French", "English")
PROBE_STEPS = 3
"""Steps of the optimisation whose time is taken."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    what: str
    found: str
    problem: str = ""
    """What is wrong and what to do, where it cannot be edited as it is."""


def inspect(loaded: LoadedModel, *, values: ValueSettings | None = None) -> list[Finding]:
    """What ``loaded`` is, in the order of reading: it has passed the checks of ``load``.

    The cost is measured on one made-up fact without contexts; seconds are this machine's, now.
    """
    parts, tokenizer = Adapter(loaded.model), loaded.tokenizer
    layers = default_layers(parts.n_layers)
    width_out, width_in = parts.weight(layers[-1]).shape
    count = sum(parameter.numel() for parameter in loaded.model.parameters())
    sizes = f"{parts.n_layers} layers, width {width_out}, MLP {width_in}, {count:,} parameters"
    found = [
        Finding("architecture", f"{loaded.model.config.model_type}: {sizes}"),
        Finding("precision", f"{dtype_name(parts.dtype)} on {parts.device}"),
        Finding("edited matrix", f"{parts.weight_name(layers[0])} ({width_out} x {width_in}) of layers {list(layers)}"),
        Finding("residual stream", _stream(parts)),
        Finding("attention", _attention(parts)),
        *_tokenizer(parts, tokenizer),
        _finite_weights(parts),
        _finite_logits(parts, tokenizer),
    ]
    if not any(finding.problem for finding in found):
        found += _costs(loaded, parts, layers, values or ValueSettings())
    return found


def _stream(parts: Adapter) -> str:
    """Checked at load by a known change (``check_arrival``)."""
    if parts.family.behind:
        return f"gets the MLP's output behind {parts.family.behind}: only its direction counts"
    if parts.family.factor:
        return f"gets the MLP's output times {getattr(parts.model.config, parts.family.factor):g}"
    return "gets the MLP's output as it is"


def _attention(parts: Adapter) -> str:
    windows = {i: parts.window(i) for i in range(parts.n_layers)}
    short = sorted({window for window in windows.values() if window is not None})
    limit = getattr(parts.model.config, "max_position_embeddings", None)
    seen = "every layer sees the whole text"
    if short:
        some = sum(window is not None for window in windows.values())
        seen = f"{some} of {parts.n_layers} layers see a window of {short[0]} tokens"
    return seen + (f"; {limit:,} positions" if limit else "")


def _tokenizer(parts: Adapter, tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    kind = type(tokenizer).__name__
    if not tokenizer.is_fast:
        return [Finding("tokenizer", kind, "it has no character offsets: give the folder a tokenizer.json")]
    ids = tokenizer(SAMPLE)["input_ids"]
    back = str(tokenizer.decode(ids, skip_special_tokens=True))
    lost = "".join(back.split()) != "".join(SAMPLE.split())
    problem = f"{SAMPLE!r} comes back as {back!r}: take the tokenizer that belongs to the model" if lost else ""
    sizes = f"{kind}, {len(tokenizer):,} tokens, the model has {parts.vocabulary:,}"
    special = {name: getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "pad")}
    missing = [name.upper() for name, token in special.items() if token is None]
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= parts.vocabulary]
    notes = [f"no {', '.join(missing)} (none is needed)"] if missing else []
    if beyond:
        notes.append(f"{len(beyond)} tokens that the model lacks, such as {sorted(beyond)[0]!r}: refused in a prompt")
    return [Finding("tokenizer", "; ".join([sizes, *notes]), problem)]


def _finite_weights(parts: Adapter) -> Finding:
    bad = [name for name, weight in parts.model.named_parameters() if not torch.isfinite(weight).all()]
    problem = f"{bad[0]} has entries that are not finite: fetch the checkpoint again" if bad else ""
    return Finding("weights", "not finite" if bad else "finite", problem)


@torch.no_grad()
def _finite_logits(parts: Adapter, tokenizer: PreTrainedTokenizerBase) -> Finding:
    ids = torch.tensor([tokenizer(SAMPLE)["input_ids"]], device=parts.device).clamp_max(parts.vocabulary - 1)
    good = bool(torch.isfinite(parts.model(input_ids=ids, use_cache=False).logits).all())
    problem = "" if good else f"they are not in {dtype_name(parts.dtype)}: load it with --dtype float32"
    return Finding("logits", "finite" if good else "not finite", problem)


def _costs(loaded: LoadedModel, parts: Adapter, layers: tuple[int, ...], values: ValueSettings) -> list[Finding]:
    quick = values.model_copy(update={"steps": PROBE_STEPS, "stop_loss": 0.0})
    start = time.perf_counter()
    target_values(parts, loaded.tokenizer, [REQUEST], Contexts(), layer=layers[-1], settings=quick)
    seconds = (time.perf_counter() - start) / PROBE_STEPS * values.steps
    inner = parts.weight(layers[-1]).shape[1]
    memory = f"{len(layers) * 8 * inner**2 / 2**30:.2g} GiB for {len(layers)} layers"
    return [
        Finding("an edit", f"about {seconds:.2g} s for a target value of {values.steps} steps, times the contexts"),
        Finding("key statistics", f"{memory}; text of many more than {inner:,} tokens"),
    ]
