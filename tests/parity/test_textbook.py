"""Whole sequential runs in float64 against a textbook: dense formulas, one request at a time, torch's own Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import FAMILIES, WINDOWED, ModelMaker, TokenizerMaker
from plain import target_value
from test_sequential import LAYERS, statistics
from test_values import CONTEXTS, REQUESTS
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.edit import edit
from sphere.editing.methods import resolve
from sphere.editing.state import EditState
from sphere.models.adapters import Adapter
from sphere.models.tokens import encode

VALUES = ValueSettings(steps=3, lr=3.0, clamp_norm_factor=20.0)  # large steps, so that PRUNE has something to do
ROME = {"relative_to": "mlp", "lr": 0.2, "clamp_norm_factor": 3.0}  # settings of its own
OF_ROME = VALUES.changed({"weight_decay": 1e-3, **ROME}, "rome")  # the decay is that of its row
BATCHES = (REQUESTS[:2], REQUESTS[2:])
WEIGHT, MU, RIDGE, THRESHOLD, ETA, ALPHA = 0.1, 3.0, 0.5, 0.9, 0.3, 0.7

Matrices = dict[int, Tensor]
Solve = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(K, R, C, M, K at the bare prompts) -> dW, as the methods are written down."""
Process = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(dW, W, pretrained W) -> dW'."""


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def memit(k: Tensor, r: Tensor, c: Tensor, _m: Tensor, _bare: Tensor) -> Tensor:
    return r @ k.T @ torch.linalg.inv(WEIGHT * c + k @ k.T)


def memit_seq(k: Tensor, r: Tensor, c: Tensor, m: Tensor, _bare: Tensor) -> Tensor:
    return r @ k.T @ torch.linalg.inv(WEIGHT * c + m + k @ k.T)


def encore(k: Tensor, r: Tensor, c: Tensor, m: Tensor, _bare: Tensor) -> Tensor:
    return r @ k.T @ torch.linalg.inv(WEIGHT * c + m + MU * eye(len(c)) + k @ k.T)


def kept_out(c: Tensor) -> Tensor:
    """I - P: the projector on the directions that AlphaEdit may not touch."""
    values, vectors = torch.linalg.eigh(c)
    strong = vectors[:, values >= THRESHOLD]
    assert 0.2 < strong.shape[1] / len(c) < 0.8
    return strong @ strong.T


def alphaedit(k: Tensor, r: Tensor, c: Tensor, m: Tensor, _bare: Tensor) -> Tensor:
    p = eye(len(c)) - kept_out(c)
    return torch.linalg.solve(p @ (k @ k.T + m) + RIDGE * eye(len(c)), p @ k @ r.T).T


def rome(k: Tensor, r: Tensor, _c: Tensor, _m: Tensor, bare: Tensor) -> Tensor:
    return r @ k.T / (k.T @ bare)


def projected(update: Tensor, weight: Tensor) -> Tensor:
    """SPHERE on the directions of ``weight``, by the d_in x d_in Gram matrix and projector."""
    rows = weight / (weight.norm(dim=1, keepdim=True) + 1e-8)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    shares = (values.flip(0) / values.sum()).cumsum(0)
    u = vectors.flip(1)[:, : 1 + int((shares <= ETA).sum())]
    return update @ (eye(len(values)) - ALPHA * u @ u.T)


def on_pretrained(update: Tensor, _weight: Tensor, pretrained: Tensor) -> Tensor:
    return projected(update, pretrained)


def on_current(update: Tensor, weight: Tensor, _pretrained: Tensor) -> Tensor:
    return projected(update, weight)


def rect(update: Tensor, weight: Tensor, _pretrained: Tensor) -> Tensor:
    size = (update / (weight + 1e-8)).abs()
    return update.where(size >= size.flatten().sort(descending=True).values[round(0.4 * size.numel()) - 1], 0.0)


def prune(update: Tensor, _weight: Tensor, pretrained: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(update, full_matrices=False)
    most = torch.linalg.svdvals(pretrained)[0]
    assert s[0] > most, "the test needs something to prune"
    return u * s.where(s <= most, s.log() - most.log() + most) @ v


def revive(update: Tensor, _weight: Tensor, pretrained: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(pretrained)
    r = 1 + int((s.square().cumsum(0) / s.square().sum() < 0.5).sum())
    return u[:, r:] @ u[:, r:].T @ update @ v[r:].T @ v[r:]


def plain_state(
    parts: Adapter, tokenizer: PreTrainedTokenizerBase, request: EditRequest, layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Key (d_in,), averaged over contexts, at ``layer``; output (d,) of the last edited layer and key, bare prompt."""
    keys, outputs = list[Tensor](), list[Tensor]()
    for prefix in CONTEXTS.prefixes:
        text = encode(tokenizer, prefix + request.prompt, subject_end=len(prefix) + request.subject_end)
        at = text.subject_last

        def key(_module: object, inputs: tuple[Tensor, ...], at: Any = at) -> None:
            keys.append(inputs[0][0, at])

        def output(_module: object, _inputs: object, found: Any, at: Any = at) -> None:
            outputs.append((found[0] if isinstance(found, tuple) else found)[0, at])

        handles = [
            parts.projection(layer).register_forward_pre_hook(key),
            parts.layer(LAYERS[-1]).register_forward_hook(output),
        ]
        parts.model(torch.tensor([text.ids]), use_cache=False)
        for handle in handles:
            handle.remove()
    return (keys[0] + (keys[1] + keys[2]) / 2) / 2, outputs[0], keys[0]


def textbook(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    solve: Solve,
    *,
    layers: tuple[int, ...] = LAYERS,
    one_by_one: bool = False,
    values: ValueSettings = VALUES,
    after_layer: Process | None = None,
    after_batch: tuple[Process, ...] = (),
    for_evaluation: tuple[Process, ...] = (),
) -> tuple[Matrices, Matrices]:
    """(the weights to evaluate, the weights carried) after ``BATCHES``."""
    parts = Adapter(model)
    moments = statistics(model, layers).second_moments
    pretrained = {i: parts.weight(i).clone() for i in layers}
    past = {i: torch.zeros_like(c) for i, c in moments.items()}

    def stacked(requests: tuple[EditRequest, ...], layer: int) -> tuple[Tensor, ...]:
        found = [plain_state(parts, tokenizer, request, layer) for request in requests]
        return tuple(torch.stack(each, dim=1) for each in zip(*found, strict=True))

    for batch in BATCHES:
        before = {i: parts.weight(i).clone() for i in layers}
        for group in [(request,) for request in batch] if one_by_one else [batch]:
            z = [target_value(parts, tokenizer, r, CONTEXTS, layer=layers[-1], settings=values) for r in group]
            for number, i in enumerate(layers):
                k, h, bare = stacked(group, i)
                r = (torch.stack(z, dim=1) - h) / (len(layers) - number)
                update = solve(k, r, moments[i], past[i], bare)
                if after_layer is not None:
                    update = after_layer(update, parts.weight(i), pretrained[i])
                parts.set_weight(i, parts.weight(i) + update)
        for i in layers:
            update = parts.weight(i) - before[i]
            for process in after_batch:
                update = process(update, before[i], pretrained[i])
            parts.set_weight(i, before[i] + update)
        for i in layers:
            k, *_ = stacked(batch, i)
            past[i] += k @ k.T
    carried = {i: parts.weight(i).clone() for i in layers}
    evaluated = {}
    for i in layers:
        change = carried[i] - pretrained[i]
        for process in for_evaluation:
            change = process(change, carried[i], pretrained[i])
        evaluated[i] = pretrained[i] + change
    return evaluated, carried


SETTINGS: dict[str, Any] = {"second_moment_weight": WEIGHT}
PROJECTION: dict[str, Any] = {"eta": ETA, "alpha": ALPHA}
NULL_SPACE: dict[str, Any] = {"ridge": RIDGE, "nullspace_threshold": THRESHOLD}
RUNS: dict[str, tuple[Solve, dict[str, Any], dict[str, Any]]] = {
    "memit": (memit, SETTINGS, {}),
    "memit-seq": (memit_seq, SETTINGS, {}),
    "encore": (encore, SETTINGS | {"ridge": MU}, {}),
    "alphaedit": (alphaedit, NULL_SPACE, {}),
    "rome": (rome, {"values": ROME}, {"layers": LAYERS[-1:], "one_by_one": True, "values": OF_ROME}),
    "rect": (memit, SETTINGS, {"after_batch": (rect,)}),
    "revive": (memit, SETTINGS, {"after_batch": (revive,)}),
    "prune": (memit, SETTINGS, {"for_evaluation": (prune,)}),
    "sphere": (alphaedit, NULL_SPACE | PROJECTION, {"after_layer": on_pretrained}),
    "memit+sphere": (memit, SETTINGS | PROJECTION, {"after_batch": (on_pretrained,)}),
    "memit-seq+sphere": (memit_seq, SETTINGS | PROJECTION | {"directions": "current"}, {"after_batch": (on_current,)}),
    "rect+sphere": (memit, SETTINGS | PROJECTION, {"after_batch": (rect, on_pretrained)}),
    "prune+sphere": (memit, SETTINGS | PROJECTION, {"for_evaluation": (prune, on_pretrained)}),
    "rome+sphere": (
        rome,
        PROJECTION | {"values": ROME},
        {"layers": LAYERS[-1:], "one_by_one": True, "values": OF_ROME, "after_batch": (on_pretrained,)},
    ),
}
CHANGED = ("granite", "olmo2", "gemma2", "gemma3_text")
"""Families in which something stands between the MLP and the residual stream: test_families.py has them."""
CASES = [(name, "llama") for name in RUNS] + [
    (name, family) for name in ("memit-seq", "sphere") for family in FAMILIES if family not in ("llama", *CHANGED)
]


def run(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> EditState:
    return edit(
        model,
        tokenizer,
        REQUESTS,
        method=name,
        layers=LAYERS,
        values=VALUES,
        contexts=CONTEXTS,
        statistics=statistics(model),
        hyperparameters=RUNS[name][1],
        batch_size=2,
    )


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_run_is_the_textbook_s(
    name: str, family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(family not in ("gpt2", "qwen2"))
    wide = {"sliding_window": 100} if family in WINDOWED else {}  # what no window reaches has a gradient of noise
    model, twin = (tiny_model(family, len(tokenizer), **wide).double() for _ in range(2))
    solve, _, order = RUNS[name]
    with torch.enable_grad():
        evaluated, carried = textbook(twin, tokenizer, solve, **order)
    state = run(name, model, tokenizer)
    tolerance = 1e-6 if family == "gptj" else 1e-8  # GPT-J's attention is in float32 whatever the model's dtype
    assert state.weights.keys() == evaluated.keys()
    for i, weight in state.weights.items():
        size = float((evaluated[i] - state.pretrained[i]).norm())
        assert size > 1e-3
        assert float((weight - evaluated[i]).norm()) <= tolerance * size
        assert float((state.carried.get(i, weight) - carried[i]).norm()) <= tolerance * size
        assert torch.equal(Adapter(model).weight(i), weight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("contexts", [CONTEXTS, Contexts()], ids=["contexts", "bare"])
def test_rome_gives_the_bare_prompt_its_value(
    contexts: Contexts, family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """The last edited layer puts out z at the bare prompt, whatever contexts the key is averaged over."""
    tokenizer = tiny_tokenizer(family not in ("gpt2", "qwen2"))
    model = tiny_model(family, len(tokenizer)).double()
    parts, request, layer = Adapter(model), REQUESTS[0], LAYERS[-1]
    own = resolve("rome").value_settings(VALUES)
    with torch.enable_grad():
        z = target_value(parts, tokenizer, request, contexts, layer=layer, settings=own)
    given = {"method": "rome", "values": VALUES, "hyperparameters": {"values": resolve("rome").values}}
    edit(model, tokenizer, [request], layers=LAYERS, contexts=contexts, **given)
    _, reached, _ = plain_state(parts, tokenizer, request, layer)
    assert float((reached - z).norm()) <= 1e-6 * float(z.norm())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("objective", ["target", "prompt_last"])
@pytest.mark.parametrize("name", ["ft", "ft+sphere"])
def test_fine_tuning_is_adam_on_the_stated_loss(
    name: str, objective: str, family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(family == "llama")
    model, twin = (tiny_model(family, len(tokenizer)).double() for _ in range(2))
    parts, layer = Adapter(twin), LAYERS[-1]
    parameter = parts.parameter(layer).requires_grad_()
    pretrained = parts.weight(layer).clone()

    def loss(request: EditRequest) -> Tensor:
        text = encode(tokenizer, request.prompt, target=request.target_new)
        start = text.target_start or 0
        log_p = twin(torch.tensor([text.ids]), use_cache=False).logits[0].log_softmax(-1)
        at = [(place if objective == "target" else start) - 1 for place in range(start, len(text.ids))]
        return -log_p[at, list(text.ids[start:])].mean()

    for batch in BATCHES:
        before = parts.weight(layer).clone()
        adam = torch.optim.Adam([parameter], lr=0.01)
        for _ in range(3):
            adam.zero_grad()
            torch.stack([loss(request) for request in batch]).mean().backward()
            adam.step()
        if name == "ft+sphere":
            parts.set_weight(layer, before + on_pretrained(parts.weight(layer) - before, before, pretrained))
    given = {"lr": 0.01, "epochs": 3, "stop_loss": 0, "objective": objective}
    given |= PROJECTION if name == "ft+sphere" else {}
    state = edit(
        model, tokenizer, REQUESTS, method=name, layers=LAYERS, contexts=CONTEXTS, hyperparameters=given, batch_size=2
    )
    expected = parts.weight(layer)
    assert (expected - pretrained).abs().max() > 0.02
    torch.testing.assert_close(state.weights[layer], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_out_keys_give_what_they_gave(family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """AlphaEdit's W k, for keys k in the subspace that text uses most."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer)).double()
    state = run("alphaedit", model, tokenizer)
    for i, c in statistics(model).second_moments.items():
        change = state.weights[i] - state.pretrained[i]
        assert float((change @ kept_out(c)).norm()) <= 1e-12 * float(change.norm())
