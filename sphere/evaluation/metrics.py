"""Editing metrics: one row a record, every family under its own name.

Families (docs and tables name the one they show), each for efficacy (rewrite prompt), generalization (paraphrases) and
specificity (neighbourhood prompts; for zsRE the unrelated question):

``success``         share of prompts with NLL(new) < NLL(true), for specificity NLL(true) < NLL(new); a tie is no
                    success. NLL is the mean over the target's tokens (Meng et al. 2022). NaN without a true target
                    (zsRE).
``accuracy``        share of prompts on which teacher-forced argmax gives every target token.
``token_accuracy``  share of target tokens given by teacher-forced argmax, over all tokens of the record's prompts.
``generation``      share of greedy free generations that begin with the target.
``strict``          share of whole free answers, behind the bare prompt, that are the target or an alias of it
                    (``evaluation.strict``); ``strict_question``, of answers to the prompt put as a question.
``belief``          log-odds of the target against the other object in nats: log P(target) - log P(other), each a sum
                    over tokens (``success`` compares means), mean over prompts. NaN without a true target.

``portability``     of each kind of question behind the edit (``data.records.PORTABILITY``), the share to which
                    teacher-forced argmax gives every token of the answer or of an alias of it.

The target is the new object for efficacy and generalization, and the probe's own answer for specificity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.config.evaluation import StrictSettings
from sphere.data.records import PORTABILITY, EditRequest, Probe
from sphere.errors import InputError
from sphere.evaluation.generation import (
    GenerationSettings,
    consistency,
    continue_rows,
    evenly,
    fit_tfidf,
    n_gram_entropy,
)
from sphere.evaluation.strict import STRICT, Accepted, answered
from sphere.models.adapters import Adapter, adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET, run_in_batches
from sphere.models.precision import finite
from sphere.models.tokens import PAD, Encoded, encode_many, right_pad

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

FAMILIES = ("success", "accuracy", "token_accuracy", "generation", *STRICT.values(), "belief")
METRICS = ("efficacy", "generalization", "specificity")
COLUMNS = (
    "case_id",
    *(f"{family}_{metric}" for family in FAMILIES for metric in METRICS),
    *(f"portability_{kind}" for kind in PORTABILITY),
    *("fluency", "consistency"),
)

_POSITIONS_AT_ONCE = 512
"""Positions whose logits over the vocabulary are held at one time."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class TargetScore:
    """A target under teacher forcing after a prompt."""

    nll: float
    """Mean negative log-likelihood of the target's tokens, in nats."""
    matches: tuple[bool, ...]
    """For each target token, whether it is the most likely one."""

    @property
    def log_probability(self) -> float:
        """Of the whole target, in nats."""
        return -self.nll * len(self.matches)


def evaluate_requests(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    generation: GenerationSettings | None = None,
    tfidf: TfidfVectorizer | None = None,
    strict: StrictSettings | None = None,
    belief: bool = True,
    portability: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Evaluate ``model`` on ``requests``: one row a record in their order, with the columns ``COLUMNS``.

    Shares are in [0, 1], beliefs in nats, fluency is in bits x 100, consistency in [0, 1]; NaN where a record has no
    such prompts or, for what needs generations, none were asked for. ``tfidf`` weighs the words of consistency;
    without it, it is fitted on the reference texts of ``requests``. ``progress`` is told (targets scored, targets in
    all) by teacher forcing. Raises NumericalError if a logit is not finite (``diverged_may_miss``).
    """
    requests = requests if portability else [replace(request, portability=()) for request in requests]
    pairs = sorted({pair for request in requests for pair in _pairs(request)})
    scored = score_targets(model, tokenizer, pairs, token_budget=token_budget, progress=progress)
    scores = dict(zip(pairs, scored, strict=True))
    rows = [_teacher_forced(request, scores) | (_beliefs(request, scores) if belief else {}) for request in requests]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    whole = "int64" if all(abs(request.case_id) < 2**63 for request in requests) else "object"
    frame = frame.astype({column: whole if column == "case_id" else "float64" for column in COLUMNS})
    if generation is not None:
        _add_generations(frame, model, tokenizer, requests, generation, tfidf, token_budget)
    if strict is not None:
        _add_strict(frame, model, tokenizer, requests, strict, token_budget)
    return frame


def score_targets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> list[TargetScore]:
    """Score each (prompt, target) of ``pairs`` under teacher forcing, in their order.

    Neither batch size nor padding enters a score. The last target token is never fed to the model, and a row that
    begins another row is scored inside it: one-token targets of one prompt, and repeated prompts, cost one row.
    """
    parts = adapter(model)
    encoded = encode_many(tokenizer, [(prompt, target, None) for prompt, target in pairs])
    for (prompt, _), item in zip(pairs, encoded, strict=True):
        if not item.target_start:  # 0 or None: nothing predicts the target's first token
            raise InputError(f"prompt {prompt!r} has no token before its target: give a longer prompt")
        parts.check_row(item.ids, prompt, tokenizer)
    rows, members = _shared_rows([item.ids[:-1] for item in encoded])
    found: dict[int, TargetScore] = {}

    def run(batch: list[int]) -> None:
        owned = [(slot, i) for slot, row in enumerate(batch) for i in members[row]]
        hidden = _hidden(parts, [rows[row] for row in batch])
        found.update(_score_hidden(parts, hidden, owned, encoded))
        if progress is not None:
            progress(len(found), len(encoded))

    with torch.no_grad():
        run_in_batches([len(row) for row in rows], run, token_budget=token_budget)
    return [found[i] for i in range(len(encoded))]


def _shared_rows(inputs: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Rows to run, and for each the indices of the inputs that it begins with or equals.

    In lexicographic order an input is followed by everything it begins, so it joins its successor's row or opens one.
    """
    rows: list[tuple[int, ...]] = []
    members: list[list[int]] = []
    for i in sorted(range(len(inputs)), key=lambda i: inputs[i], reverse=True):
        if not rows or rows[-1][: len(inputs[i])] != inputs[i]:
            rows.append(inputs[i])
            members.append([])
        members[-1].append(i)
    return rows, members


def _hidden(parts: Adapter, rows: Sequence[Sequence[int]]) -> Tensor:
    """Final hidden states of right-padded ``rows``, (B, T, d)."""
    ids, mask = right_pad(rows, PAD, parts.device)
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    state = parts.backbone(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    assert isinstance(state, Tensor)
    return state


def _score_hidden(
    parts: Adapter, hidden: Tensor, owned: Sequence[tuple[int, int]], encoded: Sequence[Encoded]
) -> dict[int, TargetScore]:
    """Scores of the (row of ``hidden``, index into ``encoded``) pairs, with logits at target positions only."""
    slots: list[int] = []
    positions: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    for slot, i in owned:
        ids, start = encoded[i].ids, encoded[i].target_start
        assert start is not None
        slots += [slot] * (len(ids) - start)
        positions += range(start - 1, len(ids) - 1)  # the state before a token predicts it
        targets += ids[start:]
        lengths.append(len(ids) - start)
    states = hidden[torch.tensor(slots), torch.tensor(positions)]  # (N, d)
    wanted = torch.tensor(targets, device=hidden.device)
    nll, matches = [], []
    for chunk, target in zip(states.split(_POSITIONS_AT_ONCE), wanted.split(_POSITIONS_AT_ONCE), strict=True):
        logits = finite(parts.logits(chunk)).float()  # (n, V)
        nll.append(logits.logsumexp(-1) - logits.gather(1, target[:, None])[:, 0])
        matches.append(logits.argmax(-1) == target)
    losses, hits = torch.cat(nll).double().cpu(), torch.cat(matches).cpu()
    return {
        i: TargetScore(float(loss.mean()), tuple(hit.tolist()))
        for (_, i), loss, hit in zip(owned, losses.split(lengths), hits.split(lengths), strict=True)
    }


def _asked(request: EditRequest) -> dict[str, list[Pair]]:
    """The (prompt, wanted target) pairs behind each metric of one record."""
    return {
        "efficacy": [(request.prompt, request.target_new)],
        "generalization": [(prompt, request.target_new) for prompt in request.paraphrases],
        "specificity": [(probe.prompt, probe.target) for probe in request.neighborhood],
    }


def _rival(request: EditRequest, metric: str) -> str | None:
    """The target that the wanted one of ``metric`` must beat for a success; None where there is none."""
    if request.target_true is None:
        return None
    return request.target_new if metric == "specificity" else request.target_true


def _pairs(request: EditRequest) -> list[Pair]:
    """Every (prompt, target) that teacher forcing needs for one record."""
    pairs = []
    for metric, asked in _asked(request).items():
        rival = _rival(request, metric)
        pairs += asked + [(prompt, rival) for prompt, _ in asked if rival is not None]
    return pairs + [pair for _, question in request.portability for pair in _answers(question)]


def _answers(question: Probe) -> list[Pair]:
    """A question with each answer that counts."""
    return [(question.prompt, answer) for answer in (question.target, *question.aliases)]


def _teacher_forced(request: EditRequest, scores: dict[Pair, TargetScore]) -> dict[str, float]:
    row: dict[str, float] = {"case_id": request.case_id}
    for metric, asked in _asked(request).items():
        wanted = [scores[pair] for pair in asked]
        rival = _rival(request, metric)
        if rival is not None:
            row[f"success_{metric}"] = _share(scores[p].nll < scores[p[0], rival].nll for p in asked)
        row[f"accuracy_{metric}"] = _share(all(score.matches) for score in wanted)
        row[f"token_accuracy_{metric}"] = _share(match for score in wanted for match in score.matches)
    for kind in PORTABILITY:
        questions = [question for each, question in request.portability if each == kind]
        row[f"portability_{kind}"] = _share(
            any(all(scores[pair].matches) for pair in _answers(question)) for question in questions
        )
    return row


def _beliefs(request: EditRequest, scores: dict[Pair, TargetScore]) -> dict[str, float]:
    row: dict[str, float] = {}
    for metric, asked in _asked(request).items():
        rival = _rival(request, metric)
        if rival is not None and asked:
            odds = [scores[p].log_probability - scores[p[0], rival].log_probability for p in asked]
            row[f"belief_{metric}"] = sum(odds) / len(odds)
    return row


def _share(hits: Iterable[bool]) -> float:
    values = list(hits)
    return sum(values) / len(values) if values else math.nan


def _accepted(request: EditRequest) -> dict[str, list[tuple[str, Accepted]]]:
    """The (prompt, accepted answers) pairs behind each strict metric of one record."""
    new = (request.target_new, *request.aliases)
    return {
        "efficacy": [(request.prompt, new)],
        "generalization": [(prompt, new) for prompt in request.paraphrases],
        "specificity": [(probe.prompt, (probe.target, *probe.aliases)) for probe in request.neighborhood],
    }


def _add_strict(
    frame: pd.DataFrame,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    settings: StrictSettings,
    token_budget: int,
) -> None:
    """Fill the strict families of the chosen rows of ``frame`` in place."""
    chosen = {i: _accepted(requests[i]) for i in evenly(len(requests), settings.records)}
    asked = [each for wanted in chosen.values() for several in wanted.values() for each in several]
    for form in settings.forms:
        right = answered(model, tokenizer, asked, form=form, tokens=settings.tokens, token_budget=token_budget)
        for i, wanted in chosen.items():
            for metric, several in wanted.items():
                frame.loc[i, f"{STRICT[form]}_{metric}"] = _share(right[each] for each in several)


def _add_generations(
    frame: pd.DataFrame,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    settings: GenerationSettings,
    tfidf: TfidfVectorizer | None,
    token_budget: int,
) -> None:
    """Fill the generation family, fluency and consistency of the chosen rows of ``frame`` in place."""
    chosen = settings.chosen(len(requests))
    some = [requests[i] for i in chosen]
    texts = _texts(model, tokenizer, some, settings, token_budget)
    if tfidf is None and (known := [text for request in requests for text in request.references]):
        tfidf = fit_tfidf(known)
    begins = _begins(model, tokenizer, some, token_budget) if settings.family else {}
    for i, request in zip(chosen, some, strict=True):
        if settings.family:
            for metric, asked in _asked(request).items():
                frame.loc[i, f"generation_{metric}"] = _share(begins[pair] for pair in asked)
        generated = [texts[prompt] for prompt in request.generation_prompts]
        if generated:
            frame.loc[i, "fluency"] = 100 * sum(map(n_gram_entropy, generated)) / len(generated)
        if generated and request.references and tfidf is not None:
            frame.loc[i, "consistency"] = consistency(tfidf, generated, request.references)


def _texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    settings: GenerationSettings,
    token_budget: int,
) -> dict[str, str]:
    """Each generation prompt with its sampled continuation; repeated prompts run once."""
    prompts = sorted({prompt for request in requests for prompt in request.generation_prompts})
    rows = [item.ids for item in encode_many(tokenizer, [(prompt, None, None) for prompt in prompts])]
    for prompt, row in zip(prompts, rows, strict=True):
        adapter(model).check_row(row, prompt, tokenizer)
    new_tokens = [settings.length - len(row) for row in rows]
    done = continue_rows(model, rows, new_tokens=new_tokens, pad=PAD, token_budget=token_budget, seed=settings.seed)
    return dict(zip(prompts, _decoded(tokenizer, done, skip_special_tokens=True), strict=True))


def _begins(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    token_budget: int,
) -> dict[Pair, bool]:
    """For each (prompt, wanted target), whether the greedy continuation of the prompt begins with the target.

    Texts are compared, after twice the target's own number of tokens, so that another split of the same text counts.
    """
    pairs = sorted({pair for request in requests for asked in _asked(request).values() for pair in asked})
    whole = encode_many(tokenizer, [(prompt, target, None) for prompt, target in pairs])
    rows = [item.ids for item in encode_many(tokenizer, [(prompt, None, None) for prompt, _ in pairs])]
    new_tokens = [2 * (len(item.ids) - (item.target_start or 0)) for item in whole]
    done = continue_rows(model, rows, new_tokens=new_tokens, pad=PAD, token_budget=token_budget)
    texts = _decoded(tokenizer, done, skip_special_tokens=False)
    wanted = _decoded(tokenizer, [item.ids for item in whole], skip_special_tokens=False)
    return {pair: text.startswith(want) for pair, text, want in zip(pairs, texts, wanted, strict=True)}


def _decoded(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Sequence[int]], *, skip_special_tokens: bool
) -> list[str]:
    """The text of each row. Row by row, since ``batch_decode`` takes an empty list for one empty text."""
    return [str(tokenizer.decode(list(row), skip_special_tokens=skip_special_tokens)) for row in rows]
