"""The one place where text meets token positions.

Positions come from the tokenizer's character offsets on the whole text, never from the length of a separately
tokenised prefix, so a BOS token, merges across the prompt's end and the padding side change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.errors import InputError

PAD = 0
"""The token that fills padding. It is masked everywhere, so any that the model has serves: not the tokenizer's padding
or end token, either of which may lie beyond the model's embedding."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one text with the positions that editing and scoring ask for."""

    ids: tuple[int, ...]
    subject_last: int | None = None
    """Index of the subject's last token."""
    target_start: int | None = None
    """Index of the first target token; the target is ``ids[target_start:]``, all tokens behind the prompt."""


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str, *, target: str | None = None, subject_end: int | None = None
) -> Encoded:
    """Encode ``prompt`` (plus a space and ``target``) and locate subject and target.

    ``subject_end`` is the character offset in ``prompt`` just past the subject.
    Raises InputError if the target is empty or has no token of its own.
    """
    return encode_many(tokenizer, [(prompt, target, subject_end)])[0]


def encode_many(
    tokenizer: PreTrainedTokenizerBase, items: Iterable[tuple[str, str | None, int | None]]
) -> list[Encoded]:
    """``encode`` for many ``(prompt, target, subject_end)`` at once (one call of the fast tokenizer)."""
    items = list(items)
    if not items:
        return []
    if not tokenizer.is_fast:
        raise InputError("the tokenizer has no character offsets: load it with use_fast=True")
    texts = [prompt if target is None else join(prompt, target) for prompt, target, _ in items]
    batch = tokenizer(texts, return_offsets_mapping=True, padding=False, truncation=False)
    return [
        _locate(tuple(ids), offsets, prompt, target, subject_end, tokenizer)
        for (prompt, target, subject_end), ids, offsets in zip(
            items, batch["input_ids"], batch["offset_mapping"], strict=True
        )
    ]


def join(prompt: str, target: str) -> str:
    """The text a target is scored in: prompt, one space, target (its own leading space dropped)."""
    if not target.strip():
        raise InputError(f"the target of prompt {prompt!r} is empty: give at least one visible character")
    return f"{prompt} {target.strip()}"


def _locate(
    ids: tuple[int, ...],
    offsets: Sequence[tuple[int, int]],
    prompt: str,
    target: str | None,
    subject_end: int | None,
    tokenizer: PreTrainedTokenizerBase,
) -> Encoded:
    subject_last = target_start = None
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and offsets[len(ids) - 1][0] == offsets[len(ids) - 1][1]:
        ids = ids[:-1]  # an EOS that the tokenizer appends is part of no text
    offsets = offsets[: len(ids)]
    if subject_end is not None:
        inside = [i for i, (start, end) in enumerate(offsets) if start < subject_end and end > start]
        if not inside:
            raise InputError(f"no token of {prompt!r} lies in its subject: check subject and prompt")
        subject_last = inside[-1]
    if target is not None:
        # All behind the prompt's last token, so that a space of its own is the target's first; a token that holds
        # characters of both is the target's.
        begin = len(prompt) + 1
        theirs = [i for i, (start, end) in enumerate(offsets) if start < end <= begin and start < len(prompt)]
        visible = [i for i, (_, end) in enumerate(offsets) if end > begin]
        if not visible:
            raise InputError(f"the tokenizer cannot represent the target {target!r} of prompt {prompt!r}")
        target_start = min(theirs[-1] + 1 if theirs else visible[0], visible[0])
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids[target_start:]:
            raise InputError(f"the tokenizer cannot represent the target {target!r} of prompt {prompt!r}")
    return Encoded(ids, subject_last, target_start)


def right_pad(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Pad token rows on the right: ``input_ids`` and ``attention_mask``, both (B, T) int64."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)
