"""The batch loop on tiny models of every family: segments, orientation, layers, and what may and may not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from test_values import CONTEXTS, REQUESTS
from torch import Tensor
from transformers import PreTrainedModel

from sphere.config import ValueSettings
from sphere.data import EditRequest
from sphere.errors import InputError
from sphere.methods import resolve
from sphere.models import Adapter, adapter
from sphere.sequential import Editor, EditState, Record, edit
from sphere.stats import Statistics

LAYERS = (1, 2)
FAST = ValueSettings(steps=3, lr=0.2)
SETTINGS = {"second_moment_weight": 10.0, "nullspace_fraction": 0.6, "ridge": 1.0, "epochs": 2, "kept_share": 0.5}
METHODS = (
    "ft",
    "rome",
    "memit",
    "memit-seq",
    "alphaedit",
    "encore",
    "prune",
    "rect",
    "revive",
    "sphere",
    "memit+sphere",
    "prune+sphere",
    "rect+sphere",
    "ft+sphere",
    "rome+sphere",
    "memit-seq+sphere",
    "encore+sphere",
)


def statistics(model: PreTrainedModel, layers: tuple[int, ...] = LAYERS) -> Statistics:
    """A well-conditioned random second moment for each layer."""
    generator = torch.Generator().manual_seed(0)
    moments, probes = {}, {}
    for i in layers:
        size = adapter(model).weight(i).shape[1]
        sample = torch.randn(size, 3 * size, generator=generator, dtype=torch.float64)
        moments[i], probes[i] = sample @ sample.T / (3 * size), sample[:, :7].clone()
    return Statistics(moments, probes, 3 * 64)


def hyperparameters(name: str) -> dict[str, float]:
    """``SETTINGS`` as far as the method has them."""
    known = resolve(name).hyperparameters
    return {key: value for key, value in SETTINGS.items() if key in known}


def make_editor(model: PreTrainedModel, tokenizer: object, name: str, state: EditState | None = None) -> Editor:
    return Editor(
        model,
        tokenizer,
        resolve(name, hyperparameters=hyperparameters(name)),
        layers=LAYERS,
        values=FAST,
        contexts=CONTEXTS,
        statistics=statistics(model),
        state=state,
    )


@pytest.mark.parametrize("name", METHODS)
def test_two_segments_equal_one_bit_for_bit(
    name: str, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    whole = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, name).run(REQUESTS, batch_size=1)
    model = tiny_model("llama", len(tokenizer))
    make_editor(model, tokenizer, name).run(REQUESTS[:2], batch_size=1).save(tmp_path / "state.safetensors")
    fresh = tiny_model("llama", len(tokenizer))
    resumed = make_editor(fresh, tokenizer, name, EditState.load(tmp_path / "state.safetensors"))
    parts = resumed.run(REQUESTS[2:], batch_size=1)
    for kind in ("weights", "carried", "past"):
        one, two = getattr(whole, kind), getattr(parts, kind)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[i], two[i]) for i in one), kind
    assert (parts.position, parts.batch) == (3, 3)
    for i, weight in parts.weights.items():
        assert torch.equal(adapter(fresh).weight(i), weight.to(torch.float32))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["memit", "sphere"])
def test_only_the_edited_matrices_change(
    family: str, name: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(family != "gpt2")
    model = tiny_model(family, len(tokenizer))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    edit(
        model,
        tokenizer,
        REQUESTS,
        method=name,
        layers=LAYERS,
        values=FAST,
        contexts=CONTEXTS,
        statistics=statistics(model),
        hyperparameters=hyperparameters(name),
    )
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {adapter(model).weight_name(i) for i in LAYERS}


def test_update_solves_the_batch(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """With a vanishing second moment weight, MEMIT reaches the last layer's target values."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    editor = Editor(
        model,
        tokenizer,
        resolve("memit", hyperparameters={"second_moment_weight": 1e-10}),
        layers=(1,),
        values=FAST,
        contexts=CONTEXTS,
        statistics=statistics(model, (1,)),
    )
    from sphere.values import target_values

    wanted = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=FAST).values
    keys, before = editor._keys_and_outputs(REQUESTS, [1], 1)
    editor.run(REQUESTS, batch_size=3)
    change = (editor.state.weights[1] - editor.pretrained[1]) @ keys[1]
    torch.testing.assert_close(change, wanted - before, rtol=1e-6, atol=1e-8)


def test_transposed_layout_edits_the_same_function(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """GPT-2 stores its projection transposed: the update found through the view is the one its forward pass uses."""
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("gpt2", len(tokenizer)).double()
    editor = make_editor(model, tokenizer, "memit")
    before = {i: w.clone() for i, w in editor.pretrained.items()}
    inputs = torch.randn(5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module = adapter(model).projection(1)
    old: Tensor = module(inputs)
    state = editor.run(REQUESTS, batch_size=3)
    torch.testing.assert_close(module(inputs) - old, inputs @ (state.weights[1] - before[1]).T)


def test_energy_rows(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    records: list[Record] = []
    editor = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit")
    start = editor.first_record()
    editor.run(REQUESTS, batch_size=2, on_batch=records.append)
    assert [(r.edits, r.batch) for r in records] == [(2, 1), (3, 2)]
    for number, layer in enumerate(LAYERS):
        rows = [start.energy[number], *(r.energy[number] for r in records)]
        assert all(row["layer"] == layer for row in rows)
        assert rows[0]["delta_he"] == 0
        for last, row in zip(rows, rows[1:], strict=False):
            assert row["he_sum"] - last["he_sum"] == pytest.approx(row["delta_he"])
            assert row["perturbation"] > 0
            assert row["bound"] == pytest.approx((row["delta_he"] / row["theorem_k"]) ** 2)


def test_pruned_weights_are_evaluated_and_unpruned_carried(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    pruned = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "prune").run(REQUESTS, batch_size=1)
    plain = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit").run(REQUESTS, batch_size=1)
    assert all(torch.equal(pruned.carried[i], plain.weights[i]) for i in LAYERS)


def test_bfloat16_model_keeps_float32_weights(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).bfloat16()
    state = make_editor(model, tokenizer, "sphere").run(REQUESTS, batch_size=3)
    assert {w.dtype for w in state.weights.values()} == {torch.float32}
    assert torch.equal(adapter(model).weight(1), state.weights[1].bfloat16())


def test_foreign_state_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(True)
    make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit").run(REQUESTS[:1], batch_size=1).save(tmp_path / "s")
    state = EditState.load(tmp_path / "s")
    with pytest.raises(InputError, match="own pretrained model"):
        make_editor(tiny_model("llama", len(tokenizer), seed=1), tokenizer, "memit", state)
    with pytest.raises(InputError, match="own method and seed"):
        make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit-seq", state)
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:100])
    with pytest.raises(InputError, match="not an edit state"):
        EditState.load(tmp_path / "s")


def test_contradictory_batch_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    first = REQUESTS[0]
    other = EditRequest(9, first.subject, first.prompt, first.subject_start, "Danish", None)
    with pytest.raises(InputError):
        make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit").run([first, other], batch_size=2)
