"""Key second moments C = E[k k^T] over natural text, of all edited layers in one pass; and, where a method asks, S.

S = E[g g^T], g the gradient of the text's loss at a layer's output: the other factor of K-FAC's curvature.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sphere.errors import InputError, NumericalError
from sphere.files import write_atomically
from sphere.models.adapters import Adapter
from sphere.models.batching import CHUNK, DEFAULT_TOKEN_BUDGET, KEPT_SHARE, run_in_batches
from sphere.models.hooks import capture_inputs, forward, removing
from sphere.models.tokens import PAD, right_pad


@dataclass(frozen=True)
class Statistics:
    """What editing asks of natural text, per layer."""

    second_moments: dict[int, Tensor]
    """Layer -> C (d_in, d_in) float64, uncentred, divided by the token count."""
    probe_keys: dict[int, Tensor]
    """Layer -> (d_in, m) float64: keys of the last documents, which C does not hold; for measured perturbations."""
    tokens: int
    """How many tokens C was taken over."""
    output_moments: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> S (d_out, d_out) float64, likewise divided by the token count; empty unless gradients were taken."""
    held_out: int = 0
    """How many tokens were kept out of it; not saved."""

    @property
    def summary(self) -> str:
        return f"key statistics from {self.tokens} tokens, {self.held_out} kept out of them"

    def save(self, path: Path) -> None:
        """Write the statistics as one safetensors file, the same bytes whenever they are the same.

        Its metadata has one entry: the order of several would differ from process to process.
        """
        tensors = {f"second_moment.{i}": c for i, c in self.second_moments.items()}
        tensors |= {f"probe_keys.{i}": k.contiguous() for i, k in self.probe_keys.items()}
        tensors |= {f"output_moment.{i}": s for i, s in self.output_moments.items()}
        note = {"tokens": str(self.tokens)}
        with write_atomically(path) as temporary:
            save_file({name: t.cpu() for name, t in tensors.items()}, str(temporary), metadata=note)

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Statistics:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            tokens = int((file.metadata() or {}).get("tokens", 0))
        by_layer: dict[str, dict[int, Tensor]] = {"second_moment": {}, "probe_keys": {}, "output_moment": {}}
        for name, tensor in tensors.items():
            kind, layer = name.rsplit(".", 1)
            by_layer[kind][int(layer)] = tensor
        return cls(by_layer["second_moment"], by_layer["probe_keys"], tokens, by_layer["output_moment"])


def read_documents(path: str | Path) -> list[str]:
    """The documents of a file: of .jsonl the ``text`` of each line, else the parts between blank lines, or the lines.

    A line of white space is blank. Where no line is, each line is a document.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"corpus {path} cannot be read as UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        parts = [_text_of(line, f"corpus {path}: line {i}") for i, line in lines]
    else:
        parts = re.split(r"\n\s*\n", text.strip())
        parts = parts if len(parts) > 1 else text.splitlines()
    documents = [part.strip() for part in parts if part.strip()]
    if not documents:
        raise InputError(f"corpus {path} has no text: give documents separated by blank lines, or .jsonl")
    return documents


def _text_of(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}): give one object a line") from None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise InputError(f'{where} has no text: give lines such as {{"text": "..."}}')
    return text


@torch.no_grad()
def collect_statistics(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    layers: Iterable[int],
    *,
    max_length: int = 1024,
    probe_keys: int = 256,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    gradients: bool = False,
) -> Statistics:
    """One pass over ``documents`` for all ``layers``; the pass ends at the last of them.

    With ``gradients`` S is taken too, and the pass goes through the whole model, and back.

    Documents are cut into pieces of ``max_length`` tokens, or what the model takes. The last pieces, up to
    ``probe_keys`` keys and never more than a tenth of all, are kept out of C. float32 products, float64 sums.
    Raises InputError if there is no text or a token that the model lacks, NumericalError if a moment is not finite.
    """
    layers = sorted(set(layers))
    max_length = min(max_length, getattr(adapter.model.config, "max_position_embeddings", max_length))
    found = tokenizer(list(documents), truncation=False)["input_ids"] if documents else []
    for text, ids in zip(documents, found, strict=True):
        adapter.check_known(ids, text, tokenizer)
    rows = [tuple(ids[i : i + max_length]) for ids in found for i in range(0, len(ids), max_length)]
    if not rows:
        raise InputError("the corpus for key statistics has no text: give at least one document")
    held = _held_out(rows, probe_keys)
    modules = {i: adapter.projection(i) for i in layers}
    size = {i: adapter.weight(i).shape[1] for i in layers}
    exact: dict[str, Any] = {"dtype": torch.float64, "device": adapter.device}
    sums = {i: torch.zeros(size[i], size[i], **exact) for i in layers}
    probes = {i: torch.zeros(size[i], 0, **exact) for i in layers}
    width = adapter.model.config.hidden_size
    curved = {i: torch.zeros(width, width, **exact) for i in layers if gradients}

    def keys(batch: list[int]) -> dict[int, Tensor]:
        ids, mask = right_pad([rows[i] for i in batch], PAD, adapter.device)
        with capture_inputs(modules, stop_after=layers[-1]) as seen:
            forward(adapter.backbone, input_ids=ids, attention_mask=mask, use_cache=False)
        real = mask.bool()
        return {i: seen[i][real] for i in layers}  # (tokens, d_in)

    def add(batch: list[int]) -> None:
        seen, sloped = keys(batch), dict[int, Tensor]()
        if gradients:
            sloped = output_gradients(adapter, [rows[i] for i in batch], layers)
        products = [(sums[i], _product(k)) for i, k in seen.items()] + [
            (curved[i], _product(g)) for i, g in sloped.items()
        ]
        for total, product in products:  # after all of them: a batch that runs out of memory has added nothing
            total += product

    kept = len(rows) - held
    budget = token_budget // KEPT_SHARE if gradients else token_budget
    run_in_batches([len(row) for row in rows[:kept]], add, token_budget=max(1, budget))
    if held:
        for i, seen in keys(list(range(kept, len(rows)))).items():
            probes[i] = seen[:probe_keys].double().T
    tokens, out = (sum(map(len, some)) for some in (rows[:kept], rows[kept:]))
    for i in layers:
        if not torch.isfinite(sums[i]).all():
            raise NumericalError(f"key statistics of layer {i} are not finite: load the model in a wider dtype")
        sums[i] /= tokens
    for i, total in curved.items():
        if not torch.isfinite(total).all():
            raise NumericalError(f"text's gradients at layer {i} are not finite: load the model in a wider dtype")
        total /= tokens
    return Statistics(sums, probes, tokens, curved, out)


def _product(rows: Tensor) -> Tensor:
    """rows^T rows (d, d) in float32 or wider."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return wide.T @ wide


@torch.enable_grad()
def output_gradients(adapter: Adapter, rows: Sequence[Sequence[int]], layers: Sequence[int]) -> dict[int, Tensor]:
    """Layer -> g (tokens, d_out): the gradient of the text's summed next-token loss at the edited projection's output.

    Rows in turn, the tokens of a row in order. The logits are never all there: ``CHUNK`` positions at a time.
    """
    ids, mask = right_pad(rows, PAD, adapter.device)
    zeros: dict[int, Tensor] = {}

    def adding(layer: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            zeros[layer] = torch.zeros_like(output, requires_grad=True)
            return output + zeros[layer]

        return hook

    handles = [adapter.projection(i).register_forward_hook(adding(i)) for i in layers]
    with removing(handles):
        states = adapter.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, d)
    asked = mask[:, 1:].bool()  # whose next token is there
    slopes = torch.zeros_like(states)
    flat, labels = states[:, :-1][asked].detach(), ids[:, 1:][asked]
    found = []
    for part, wanted in zip(flat.split(CHUNK), labels.split(CHUNK), strict=True):
        leaf = part.requires_grad_(True)
        logits = adapter.logits(leaf)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        found += torch.autograd.grad(loss, leaf)
    if found:
        slopes[:, :-1][asked] = torch.cat(found)
    each = torch.autograd.grad(states, list(zeros.values()), slopes)
    return {i: g[mask.bool()] for i, g in zip(zeros, each, strict=True)}


def _held_out(rows: Sequence[Sequence[int]], wanted: int) -> int:
    """How many pieces at the end to keep out of C."""
    count = tokens = 0
    while tokens < wanted and count < len(rows) // 10:
        count += 1
        tokens += len(rows[-count])
    return count
