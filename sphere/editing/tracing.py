"""Causal tracing: at which layers the MLP's output at a subject's last token carries what the model says of it.

Meng et al. 2022 (ROME), section 2: the subject's embeddings are corrupted, and the MLP outputs of a window of layers
put back to what they were; how much of the answer's probability returns is the window's indirect effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.data.records import EditRequest
from sphere.errors import InputError
from sphere.models.adapters import Adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET
from sphere.models.hooks import capture_output
from sphere.models.precision import finite
from sphere.progress import track

WINDOW = 10 / 48
"""Layers that are put back at once, as a share of all: 10 of GPT-2 XL's 48 (section 2.2)."""
NOISE = 3.0
"""Standard deviation of the corruption, in standard deviations of the subjects' embeddings."""


@dataclass(frozen=True)
class Effects:
    """Of n requests: probabilities of the model's own next token, under L windows of layers."""

    clean: Tensor
    """(n,) of the unchanged prompt."""
    corrupted: Tensor
    """(n,) with the subject corrupted, mean over the draws."""
    restored: Tensor
    """(n, L) with the window around each layer put back, mean over the draws."""
    window: int
    """Layers in a window."""

    @property
    def indirect(self) -> Tensor:
        """(n, L) the indirect effect of each layer's window."""
        return self.restored - self.corrupted[:, None]


def default_window(depth: int) -> int:
    return max(1, round(WINDOW * depth))


@torch.no_grad()
def trace(
    parts: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    *,
    window: int,
    generator: torch.Generator,
    draws: int = 3,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> Effects:
    """The effects of all layers at each request's subject's last token.

    The answer is the token that the model itself likes best behind the prompt, known or not. ``generator`` lives on the
    CPU. Raises InputError if there is no request.
    """
    if not requests:
        raise InputError("there is nothing to trace: give at least one request")
    texts = [_Text.of(parts, tokenizer, request) for request in requests]
    embedding = parts.model.get_input_embeddings()
    subjects = torch.cat([embedding(text.ids[0, text.subject].to(parts.device)) for text in texts])
    scale = NOISE * float(subjects.float().std())
    clean, corrupted, restored = [], [], []
    for text in track(texts, f"tracing {len(texts)} facts"):
        noise = scale * torch.randn(draws, len(text.subject), subjects.shape[1], generator=generator)
        found = _traced(parts, text, noise, window, max(1, token_budget // text.ids.shape[1]))
        clean.append(found[0])
        corrupted.append(found[1])
        restored.append(found[2])
    return Effects(torch.tensor(clean), torch.tensor(corrupted), torch.stack(restored), window)


@dataclass(frozen=True)
class _Text:
    ids: Tensor
    """(1, T)."""
    subject: list[int]
    """Positions of the subject's tokens."""

    @classmethod
    def of(cls, parts: Adapter, tokenizer: PreTrainedTokenizerBase, request: EditRequest) -> _Text:
        found = tokenizer(request.prompt, return_offsets_mapping=True)
        ids = found["input_ids"]
        parts.check_row(ids, request.prompt, tokenizer)
        spans = list(enumerate(found["offset_mapping"]))
        inside = [i for i, (a, b) in spans if a < request.subject_end and b > request.subject_start and b > a]
        if not inside or inside[-1] == len(ids) - 1:
            raise InputError(f"case {request.case_id}: {request.prompt!r} needs text behind its subject to be traced")
        return cls(torch.tensor([ids]), inside)


def _traced(parts: Adapter, text: _Text, noise: Tensor, window: int, rows: int) -> tuple[float, float, Tensor]:
    """Probability of the answer: clean, corrupted, and (L,) with each layer's window restored; mean over ``noise``."""
    depth, last = parts.n_layers, text.subject[-1]
    ids = text.ids.to(parts.device)
    with ExitStack() as stack:
        seen = [stack.enter_context(capture_output(parts.projection(i))) for i in range(depth)]
        probabilities = _next(parts, ids)[0]
    states = [output[0][0, last].clone() for output in seen]
    answer = int(probabilities.argmax())
    plan = [(draw, centre) for draw in range(len(noise)) for centre in range(-1, depth)]  # -1: nothing is put back
    found = torch.empty(len(noise), depth + 1, dtype=torch.float64)
    for start in range(0, len(plan), rows):
        some = plan[start : start + rows]
        draw, centre = (torch.tensor(column) for column in zip(*some, strict=True))
        added = noise[draw].to(parts.device)
        with ExitStack() as stack:
            corrupting = parts.model.get_input_embeddings().register_forward_hook(_corrupting(text.subject, added))
            stack.callback(corrupting.remove)
            for i, state in enumerate(states):
                low = centre - window // 2
                inside = ((centre >= 0) & (low <= i) & (i < low + window)).nonzero().flatten().to(parts.device)
                if len(inside):
                    handle = parts.projection(i).register_forward_hook(_restoring(inside, last, state))
                    stack.callback(handle.remove)
            found[draw, centre + 1] = _next(parts, ids.expand(len(some), -1))[:, answer].cpu()
    mean = found.mean(0)
    return float(probabilities[answer]), float(mean[0]), mean[1:]


def _next(parts: Adapter, ids: Tensor) -> Tensor:
    """Probabilities (B, V) of the next token, float64."""
    states = parts.backbone(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
    return finite(parts.logits(states)).double().softmax(-1)


def _corrupting(positions: Sequence[int], noise: Tensor) -> Any:
    def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, list(positions)] += noise.to(output.dtype)
        return changed

    return hook


def _restoring(rows: Tensor, position: int, state: Tensor) -> Any:
    def hook(_module: Any, _args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[rows, position] = state
        return changed

    return hook
