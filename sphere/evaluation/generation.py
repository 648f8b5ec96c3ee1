"""Free generation in batches, greedy or sampled, and what is measured on its texts: fluency and consistency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from sphere.errors import InputError
from sphere.files import read_json
from sphere.models.adapters import Adapter, adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET, run_in_batches
from sphere.models.precision import finite

if TYPE_CHECKING:  # sklearn and nltk take a second to import, and most jobs need neither
    from sklearn.feature_extraction.text import TfidfVectorizer


@dataclass(frozen=True)
class GenerationSettings:
    """Which free generations an evaluation makes."""

    length: int = 100
    """Tokens of prompt and continuation together in the texts for fluency and consistency (Meng et al. 2022)."""
    records: int | None = None
    """How many records get free generations, evenly spread over the stream; None for all."""
    family: bool = True
    """Whether the ``generation`` family of metrics is measured too (13 short, greedy ones a CounterFact record)."""
    seed: int = 0
    """Of the texts for fluency and consistency, which are sampled."""

    def __post_init__(self) -> None:
        if self.length < 1 or (self.records is not None and self.records < 0):
            raise InputError(
                f"generation length {self.length} must be at least 1 and records {self.records} at least 0"
            )

    def chosen(self, total: int) -> list[int]:
        """Indices of the records, out of ``total``, that get free generations."""
        return evenly(total, self.records)


def evenly(total: int, count: int | None) -> list[int]:
    """``count`` indices (None: all) evenly spread over ``total``."""
    some = total if count is None else min(count, total)
    return [i * total // some for i in range(some)]


TOP_K = 5
"""Fluency and consistency are measured on texts sampled from this many likeliest tokens, as published."""


def continue_rows(
    model: PreTrainedModel,
    rows: Sequence[tuple[int, ...]],
    *,
    new_tokens: Sequence[int],
    pad: int,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    seed: int | None = None,
) -> list[tuple[int, ...]]:
    """Each row followed by ``new_tokens`` tokens, one at a time: the likeliest, or, with a ``seed``, sampled.

    Sampled is from the ``TOP_K`` likeliest tokens in proportion to their probabilities; what is drawn depends on the
    seed, the row itself and the model alone. No token ends a generation, as in the published measure of fluency: an end
    token is followed by whatever comes next. Rows are padded on the left with explicit masks and positions, so a row's
    neighbours in a batch change nothing. The continuation is cut where the model has no more positions.
    NumericalError if a logit is not finite.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    parts = adapter(model)
    wanted = [
        max(0, count if limit is None else min(count, limit - len(row)))
        for row, count in zip(rows, new_tokens, strict=True)
    ]
    done: list[tuple[int, ...]] = list(rows)

    def run(batch: list[int]) -> None:
        ids, mask = _left_pad([rows[i] for i in batch], pad, parts.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (B, T)
        cache = DynamicCache(config=model.config)
        chosen: list[Tensor] = []
        count = max(wanted[i] for i in batch)
        draws = None if seed is None else torch.tensor(np.stack([_draws(seed, rows[i], count) for i in batch]))
        for number in range(count):
            logits = _next_logits(parts, ids, mask, positions, cache)
            ids = logits.argmax(-1, keepdim=True) if draws is None else _sampled(logits, draws[:, number])  # (B, 1)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            positions = (positions[:, -1:] + 1).clamp(max=limit and limit - 1)  # a full row runs on, unused
            chosen.append(ids)
        tokens = torch.cat(chosen, dim=1).tolist() if chosen else [[] for _ in batch]
        for i, continuation in zip(batch, tokens, strict=True):
            done[i] = (*rows[i], *continuation[: wanted[i]])

    with torch.no_grad():
        run_in_batches(
            [len(row) + count for row, count in zip(rows, wanted, strict=True)], run, token_budget=token_budget
        )
    return done


def continue_until(
    model: PreTrainedModel,
    rows: Sequence[tuple[int, ...]],
    ended: Callable[[int, Sequence[int]], bool],
    *,
    new_tokens: int,
    pad: int,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> list[tuple[int, ...]]:
    """The likeliest continuation of each row alone, until it has ``ended`` or has ``new_tokens`` tokens.

    ``ended`` is told a row's index and its continuation so far, after each token. A row that has ended leaves its
    batch; padding and the end of the model's positions are as in ``continue_rows``.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    parts = adapter(model)
    wanted = [new_tokens if limit is None else max(0, min(new_tokens, limit - len(row))) for row in rows]
    done: list[tuple[int, ...]] = [() for _ in rows]

    def run(batch: list[int]) -> None:
        going = [i for i in batch if wanted[i]]
        said: dict[int, list[int]] = {i: [] for i in batch}
        cache = DynamicCache(config=model.config)
        if going:
            ids, mask = _left_pad([rows[i] for i in going], pad, parts.device)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (B, T)
        while going:
            ids = _next_logits(parts, ids, mask, positions, cache).argmax(-1, keepdim=True)  # (B, 1)
            for i, token in zip(going, ids[:, 0].tolist(), strict=True):
                said[i].append(token)
            left = [k for k, i in enumerate(going) if len(said[i]) < wanted[i] and not ended(i, said[i])]
            kept = torch.tensor(left, dtype=torch.long, device=parts.device)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)[kept]
            ids, positions = ids[kept], positions[kept, -1:] + 1
            cache.batch_select_indices(kept)
            going = [going[k] for k in left]
        for i in batch:
            done[i] = tuple(said[i])

    with torch.no_grad():
        run_in_batches([len(row) + new_tokens for row in rows], run, token_budget=token_budget)
    return done


def _next_logits(parts: Adapter, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Logits of the token behind each row, (B, V) float32; ``cache`` takes in the new positions."""
    state = parts.backbone(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    return finite(parts.logits(state[:, -1])).float()


def _draws(seed: int, row: Sequence[int], count: int) -> NDArray[np.float64]:
    """``count`` uniform numbers (count,) of this row's own; a longer draw begins with the shorter one."""
    return np.random.default_rng([seed, len(row), *row]).random(count)


def _sampled(logits: Tensor, uniform: Tensor) -> Tensor:
    """For each row of ``logits`` (B, V) one of its ``TOP_K`` likeliest tokens (B, 1), by its uniform number (B,)."""
    top = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
    reached = top.values.double().softmax(-1).cumsum(-1)  # (B, k)
    place = (reached <= uniform.to(reached.device)[:, None]).sum(-1, keepdim=True)
    return top.indices.gather(1, place.clamp(max=top.indices.shape[1] - 1))


def _left_pad(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """``rows`` padded on the left: ids and mask, both (B, T) int64."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def words_of(text: str) -> list[str]:
    """The words and punctuation marks of a text, as NLTK's word tokenizer splits them (Penn Treebank's rules).

    Sentences, at whose end a full stop is a word of its own, are found by Punkt without its trained list of
    abbreviations: that is a download (docs/methods.md says what it changes).
    """
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    sentences = PunktSentenceTokenizer().tokenize(text)
    return [word for sentence in sentences for word in NLTKWordTokenizer().tokenize(sentence)]


def n_gram_entropy(text: str) -> float:
    """Fluency of one text in bits: mean of its bi-gram entropy times 2/3 and its tri-gram entropy times 4/3.

    Words and punctuation marks are the units. A text that repeats itself scores low (Zhang et al. 2018; Meng et al.
    2022, who report it times 100).
    """
    words = words_of(text)
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    """Entropy in bits of the distribution of the ``n``-grams of ``words``; 0 where there are none."""
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def fit_tfidf(texts: Sequence[str]) -> TfidfVectorizer:
    """Word weights for ``consistency``, from the reference texts of a whole dataset."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer().fit(texts)
    except ValueError as error:
        raise InputError(
            "the reference texts hold no word of two letters or more: check the references file"
        ) from error


def read_tfidf(vocabulary: Path, frequencies: Path) -> TfidfVectorizer:
    """Word weights for ``consistency`` that were published: a JSON object word -> column, and the columns' inverse
    document frequencies (.npy), as Meng et al. (2022) took them from the reference texts of all of CounterFact."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = read_json(vocabulary)
    try:
        idf = np.load(frequencies, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{frequencies} is no NumPy array ({error}): delete it and fetch it again") from None
    if not isinstance(words, dict) or idf.shape != (len(words),) or sorted(words.values()) != list(range(len(words))):
        raise InputError(f"{vocabulary} and {frequencies} do not belong together: fetch both again")
    vectorizer = TfidfVectorizer(vocabulary=words)
    vectorizer.idf_ = idf
    return vectorizer


def consistency(tfidf: TfidfVectorizer, generated: Sequence[str], references: Sequence[str]) -> float:
    """TF-IDF cosine, in [0, 1], between a record's generations and its reference texts; 0 if either has no word."""
    vectors = tfidf.transform([" ".join(generated), " ".join(references)])  # (2, words), rows of length 1 or 0
    return float((vectors[0] @ vectors[1].T).toarray()[0, 0])
