"""Target values z: what the last edited layer should put out at the subject's last token so that the new fact follows.

The objective is ROME's equation 4 with MEMIT's constants (Meng et al. 2022; 2023, section 4.3.1). All requests are
optimised in one batch: their deltas do not touch each other, the layers up to z run once (``replay``), and requests
that are done drop out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.replay import Row, record
from sphere.errors import InputError, NumericalError
from sphere.models.adapters import Adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET, run_in_batches
from sphere.models.tokens import Encoded, encode_many

KL_PROMPT = "{} is a"
"""Its next-token distribution at the subject's last token is kept close to the unedited one."""


@dataclass(frozen=True)
class Targets:
    """Target values of n requests."""

    values: Tensor
    """z (d, n) in float64."""
    losses: Tensor
    """(n,) the last loss seen."""
    steps: Tensor
    """(n,) Adam updates made."""


def encode_in_contexts(
    tokenizer: PreTrainedTokenizerBase, request: EditRequest, contexts: Contexts, *, target: bool
) -> list[Encoded]:
    """The rewrite prompt behind every prefix, with or without its new target."""
    return encode_many(
        tokenizer,
        [
            (prefix + request.prompt, request.target_new if target else None, len(prefix) + request.subject_end)
            for prefix in contexts.prefixes
        ],
    )


def target_values(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    layer: int,
    settings: ValueSettings,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> Targets:
    """z for each request at ``layer``; as many at once as ``token_budget`` padded tokens hold.

    Raises InputError if ``layer`` is the model's last, NumericalError if a loss is not finite.
    """
    if layer >= adapter.n_layers - 1:
        raise InputError(
            f"layer {layer} is the model's last: no later token reads its output at the subject; edit an earlier one"
        )
    encoded = [encode_in_contexts(tokenizer, request, contexts, target=True) for request in requests]
    lengths = [len(rows) * max(len(row.ids) for row in rows) for rows in encoded]
    values = torch.empty(adapter.model.config.hidden_size, len(requests), dtype=torch.float64, device=adapter.device)
    losses, steps = torch.empty(len(requests)), torch.empty(len(requests), dtype=torch.long)

    def run(batch: list[int]) -> None:
        batch = sorted(batch)
        found = _Optimisation(
            adapter, tokenizer, [requests[i] for i in batch], [encoded[i] for i in batch], layer, settings
        ).run()
        values[:, batch], losses[batch], steps[batch] = found.values, found.losses, found.steps

    run_in_batches(lengths, run, token_budget=token_budget)
    return Targets(values, losses, steps)


class _Optimisation:
    """Adam on the deltas of one batch of requests, all at once."""

    def __init__(
        self,
        adapter: Adapter,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        encoded: Sequence[Sequence[Encoded]],
        layer: int,
        settings: ValueSettings,
    ) -> None:
        self.adapter, self.settings, self.requests, self.layer = adapter, settings, requests, layer
        texts = [row for group in encoded for row in group]
        self.count = len(encoded[0])  # contexts a request
        prompts = encode_many(tokenizer, [(KL_PROMPT.replace("{}", r.subject), None, len(r.subject)) for r in requests])
        rows = [Row(row.ids[:-1], _pivot(row)) for row in texts]
        rows += [Row(row.ids[: _pivot(row) + 1], _pivot(row)) for row in prompts]  # one token each
        self.replay = record(adapter, rows, layer=layer)
        self.labels = _Labels.of(texts, adapter.device)
        self.dtype = torch.promote_types(adapter.dtype, torch.float32)
        self.clean: Tensor | None = None  # (n, V) log probabilities behind the prompts, once they have been run
        first = slice(0, len(texts), self.count)  # of each request, the text of the bare context
        self.initial = self.replay.tail[self.replay.pivots[first]].to(self.dtype)  # (n, d)
        self.outputs = self.replay.outputs[first].to(self.dtype)  # (n, d) of the MLP, there
        measured = adapter.arrives(layer, self.outputs) if settings.relative_to == "mlp" else self.initial
        self.scale = measured.norm(dim=1)  # (n,) what clamp and decay are relative to

    def run(self) -> Targets:
        start, outputs, n = self.initial, self.outputs, len(self.initial)
        device = self.adapter.device
        delta = torch.zeros_like(start)
        final, losses = delta.clone(), torch.full((n,), torch.inf, device=device, dtype=self.dtype)
        steps = torch.zeros(n, dtype=torch.long, device=device)
        first, second = torch.zeros_like(delta), torch.zeros_like(delta)
        here = torch.arange(n, device=device)  # the requests that are not finished
        limit = self.settings.clamp_norm_factor * self.scale[:, None]
        for step in range(1, self.settings.steps + 1):
            loss, gradient, finished = self._loss(delta, last=step == self.settings.steps)
            if not torch.isfinite(loss).all():
                bad = self.requests[int(here[~torch.isfinite(loss)][0])]
                raise NumericalError(f"case {bad.case_id} has no finite loss: lower values.lr or use float32")
            losses[here] = loss
            if step == self.settings.steps:
                break
            running = (~finished).nonzero().squeeze(1)
            if len(running) == 0:
                break
            if len(running) < len(here):
                here, delta, gradient = here[running], delta[running], gradient[running]
                first, second = first[running], second[running]
                self._keep(running)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            move = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            delta = delta - self.settings.lr * move
            delta = delta * (limit[here] / delta.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
            steps[here] += 1
            final[here] = delta
        reached = self.adapter.reachable(self.layer, outputs, final)
        return Targets((start + reached).T.double(), losses.float().cpu(), steps.cpu())

    def _loss(self, delta: Tensor, *, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Of each running request: loss (n,), its gradient (n, d), and whether it is finished (n,).

        The gradient behind the ``last`` step is zero: nobody moves by it.
        """
        with torch.set_grad_enabled(not last):
            delta = delta.detach().requires_grad_(not last)
            loss, logits = self._forward(delta)
            gradient = torch.zeros_like(delta) if last else torch.autograd.grad(loss.sum(), delta)[0]
        by_text = self.settings.stop == "most_probable"
        return loss.detach(), gradient, self._likeliest(logits) if by_text else loss.detach() < self.settings.stop_loss

    def _forward(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (n,) at ``delta`` (n, d), and logits (labels + n, V) where targets are predicted and behind prompts."""
        n, pivots = len(delta), self.replay.pivots
        moved = self.adapter.reachable(self.layer, self.outputs, delta)
        spread = torch.cat([moved.repeat_interleave(self.count, dim=0), moved])  # the texts', then the prompts'
        clean = self.replay.tail[pivots]
        labels = self.labels
        read = torch.cat([pivots[labels.row] + labels.column, pivots[-n:]])
        states = self.replay.run(clean + spread.to(clean.dtype), read)  # (labels + n, d)
        logits = self.adapter.logits(self.adapter.final_norm(states)).to(self.dtype)  # (labels + n, V)
        if self.clean is None:  # the first step: nothing has moved yet
            self.clean = logits[-n:].detach().log_softmax(-1)
        nll, kl = _Scored.apply(logits, labels.token, self.clean)  # (labels,), (n,)
        texts = n * self.count
        per_text = torch.zeros(texts, device=nll.device, dtype=nll.dtype).index_add(
            0, labels.row, nll / labels.length[labels.row]
        )
        loss = per_text.view(-1, self.count).mean(1)
        decay = delta.norm(dim=1) / self.scale**2
        return loss + self.settings.kl_factor * kl + self.settings.weight_decay * decay, logits.detach()

    def _likeliest(self, logits: Tensor) -> Tensor:
        """Of each running request, whether each token of its target is the likeliest behind those before it (n,).

        That is so in every context (arXiv 2502.01636). ``logits`` are of ``_forward``.
        """
        row, token = self.labels.row, self.labels.token
        missed = (logits[: len(row)].argmax(1) != token).long()
        texts = torch.zeros(len(self.labels.length), device=row.device, dtype=torch.long).index_add(0, row, missed)
        return texts.view(-1, self.count).sum(1) == 0

    def _keep(self, keep: Tensor) -> None:
        """Drop all requests but ``keep``."""
        rows = (keep[:, None] * self.count + torch.arange(self.count, device=keep.device)).flatten()
        prompts = len(self.scale) * self.count + keep
        self.replay, self.labels = self.replay.select(torch.cat([rows, prompts])), self.labels.select(rows)
        self.clean = None if self.clean is None else self.clean[keep]
        self.scale, self.outputs = self.scale[keep], self.outputs[keep]


class _Scored(torch.autograd.Function):
    """Negative log-likelihoods of tokens, and KL divergences where none is given, by rows as wide as the vocabulary.

    ``apply(logits (m + n, V), tokens (m,), clean (n, V))`` gives (m,), and (n,) from ``clean``, ROME's equation 4
    (after || before), with few passes over the rows.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        log_p = logits.log_softmax(-1)
        scored, after = log_p.split([len(tokens), len(clean)])
        change = after - clean
        kl = (after.exp() * change).sum(1)
        ctx.log_p, ctx.tokens = log_p, tokens  # nobody else sees these: the way back may overwrite them
        ctx.change, ctx.kl = change, kl.clone()
        return -scored.gather(1, tokens[:, None]).squeeze(1), kl

    @staticmethod
    def backward(ctx: Any, by_nll: Tensor, by_kl: Tensor) -> tuple[Tensor, None, None]:
        found, tokens = ctx.log_p.exp_(), ctx.tokens
        scored, rest = found.split([len(tokens), len(by_kl)])
        scored.mul_(by_nll[:, None])
        scored[torch.arange(len(tokens), device=tokens.device), tokens] -= by_nll
        rest.mul_(ctx.change.sub_(ctx.kl[:, None]).mul_(by_kl[:, None]))
        return found, None, None


def _pivot(row: Encoded) -> int:
    assert row.subject_last is not None
    return row.subject_last


@dataclass(frozen=True)
class _Labels:
    """Where in the tails of a batch the targets are predicted."""

    row: Tensor  # (labels,)
    column: Tensor  # (labels,)
    token: Tensor  # (labels,)
    length: Tensor  # (B,) target tokens of each row

    @classmethod
    def of(cls, rows: Sequence[Encoded], device: torch.device) -> _Labels:
        where, column, token, length = [], [], [], []
        for i, row in enumerate(rows):
            assert row.target_start is not None
            length.append(len(row.ids) - row.target_start)
            for t in range(row.target_start, len(row.ids)):
                where.append(i)
                column.append(t - 1 - _pivot(row))
                token.append(row.ids[t])
        return cls(*(torch.tensor(x, device=device) for x in (where, column, token, length)))

    def select(self, rows: Tensor) -> _Labels:
        """The labels of some rows, renumbered."""
        number = torch.full((len(self.length),), -1, device=rows.device)
        number[rows] = torch.arange(len(rows), device=rows.device)
        mine = number[self.row] >= 0
        return _Labels(number[self.row[mine]], self.column[mine], self.token[mine], self.length[rows])
