"""What editing does to text that no edit is about: bits a byte, and how far the next token's distribution moved.

``bits_per_byte``  -log2 P of the text over its bytes in UTF-8, so that models with other tokenizers compare; two to the
                   power of it is a perplexity a byte.
``kl``             KL(unedited || edited) of the next token in nats, mean over positions.
``top1``           share of positions at which both put the same token first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.editing.stats import read_documents
from sphere.errors import InputError
from sphere.files import read_json
from sphere.models.adapters import Adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET, run_in_batches
from sphere.models.tokens import PAD, right_pad

COLUMNS = ("metric", "value", "stderr", "n")
METRICS = ("bits_per_byte", "kl", "top1")
_POSITIONS_AT_ONCE = 128
"""Positions whose two distributions over the vocabulary are held at one time."""


@dataclass(frozen=True)
class Passage:
    """The beginning of a text: what is fed to the model, and how many bytes its predicted tokens hold."""

    ids: tuple[int, ...]
    bytes: int


def read_texts(path: Path, *, skip: int = 0, count: int) -> list[str]:
    """``count`` texts of a file, behind the first ``skip``.

    The file has texts separated by blank lines, or is a JSON list of objects with a "Text", as ME-PPL's is (Yang et al.
    2024, arXiv 2402.09656). InputError, with how many there are, if they are too few.
    """
    if path.suffix == ".json":
        entries = read_json(path)
        if not isinstance(entries, list) or not all(isinstance(each, dict) and "Text" in each for each in entries):
            raise InputError(f'{path} holds no texts: give a JSON list of objects, each with a "Text"')
        texts = [str(each["Text"]).strip() for each in entries]
    else:
        texts = read_documents(path)
    found = [text for text in texts[skip:] if text][:count]
    if len(found) < count:
        behind = f" behind the {skip} that key statistics are taken from" if skip else ""
        raise InputError(f"neutral.passages asks for {count} texts, {path} has {len(found)}{behind}: lower it")
    return found


def passages(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, length: int) -> list[Passage]:
    """The first ``length`` tokens of each text; one in which no token is predicted is left out."""
    found = []
    encoded = tokenizer(list(texts), return_offsets_mapping=True, truncation=False, padding=False)
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if len(ids) < 2:
            continue
        begin, end = offsets[0][1], offsets[:length][-1][1]  # nothing predicts the first token
        found.append(Passage(tuple(ids[:length]), len(text[begin:end].encode())))
    if not sum(passage.bytes for passage in found):
        raise InputError("the neutral texts have no text to predict: give longer ones")
    return found


@torch.no_grad()
def states_of(
    parts: Adapter, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Passage], *, budget: int = DEFAULT_TOKEN_BUDGET
) -> list[Tensor]:
    """Final hidden states (T - 1, d) of each passage: those that predict its tokens from the second on.

    From them the head, which no method edits, gives the distributions of the next token.
    """
    found: dict[int, Tensor] = {}

    def run(batch: list[int]) -> None:
        ids, mask = right_pad([texts[i].ids for i in batch], PAD, parts.device)
        hidden = parts.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state  # (B, T, d)
        for row, i in enumerate(batch):
            found[i] = hidden[row, : len(texts[i].ids) - 1].clone()

    run_in_batches([len(text.ids) for text in texts], run, token_budget=budget)
    return [found[i] for i in range(len(texts))]


@torch.no_grad()
def compare(
    parts: Adapter, texts: Sequence[Passage], states: Sequence[Tensor], unedited: Sequence[Tensor] | None = None
) -> pd.DataFrame:
    """One row a metric with the columns ``COLUMNS``: of ``states``, and against those of the ``unedited`` model.

    Each is a ratio of sums over passages, and its standard error that of a ratio over ``n`` passages. Without
    ``unedited``, bits a byte alone.
    """
    bits, divergence, same = [], [], []
    for i, text in enumerate(texts):
        nats, kl, agreed = 0.0, 0.0, 0
        targets = torch.tensor(text.ids[1:], device=parts.device)
        for start in range(0, len(targets), _POSITIONS_AT_ONCE):
            part = slice(start, start + _POSITIONS_AT_ONCE)
            after = _log_probabilities(parts, states[i][part])  # (n, V)
            nats -= float(after.gather(1, targets[part, None]).sum(dtype=torch.float64))
            if unedited is not None:
                before = _log_probabilities(parts, unedited[i][part])
                kl += float((before.exp() * (before - after)).sum(dtype=torch.float64))
                agreed += int((before.argmax(-1) == after.argmax(-1)).sum())
        bits.append(nats / math.log(2))
        divergence.append(kl)
        same.append(agreed)
    size, tokens = [text.bytes for text in texts], [len(text.ids) - 1 for text in texts]
    rows = [("bits_per_byte", *ratio(bits, size), len(texts))]
    if unedited is not None:
        rows += [("kl", *ratio(divergence, tokens), len(texts)), ("top1", *ratio(same, tokens), len(texts))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _log_probabilities(parts: Adapter, states: Tensor) -> Tensor:
    """log P (n, V) of the next token behind each of ``states`` (n, d), in float32."""
    return parts.logits(states).float().log_softmax(-1)


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """The sum of ``above`` over that of ``below``, and its standard error over their pairs (NaN of one pair)."""
    n, total = len(above), sum(below)
    ratio = sum(above) / total
    if n < 2:
        return ratio, math.nan
    spread = sum((a - ratio * b) ** 2 for a, b in zip(above, below, strict=True)) / (n - 1)
    return ratio, math.sqrt(spread * n) / total
