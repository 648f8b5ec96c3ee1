"""Target construction, joint fine-tuning and the controls in the batch loop, on tiny models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from test_sequential import CORPUS, FAST, LAYERS, statistics
from test_values import CONTEXTS, REQUESTS

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.construction import TOO_LONG, anchored, anchors_of, targets_by_layer
from sphere.editing.contexts import Contexts
from sphere.editing.edit import edit
from sphere.editing.loop import Editor
from sphere.editing.measurement import Record
from sphere.editing.methods import resolve
from sphere.editing.state import EditState
from sphere.editing.stats import Statistics
from sphere.editing.values import encode_in_contexts, target_values
from sphere.errors import InputError, NumericalError
from sphere.models.adapters import adapter
from sphere.models.hooks import capture_output, hidden

AT_ONCE = (
    EditRequest(1, "Ada Lovelace", "The mother of Ada Lovelace", 14, "is", "the"),
    EditRequest(2, "Paris", "The capital is Paris", 15, "the", "is"),
)
"""Targets of one token right behind the subject: a random model can be brought to say them."""


def editor(model: Any, tokenizer: Any, name: str, values: ValueSettings = FAST, **given: Any) -> Editor:
    settings = {"second_moment_weight": 1e-10} if "second_moment_weight" in resolve(name).hyperparameters else {}
    method = resolve(name, hyperparameters=settings | given.pop("settings", {}))
    given = {"layers": LAYERS, "contexts": CONTEXTS, "statistics": statistics(model), **given}
    return Editor(model, tokenizer, method, values=values, **given)


def with_target(values: ValueSettings, **changes: Any) -> ValueSettings:
    return values.changed(changes, "here")


def outputs(parts: Any, tokenizer: Any, layer: int, changed: dict[int, torch.Tensor] | None = None) -> torch.Tensor:
    """(d, n) what ``layer`` puts out at each bare prompt's subject; ``changed``: states (d, n) put in place there."""
    found = []
    for n, request in enumerate(REQUESTS):
        (row, *_) = encode_in_contexts(tokenizer, request, CONTEXTS, target=False)
        handles = []
        for i, states in (changed or {}).items():

            def put(_module: Any, _args: Any, output: Any, state: torch.Tensor = states[:, n], at: Any = row) -> Any:
                hidden(output)[0, at.subject_last] = state.to(hidden(output).dtype)
                return output

            handles.append(parts.layer(i).register_forward_hook(put))
        with torch.no_grad(), capture_output(parts.layer(layer)) as states_out:
            parts.model(torch.tensor([row.ids]))
        for handle in handles:
            handle.remove()
        found.append(states_out[0][0, row.subject_last].double())
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_replay_s_later_targets_are_what_follows_from_the_first(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(family != "gpt2")
    parts = adapter(tiny_model(family, len(tokenizer)).double())
    settings, layers = with_target(FAST, residual="replay"), (0, 1, 2)
    found = targets_by_layer(parts, tokenizer, REQUESTS, CONTEXTS, layers=layers, settings=settings)
    assert list(found) == [0, 1, 2]
    first = target_values(parts, tokenizer, REQUESTS, CONTEXTS, layer=0, settings=FAST).values
    torch.testing.assert_close(found[0], first)
    for layer in (1, 2):
        torch.testing.assert_close(found[layer], outputs(parts, tokenizer, layer, {0: first}), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("residual", ["ends", "replay"])
def test_every_edited_layer_is_taken_all_the_way_to_its_own_target(
    residual: Any, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """With a vanishing second moment weight; between the ends nothing is edited."""
    tokenizer = tiny_tokenizer(True)
    model, settings = tiny_model("llama", len(tokenizer)).double(), with_target(FAST, residual=residual)
    parts, layers = adapter(model), (0, 1, 2)
    found = targets_by_layer(
        parts, tokenizer, REQUESTS, CONTEXTS, layers=(0, 2) if residual == "ends" else layers, settings=settings
    )
    if residual == "ends":
        for layer in (0, 2):
            own = target_values(parts, tokenizer, REQUESTS, CONTEXTS, layer=layer, settings=FAST).values
            torch.testing.assert_close(found[layer], own)
    known = {"layers": layers, "statistics": statistics(model, layers)}
    one = editor(model, tokenizer, "memit", settings, contexts=Contexts(), **known)  # keys of the bare prompts alone
    assert one.layers == tuple(found)
    wanted = one._targets(REQUESTS)
    one.run(REQUESTS, batch_size=3)
    for layer, values in wanted.items():
        torch.testing.assert_close(outputs(parts, tokenizer, layer), values, rtol=1e-5, atol=1e-6)
    assert set(one.state.weights) == set(found)


def test_targets_stop_when_they_are_the_likeliest_text(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model("llama", len(tokenizer)).double())
    settings = ValueSettings(steps=60, lr=0.5, clamp_norm_factor=20, stop_loss=1e-3, weight_decay=0, kl_factor=0)
    calls = [target_values(parts, tokenizer, AT_ONCE, CONTEXTS, layer=1, settings=with_target(settings, stop=stop))
             for stop in ("loss", "most_probable")]  # fmt: skip
    long, short = calls
    assert (short.steps < long.steps).all()
    assert (short.losses > settings.stop_loss).all()

    def likeliest(request: Any, value: torch.Tensor, found_in: int) -> bool:
        base = encode_in_contexts(tokenizer, request, CONTEXTS, target=False)[0]
        with torch.no_grad(), capture_output(parts.layer(1)) as clean:
            parts.model(torch.tensor([base.ids]))
        delta = value - clean[0][0, base.subject_last]
        row = encode_in_contexts(tokenizer, request, CONTEXTS, target=True)[found_in]

        def add(_module: Any, _args: Any, output: Any) -> Any:
            hidden(output)[0, row.subject_last] += delta
            return output

        handle = parts.layer(1).register_forward_hook(add)
        with torch.no_grad():
            logits = parts.model(torch.tensor([row.ids])).logits[0]
        handle.remove()
        start = row.target_start
        return bool((logits[start - 1 : -1].argmax(1) == torch.tensor(row.ids[start:])).all())

    for n, request in enumerate(AT_ONCE):
        assert all(likeliest(request, short.values[:, n], i) for i in range(len(CONTEXTS.prefixes)))
    fewer = with_target(settings, stop="most_probable", steps=int(short.steps.max()))
    assert fewer.steps >= 2
    early = target_values(parts, tokenizer, AT_ONCE, CONTEXTS, layer=1, settings=fewer)
    n = int(short.steps.argmax())
    assert not all(likeliest(AT_ONCE[n], early.values[:, n], i) for i in range(len(CONTEXTS.prefixes)))


def test_anchors_are_trimmed_means_and_long_values_are_skipped() -> None:
    lengths = torch.tensor([1.0, 1.2, 0.8, 1.0, 1.1, 0.9, 1.0, 1.0, 1.0, 50.0])
    values = torch.nn.functional.normalize(torch.randn(6, 10).double(), dim=0) * lengths
    anchors = anchors_of({4: values, 5: 2 * values})
    assert anchors == pytest.approx({4: 1.0, 5: 2.0})
    requests = [replace(REQUESTS[0], case_id=n) for n in range(10)]
    kept, scaled = anchored(requests, {4: values, 5: 2 * values}, anchors)
    assert [request.case_id for request in kept] == list(range(9))
    torch.testing.assert_close(scaled[5].norm(dim=0), torch.full((9,), 2.0).double())
    torch.testing.assert_close(scaled[4], (values / lengths)[:, :9])


def test_an_anchored_stream_keeps_its_anchor_and_says_whom_it_skips(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """The first batch tells the length; a later one whose value is too long is edited without it."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    settings = with_target(FAST, anchor=True)
    first = editor(model, tokenizer, "memit-seq", settings)
    first.run(REQUESTS[:1], batch_size=1).save(tmp_path / "state")
    read = EditState.load(tmp_path / "state")
    assert read.anchors == first.state.anchors == {LAYERS[-1]: pytest.approx(read.anchors[LAYERS[-1]])}
    short = replace(read, anchors={LAYERS[-1]: read.anchors[LAYERS[-1]] / TOO_LONG / 100})
    fresh = editor(tiny_model("llama", len(tokenizer)).double(), tokenizer, "memit-seq", settings, state=short)
    with pytest.raises(NumericalError, match="batch 2: all target values are too long for their anchor: lower clamp"):
        fresh.run(REQUESTS[1:], batch_size=2)

    records: list[Record] = []
    again = editor(tiny_model("llama", len(tokenizer)).double(), tokenizer, "memit-seq", settings, state=read)
    targets = again._targets(REQUESTS[1:])[LAYERS[-1]].norm(dim=0)
    cut = float(targets.sort().values.mean()) / TOO_LONG
    again.state = replace(again.state, anchors={LAYERS[-1]: cut})
    again.run(REQUESTS[1:], batch_size=2, on_batch=records.append)
    longest = REQUESTS[1:][int(targets.argmax())].case_id
    assert records[0].skipped == f"target values longer than twice the anchor, of cases {longest}"
    assert again.state.position == 3


def test_locft_s_state_is_that_of_one_training_on_all_edits(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    settings = {"epochs": 3, "lr": 0.01}
    weights = []
    for size in (1, 3):
        made = editor(tiny_model("llama", len(tokenizer)).double(), tokenizer, "locft", settings=settings)
        state = made.run(REQUESTS, batch_size=size)
        weights.append(state.weights[LAYERS[-1]])
        (memory,) = state.memory.values()
        ends = [row[row >= 0][-1] for row in memory["ids"]]
        assert ends == [tokenizer.eos_token_id] * 3
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-12)
    assert not torch.equal(weights[0], made.pretrained[LAYERS[-1]])
    projected = [
        editor(tiny_model("llama", len(tokenizer)).double(), tokenizer, "locft+sphere", settings=settings)
        .run(REQUESTS, batch_size=size)
        .weights[LAYERS[-1]]
        for size in (1, 3)
    ]
    torch.testing.assert_close(*projected, rtol=1e-9, atol=1e-12)
    assert not torch.equal(projected[0], weights[0])
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="locft learns the end of a text, but the tokenizer has no eos_token"):
        editor(tiny_model("llama", len(tokenizer)), tokenizer, "locft").run(REQUESTS, batch_size=3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_energy_stays_under_rotate_over_a_whole_stream(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """In float64 to rounding, while the weights move; float32 weights are rounded after every batch."""
    tokenizer = tiny_tokenizer(family != "gpt2")
    for exact, tolerance in ((True, 1e-12), (False, 1e-6)):
        model = tiny_model(family, len(tokenizer))
        rotating = editor(
            model.double() if exact else model, tokenizer, "rotate", settings={"second_moment_weight": 1.0}
        )
        start = {row["layer"]: row["he_sum"] for row in rotating.first_record().energy}
        records: list[Record] = []
        rotating.run(REQUESTS, batch_size=1, on_batch=records.append)
        for row in (row for record in records for row in record.energy):
            assert abs(row["he_sum"] / start[row["layer"]] - 1) < tolerance
            assert row["update_norm"] > 1e-3 * row["weight_norm"]


def test_scatter_moves_the_energy_by_its_share_and_text_less_than_the_method_does(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    mix = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).double()).Q
    spread = mix * torch.logspace(-5, 0, 64, dtype=torch.float64)  # a tail that text hardly uses
    text = spread @ torch.randn(64, 400, generator=torch.Generator().manual_seed(1)).double()
    known = Statistics({i: text @ text.T / 400 for i in LAYERS}, {i: text[:, :50] for i in LAYERS}, 400)
    rows: dict[str, list[dict[str, float]]] = {}
    values = with_target(FAST, lr=0.4, clamp_norm_factor=5)
    for name in ("memit-seq", "memit-seq+scatter"):
        records: list[Record] = []
        model, settings = tiny_model("llama", len(tokenizer)), {"second_moment_weight": 1e-3}
        own = editor(model, tokenizer, name, values, statistics=known, settings=settings)
        start = {row["layer"]: row["he_sum"] for row in own.first_record().energy}
        own.run(REQUESTS[:1], batch_size=1, on_batch=records.append)
        rows[name] = records[0].energy
    for plain, moved in zip(rows["memit-seq"], rows["memit-seq+scatter"], strict=True):
        assert abs(plain["delta_he"]) < 0.009 * start[plain["layer"]]
        assert abs(moved["delta_he"]) == pytest.approx(0.01 * start[moved["layer"]], rel=0.01)
    plain, moved = (rows[name][0]["perturbation"] for name in rows)  # of the first layer: the later has other keys
    assert max(0.0, moved**2 - plain**2) < plain**2


def test_crisp_takes_its_gradients_from_the_corpus(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    weights = []
    for name in ("memit", "crisp"):
        model = tiny_model("llama", len(tokenizer))
        state = edit(model, tokenizer, REQUESTS, method=name, layers=LAYERS, values=FAST, contexts=CONTEXTS,
                     corpus=CORPUS, hyperparameters={"second_moment_weight": 10.0})  # fmt: skip
        weights.append(state.weights)
    assert not any(torch.allclose(weights[0][i], weights[1][i]) for i in LAYERS)
    model = tiny_model("llama", len(tokenizer))
    with pytest.raises(InputError, match="layer 1 has no output moment: take its statistics with gradients"):
        edit(model, tokenizer, REQUESTS, method="crisp", layers=LAYERS, values=FAST, contexts=CONTEXTS,
             statistics=replace(statistics(model), output_moments={}))  # fmt: skip


def test_a_null_space_that_is_used_up_ends_the_stream_after_its_last_whole_batch(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Seven directions of 64, three edits a batch: higher precision does not help the fourth, and one line says so."""
    tokenizer = tiny_tokenizer(True)
    settings = {"nullspace_fraction": 0.11, "tolerance": 1e-6}
    evo = editor(tiny_model("llama", len(tokenizer)), tokenizer, "evoedit", settings=settings)
    for batch in range(3):
        every = [replace(r, case_id=10 * batch + r.case_id, target_new=str(batch)) for r in REQUESTS]
        evo.run(every, batch_size=3)
    kept, shares = evo.state, [row["editable_share"] for row in evo.first_record().energy]
    assert shares == [0.0, 0.0]
    with pytest.raises(NumericalError, match=r"batch 4 in float32: evoedit's null space is used up .*; in float64: "):
        evo.run(REQUESTS, batch_size=3)
    assert evo.state is kept
    assert kept.position == 9
