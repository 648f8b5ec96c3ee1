"""The opponents of run.py: the same mathematics done plainly, one thing at a time and through the whole model.

Plain is not careless: the texts of one request, or of one record, share a padded batch, as reference implementations
have it, and nothing is computed twice on purpose. Tests hold the library against these functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.values import KL_PROMPT, encode_in_contexts
from sphere.models.adapters import Adapter
from sphere.models.hooks import hidden
from sphere.models.tokens import PAD, encode_many, right_pad

# ------------------------------------------------------------------------------------------------ target values


def target_value(
    parts: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    request: EditRequest,
    contexts: Contexts,
    *,
    layer: int,
    settings: ValueSettings,
) -> Tensor:
    """z (d,) of one request, float64: a hook adds delta, and every step runs the whole model on all its texts."""
    texts = encode_in_contexts(tokenizer, request, contexts, target=True)
    anchor = encode_many(tokenizer, [(KL_PROMPT.replace("{}", request.subject), None, len(request.subject))])[0]
    rows = [*texts, anchor]  # the bare prompt comes first, the prompt of the KL divergence last
    ids, mask = right_pad([row.ids for row in rows], PAD, parts.device)
    every = torch.arange(len(rows), device=parts.device)
    at = torch.tensor([row.subject_last for row in rows], device=parts.device)
    dtype = torch.promote_types(parts.dtype, torch.float32)
    delta = torch.zeros(parts.model.config.hidden_size, dtype=dtype, device=parts.device, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.lr)
    clean: list[Tensor] = []  # the hidden states at the subjects, before any change

    def add_delta(_module: Any, _inputs: Any, output: Any) -> Any:
        state = hidden(output)
        clean.append(state[every, at].detach())
        change = parts.reachable(layer, outputs[0].to(dtype), delta).to(state.dtype).expand(len(rows), -1)
        moved = state.index_put((every, at), change, accumulate=True)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    outputs: list[Tensor] = []  # what the MLP of the layer puts out at the bare prompt's subject

    def keep_output(_module: Any, _inputs: Any, output: Tensor) -> None:
        outputs.append(output[0, at[0]].detach())

    handles = [parts.layer(layer).register_forward_hook(add_delta)]
    handles.append(parts.projection(layer).register_forward_hook(keep_output))
    try:
        for step in range(settings.steps):
            logits = parts.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            log_p = logits.to(dtype).log_softmax(-1)  # (B, T, V)
            if step == 0:
                arrived = parts.arrives(layer, outputs[0].to(dtype))
                before = log_p[-1, at[-1]].detach()
                initial = clean[0][0].to(dtype)
                scale = (arrived if settings.relative_to == "mlp" else initial).norm()
            loss = torch.zeros((), dtype=dtype, device=parts.device)
            for i, text in enumerate(texts):
                start, end = text.target_start, len(text.ids)
                loss = loss - log_p[i, start - 1 : end - 1].gather(1, ids[i, start:end, None]).mean() / len(texts)
            after = log_p[-1, at[-1]]
            loss = loss + settings.kl_factor * (after.exp() * (after - before)).sum()
            loss = loss + settings.weight_decay * delta.norm() / scale**2
            if loss < settings.stop_loss or step == settings.steps - 1:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                limit = settings.clamp_norm_factor * scale
                if delta.norm() > limit:
                    delta.mul_(limit / delta.norm())
    finally:
        for handle in handles:
            handle.remove()
    return (initial + parts.reachable(layer, outputs[0].to(dtype), delta.detach())).double()


# ------------------------------------------------------------------------------------------------ key statistics


@torch.no_grad()
def keys(parts: Adapter, tokenizer: PreTrainedTokenizerBase, document: str, layer: int, max_length: int) -> Tensor:
    """Keys (tokens, d_in) of one document at one layer, run in pieces of ``max_length`` tokens."""
    seen: list[Tensor] = []
    handle = parts.projection(layer).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0]))
    ids = tokenizer(document)["input_ids"]
    try:
        for start in range(0, len(ids), max_length):
            parts.model(input_ids=torch.tensor([ids[start : start + max_length]], device=parts.device), use_cache=False)
    finally:
        handle.remove()
    return torch.cat(seen)


def second_moments(
    parts: Adapter, tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], layers: Sequence[int], max_length: int
) -> dict[int, Tensor]:
    """Layer -> C (d_in, d_in) float64, by one pass over the documents a layer."""
    moments = {}
    for layer in layers:
        size = parts.weight(layer).shape[1]
        total, tokens = torch.zeros(size, size, dtype=torch.float64, device=parts.device), 0
        for document in documents:
            found = keys(parts, tokenizer, document, layer, max_length)
            found = found.to(torch.promote_types(found.dtype, torch.float32))
            total += found.T @ found
            tokens += len(found)
        moments[layer] = total / tokens
    return moments


# ------------------------------------------------------------------------------------------- weights and updates


def principal_directions(weight: Tensor, *, eta: float) -> Tensor:
    """U (d_in, r) from the eigenvectors of W^^T W^ / d_out itself, which is d_in x d_in."""
    rows = weight.double()
    rows = rows / (rows.norm(dim=1, keepdim=True) + 1e-8)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    shares = values.flip(0).cumsum(0) / values.sum()
    return vectors.flip(1)[:, : 1 + int((shares <= eta).sum())]


def projection(update: Tensor, directions: Tensor, *, alpha: float) -> Tensor:
    """dW (I - alpha U U^T) with the projector (d_in, d_in) formed."""
    projector = directions @ directions.T
    eye = torch.eye(len(projector), dtype=projector.dtype, device=projector.device)
    return update.double() @ (eye - alpha * projector)


def energy(weight: Tensor) -> float:
    """HE_1, row by row, from the differences of the normalised rows."""
    unit = weight.double()
    unit = unit / unit.norm(dim=1, keepdim=True)
    total = 0.0
    for i, row in enumerate(unit):
        distances = (unit - row).norm(dim=1)
        distances[i] = math.inf
        total += float((1 / distances).sum())
    return total


# ------------------------------------------------------------------------------------------------------ metrics


@torch.no_grad()
def record_metrics(parts: Adapter, tokenizer: PreTrainedTokenizerBase, request: EditRequest) -> dict[str, float]:
    """The teacher-forced columns of ``evaluation.metrics`` for one record, all its prompts in one forward pass."""
    new, true = request.target_new, request.target_true
    asked = [("efficacy", request.prompt, new, true)]
    asked += [("generalization", prompt, new, true) for prompt in request.paraphrases]
    asked += [("specificity", p.prompt, p.target, None if true is None else new) for p in request.neighborhood]
    targets = [(prompt, target) for _, prompt, *both in asked for target in both if target is not None]
    rows = encode_many(tokenizer, [(prompt, target, None) for prompt, target in targets])
    ids, mask = right_pad([row.ids for row in rows], PAD, parts.device)
    log_p = parts.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
    scores = []  # (NLL, whether each target token is the likeliest)
    for i, row in enumerate(rows):
        start, end = row.target_start, len(row.ids)
        wanted, predicted = ids[i, start:end], log_p[i, start - 1 : end - 1]
        scores.append((-float(predicted.gather(1, wanted[:, None]).mean()), predicted.argmax(-1) == wanted))
    left = iter(scores)
    beaten: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    tokens: dict[str, list[float]] = {}
    for metric, _, _, rival in asked:
        nll, hits = next(left)
        whole.setdefault(metric, []).append(float(hits.all()))
        tokens.setdefault(metric, []).extend(hits.float().tolist())
        if rival is not None:
            beaten.setdefault(metric, []).append(float(nll < next(left)[0]))
    families = {"success": beaten, "accuracy": whole, "token_accuracy": tokens}
    found = {f"{name}_{m}": sum(v) / len(v) for name, family in families.items() for m, v in family.items()}
    return {"case_id": request.case_id, **found}


def metrics(parts: Adapter, tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest]) -> pd.DataFrame:
    """One row a record, one forward pass a record."""
    return pd.DataFrame([record_metrics(parts, tokenizer, request) for request in requests])
