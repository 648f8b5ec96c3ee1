"""The batch loop on tiny models of every family: segments, orientation, layers, and what may and may not change."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, TEXTS, ModelMaker, TokenizerMaker
from safetensors import safe_open
from safetensors.torch import save_file
from test_values import CONTEXTS, REQUESTS
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing import loop
from sphere.editing.contexts import Contexts
from sphere.editing.edit import edit
from sphere.editing.keys import Ascent, keys_and_outputs
from sphere.editing.loop import Editor
from sphere.editing.measurement import Record
from sphere.editing.methods import resolve
from sphere.editing.solvers.base import LayerProblem, Solution
from sphere.editing.solvers.memit import Memit
from sphere.editing.spectra import Spectra, save_directions, save_null_space
from sphere.editing.state import EditState
from sphere.editing.stats import Statistics
from sphere.errors import InputError, NumericalError
from sphere.geometry import linalg
from sphere.geometry.energy import measure_energy
from sphere.models.adapters import Adapter, adapter
from sphere.study.stages import ENERGY_COLUMNS

LAYERS = (1, 2)
FAST = ValueSettings(steps=3, lr=0.2)
SETTINGS = {
    "second_moment_weight": 10.0,
    "nullspace_fraction": 0.6,
    "ridge": 1.0,
    "epochs": 2,
    "protected_share": 0.5,
    "rebuild_every": 2,
}
CORPUS = [text[start:] for text in TEXTS for start in range(0, len(text), 3)]
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
    "evoedit",
    "betaedit",
    "lyaplock",
    "locft",
    "rotate",
    "crisp",
    "memit-seq+scatter",
    "memit-seq+rect@compensate=true",
    "sphere@compensate=true",
    "betaedit+rect@compensate=true",
    "memit-seq@values.residual=ends",
    "memit-seq@values.residual=replay",
    "memit-seq@values.anchor=true",
    "memit@values.stop=most_probable",
    "memit+sphere",
    "prune+sphere",
    "rect+sphere",
    "ft+sphere",
    "rome+sphere",
    "memit-seq+sphere",
    "encore+sphere",
)


def statistics(model: PreTrainedModel, layers: tuple[int, ...] = LAYERS) -> Statistics:
    """Well-conditioned random second moments of keys and gradients for each layer."""
    generator = torch.Generator().manual_seed(0)
    moments, probes, outputs = {}, {}, {}
    for i in layers:
        size = adapter(model).weight(i).shape[1]
        sample = torch.randn(size, 3 * size, generator=generator, dtype=torch.float64)
        moments[i], probes[i] = sample @ sample.T / (3 * size), sample[:, :7].clone()
        slopes = torch.randn(size // 2, 3 * size, generator=generator, dtype=torch.float64)
        outputs[i] = slopes @ slopes.T / (3 * size)
    return Statistics(moments, probes, 3 * 64, outputs)


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
    for kind in ("weights", "carried"):
        one, two = getattr(whole, kind), getattr(parts, kind)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[i], two[i]) for i in one), kind
    remembered, again = ({(i, n): t for i, m in s.memory.items() for n, t in m.items()} for s in (whole, parts))
    assert remembered.keys() == again.keys()
    assert all(torch.equal(remembered[key], again[key]) for key in remembered)
    assert (parts.position, parts.batch) == (3, 3)
    for i, weight in parts.weights.items():
        assert torch.equal(adapter(fresh).weight(i), weight.to(torch.float32))


def test_a_state_of_an_earlier_version_is_refused(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Until 0.1 M was the only memory there was, under a name of its own."""
    tokenizer = tiny_tokenizer(True)
    path = tmp_path / "state.safetensors"
    make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit-seq").run(REQUESTS, batch_size=3).save(path)
    with safe_open(str(path), framework="pt") as file:
        note = json.loads(file.metadata()["sphere_state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name for name in tensors if not name.startswith("weights")} == {f"memory.{i}.past" for i in LAYERS}
    del note["format"]
    save_file(tensors, str(path), metadata={"sphere_state": json.dumps(note)})
    with pytest.raises(InputError, match="was written by an earlier version of sphere: make it again") as caught:
        EditState.load(path)
    assert "\n" not in str(caught.value)


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
    from sphere.editing.values import target_values

    wanted = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=FAST).values
    seen = editor._keys_and_outputs(REQUESTS, [1])
    editor.run(REQUESTS, batch_size=3)
    change = (editor.state.weights[1] - editor.pretrained[1]) @ seen.keys[1]
    torch.testing.assert_close(change, wanted - seen.outputs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_ascent_sees_what_whole_passes_see(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model(family, len(tokenizer)))
    generator = torch.Generator().manual_seed(1)
    ascent = Ascent(parts, tokenizer, REQUESTS, CONTEXTS, last=2, token_budget=40)
    for i in (0, 1, 2):
        seen = ascent.at(i)
        whole = keys_and_outputs(parts, tokenizer, REQUESTS, CONTEXTS, layers=[i], last=2, token_budget=40)
        assert torch.equal(seen.keys[i], whole.keys[i])
        assert torch.equal(seen.bare_keys[i], whole.bare_keys[i])
        assert torch.equal(seen.outputs, whole.outputs)
        weight = parts.weight(i)
        parts.set_weight(i, weight + 0.1 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("name", ["memit-seq", "memit-seq+sphere", "memit-seq+prune", "memit-seq+rect"])
def test_a_solver_remembers_the_keys_under_the_edited_weights(
    name: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    editor = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, name)
    editor.run(REQUESTS, batch_size=len(REQUESTS))
    editor._show(editor.state.carried or editor.state.weights)
    keys = editor._keys_and_outputs(REQUESTS, LAYERS).keys
    for i in LAYERS:
        torch.testing.assert_close(editor.state.memory[i]["past"], keys[i] @ keys[i].T, rtol=1e-9, atol=1e-12)


def test_energy_rows(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    records: list[Record] = []
    editor = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit")
    start = editor.first_record()
    editor.run(REQUESTS, batch_size=2, on_batch=records.append)
    assert {tuple(row) for record in (start, *records) for row in record.energy} == {ENERGY_COLUMNS}
    assert [(r.edits, r.batch) for r in records] == [(2, 1), (3, 2)]
    for number, layer in enumerate(LAYERS):
        rows = [start.energy[number], *(r.energy[number] for r in records)]
        assert all(row["layer"] == layer for row in rows)
        assert rows[0]["delta_he"] == 0
        for last, row in pairwise(rows):
            assert row["he_sum"] - last["he_sum"] == pytest.approx(row["delta_he"])
            assert row["perturbation"] > 0
            assert row["bound"] == pytest.approx((row["delta_he"] / row["theorem_k"]) ** 2)


def test_energy_rows_say_what_share_of_directions_the_null_space_keeps(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    for name, share in (("sphere", 38 / 64), ("memit", None)):  # a fraction of 0.6, rounded to whole directions
        for row in make_editor(tiny_model("llama", len(tokenizer)), tokenizer, name).first_record().energy:
            assert row["editable_share"] == share if share else math.isnan(row["editable_share"])


def test_nothing_is_measured_or_decomposed_twice(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches: the energies of the start and of every result, and one decomposition a pretrained weight."""
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: (calls.append(name), function(*given, **named))[1]

    monkeypatch.setattr(loop, "measure_energy", counted("energy", loop.measure_energy))
    monkeypatch.setattr(linalg, "gram_eigen", counted("decomposition", linalg.gram_eigen))
    tokenizer = tiny_tokenizer(True)
    editor = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "revive")
    editor.first_record()
    editor.run(REQUESTS, batch_size=1)
    assert calls.count("energy") == 4 * len(LAYERS)
    assert calls.count("decomposition") == len(LAYERS)


def test_pruned_weights_are_evaluated_and_unpruned_carried(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """With a weak second moment the updates are so large that PRUNE has something to restrain."""
    tokenizer = tiny_tokenizer(True)

    def run(name: str) -> tuple[PreTrainedModel, EditState]:
        model = tiny_model("llama", len(tokenizer))
        method = resolve(name, hyperparameters={"second_moment_weight": 1e-3})
        large = ValueSettings(steps=3, lr=5.0, clamp_norm_factor=20.0)
        editor = Editor(
            model, tokenizer, method, layers=LAYERS, values=large, contexts=CONTEXTS, statistics=statistics(model)
        )
        return model, editor.run(REQUESTS, batch_size=1)

    (model, pruned), (_, plain) = run("prune"), run("memit")
    for i in LAYERS:
        torch.testing.assert_close(pruned.carried[i], plain.weights[i], rtol=0, atol=0)
        assert torch.equal(adapter(model).weight(i), pruned.weights[i])
        change, whole = pruned.weights[i] - pruned.pretrained[i], pruned.carried[i] - pruned.pretrained[i]
        assert torch.linalg.matrix_norm(change, 2) < 0.99 * torch.linalg.matrix_norm(whole, 2)


def test_what_stands_behind_prune_is_handed_the_weight_before_the_accumulated_update(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Scatter moves the energy by the share that it is asked for, away from the pretrained weight's."""
    tokenizer, share = tiny_tokenizer(True), 0.05
    model = tiny_model("llama", len(tokenizer)).double()
    method = resolve("prune+scatter", hyperparameters={"second_moment_weight": 1e-3, "share": share})
    state = Editor(
        model, tokenizer, method, layers=LAYERS, values=ValueSettings(steps=3, lr=5.0, clamp_norm_factor=20.0),
        contexts=CONTEXTS, statistics=statistics(model),
    ).run(REQUESTS, batch_size=1)  # fmt: skip
    for i in LAYERS:
        moved = measure_energy(state.weights[i]).mean / measure_energy(state.pretrained[i]).mean - 1
        assert abs(moved) == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("name", ["ft", "rome", "sphere"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj"])
def test_a_bfloat16_model_is_edited_in_float32(
    family: str, name: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """The edited layers alone are float32, in the state and in the model, while the model itself stays bfloat16."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer)).bfloat16()
    parts, layers = adapter(model), resolve(name).edited_layers(LAYERS, FAST)
    state = make_editor(model, tokenizer, name).run(REQUESTS, batch_size=2)
    for i in layers:
        assert parts.parameter(i).dtype == state.weights[i].dtype == torch.float32
        assert torch.equal(parts.weight(i), state.weights[i])
        assert not torch.equal(state.weights[i], state.weights[i].bfloat16().float())
    assert model(torch.arange(6)[None]).logits.dtype == torch.bfloat16
    parts.narrow(layers)
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    for i in layers:
        assert torch.equal(parts.weight(i), state.weights[i].bfloat16())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("name", METHODS)
def test_cuda_edits_as_the_cpu_does(name: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    states = [
        make_editor(tiny_model("llama", len(tokenizer)).to(device), tokenizer, name).run(REQUESTS, batch_size=3)
        for device in ("cpu", "cuda")
    ]
    for i, weight in states[0].weights.items():
        torch.testing.assert_close(states[1].weights[i].cpu(), weight, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["memit-seq", "prune"])
def test_an_evaluation_reads_of_a_state_what_it_evaluates(
    name: str, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    state = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, name).run(REQUESTS[:2], batch_size=1)
    assert state.memory or state.carried
    state.save(tmp_path / "state.safetensors")
    read = EditState.load(tmp_path / "state.safetensors", continued=False)
    assert (read.memory, read.carried, read.position) == ({}, {}, 2)
    assert all(torch.equal(weight, read.weights[i]) for i, weight in state.weights.items())


def test_foreign_state_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(True)
    editor = make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit")
    editor.run(REQUESTS[:1], batch_size=1).save(tmp_path / "s")
    state = EditState.load(tmp_path / "s")
    with pytest.raises(InputError, match="own pretrained model"):
        make_editor(tiny_model("llama", len(tokenizer), seed=1), tokenizer, "memit", state)
    with pytest.raises(InputError, match="own method and seed"):
        make_editor(tiny_model("llama", len(tokenizer)), tokenizer, "memit-seq", state)
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:100])
    with pytest.raises(InputError, match="not an edit state"):
        EditState.load(tmp_path / "s")


def changed(number: int, **fields: Any) -> EditRequest:
    return dataclasses.replace(REQUESTS[number], **fields)


BAD_REQUESTS = {
    "not at character": [changed(0, subject="Marie Curie")],
    "subject '' is not": [changed(0, subject="")],
    "the target of prompt .* is empty": [changed(0, target_new=" ")],
    "case 1 appears twice": [REQUESTS[0], changed(1, case_id=1)],
    "case 7 appears twice": [REQUESTS[0], changed(1, case_id=7)],
    "contradict each other": [REQUESTS[0], changed(0, case_id=9, target_new="Danish")],
    "there is nothing to edit": [],
}


@pytest.mark.parametrize("message", BAD_REQUESTS)
def test_bad_requests_are_refused_before_anything_changes(
    message: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Also when they come in a later batch."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    requests = BAD_REQUESTS[message]
    first = [changed(2, case_id=7), changed(1, case_id=8)] if requests else []
    with pytest.raises(InputError, match=message) as caught:
        edit(
            model,
            tokenizer,
            [*first, *requests],
            method="memit",
            layers=LAYERS,
            values=FAST,
            contexts=CONTEXTS,
            statistics=statistics(model),
            batch_size=2,
        )
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_target_that_the_tokenizer_cannot_represent(tiny_model: ModelMaker) -> None:
    core = Tokenizer(WordLevel({"<unk>": 0, "the": 1, "Ada": 2, "is": 3, "English": 4}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    model = tiny_model("llama", len(tokenizer))
    settings: dict[str, Any] = {"method": "memit", "layers": LAYERS, "values": FAST, "statistics": statistics(model)}
    edit(model, tokenizer, [EditRequest(1, "Ada", "Ada is", 0, "English", None)], contexts=Contexts(), **settings)
    with pytest.raises(InputError, match="tokenizer cannot represent the target 'Danish'"):
        edit(model, tokenizer, [EditRequest(1, "Ada", "Ada is", 0, "Danish", None)], contexts=Contexts(), **settings)


def test_null_space_that_is_empty_or_full(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    for threshold, share in ((1e-9, "0 %"), (1e9, "100 %")):
        with pytest.raises(InputError, match=rf"\({share}\): nullspace_threshold=\S+ keeps 70%"):
            edit(
                model,
                tokenizer,
                REQUESTS,
                method="alphaedit",
                layers=LAYERS,
                contexts=CONTEXTS,
                statistics=statistics(model),
                hyperparameters={"nullspace_threshold": threshold},
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": (2, 1)}, r"layers \[2, 1\]: give at least one, ascending"),
        ({"layers": ()}, "give at least one, ascending"),
        ({"layers": (1, 4)}, "layer 4 is not in this model: it has layers 0 to 3"),
        ({"layers": (1, 3)}, "layer 3 is the model's last"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"statistics": None}, "needs key second moments"),
        ({"statistics": None, "corpus": []}, "has no text"),
        ({"layers": (0, 1)}, "the key statistics lack layer 0"),
        ({"hyperparameters": {"etta": 1}}, "has no hyperparameter 'etta'"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: dict[str, Any], message: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    given = {"layers": LAYERS, "values": FAST, "statistics": statistics(model, (1, 2, 3)), **arguments}
    with pytest.raises(InputError, match=message):
        edit(model, tokenizer, REQUESTS, method="memit", contexts=CONTEXTS, **given)


def test_stored_spectra_change_nothing(tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """Neither are they decomposed again, where a file has them."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    save_null_space(statistics(model), tmp_path / "null_space.safetensors")
    save_directions(adapter(model), LAYERS, tmp_path / "directions.safetensors")
    spectra = Spectra.load([tmp_path / "null_space.safetensors", tmp_path / "directions.safetensors"])
    method = resolve("sphere", hyperparameters=hyperparameters("sphere"))
    states = [
        Editor(
            tiny_model("llama", len(tokenizer)),
            tokenizer,
            method,
            layers=LAYERS,
            values=FAST,
            contexts=CONTEXTS,
            statistics=statistics(model),
            spectra=each,
        ).run(REQUESTS, batch_size=2)
        for each in (None, spectra)
    ]
    assert all(torch.equal(states[0].weights[i], states[1].weights[i]) for i in LAYERS)


@pytest.mark.parametrize("method", ["memit", "ft"])
def test_a_half_precision_that_overflows_in_the_edited_layer_is_left_for_a_wider_one(
    method: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """NaN in the loss, and so in z: the edited layer's output is beyond float16, though its weight is not."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).half()
    parts = adapter(model)
    parts.set_weight(2, parts.weight(2).double() * (6e4 / float(parts.weight(2).abs().max())))
    records: list[Record] = []
    editor = Editor(model, tokenizer, resolve(method, hyperparameters={"layer": 2} if method == "ft" else {}),
                    layers=(1, 2), values=FAST, contexts=CONTEXTS, statistics=statistics(model))  # fmt: skip
    editor.run(REQUESTS, batch_size=3, on_batch=records.append)
    (record,) = records
    assert record.retried.startswith("batch 1 in float16: ")
    assert all(torch.isfinite(weight).all() for weight in editor.state.weights.values())
    assert parts.head.weight.dtype == torch.float16


def test_failed_batch_leaves_the_last_whole_one(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    editor = make_editor(model, tokenizer, "memit")
    solve: Callable[..., Tensor] = Memit.solve

    def broken(self: Memit, problem: LayerProblem) -> Solution:
        return Solution(solve(self, problem).update * (float("nan") if editor.state.batch == 1 else 1.0))

    monkeypatch.setattr(Memit, "solve", broken)
    with pytest.raises(NumericalError, match="NaN or infinite"):
        editor.run(REQUESTS, batch_size=2)
    assert editor.state.position == 2
    for i in LAYERS:
        assert torch.equal(adapter(model).weight(i), editor.state.weights[i])
        assert torch.isfinite(editor.state.weights[i]).all()


def test_editing_ignores_and_keeps_training_mode(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """Dropout (GPT-2 has it) must not reach keys, contexts or values."""
    tokenizer = tiny_tokenizer(False)
    states = []
    for training in (False, True):
        model = tiny_model("gpt2", len(tokenizer)).train(training)
        settings = hyperparameters("memit")
        states.append(
            edit(model, tokenizer, REQUESTS, method="memit", values=FAST, corpus=CORPUS, hyperparameters=settings)
        )
        assert model.training is training
    assert all(torch.equal(states[0].weights[i], states[1].weights[i]) for i in states[0].weights)


def test_a_method_s_own_layer_is_the_one_that_changes(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    settings = {"layer": 0, "second_moment": "data"}
    state = edit(
        model,
        tokenizer,
        REQUESTS[:1],
        method="rome",
        layers=LAYERS,
        values=FAST,
        contexts=CONTEXTS,
        corpus=CORPUS,
        hyperparameters=settings,
    )
    assert set(state.weights) == {0}


def test_edits_continue_in_memory(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """``edit`` on its own state, on the model it edited, is the stream in one go; on other layers it is refused."""
    tokenizer = tiny_tokenizer(True)
    one, two = (tiny_model("llama", len(tokenizer)) for _ in range(2))
    given: dict[str, Any] = {
        "method": "memit-seq",
        "values": FAST,
        "contexts": CONTEXTS,
        "statistics": statistics(one),
        "hyperparameters": hyperparameters("memit-seq"),
        "batch_size": 1,
    }
    whole = edit(one, tokenizer, REQUESTS, layers=LAYERS, **given)
    half = edit(two, tokenizer, REQUESTS[:2], layers=LAYERS, **given)
    rest = edit(two, tokenizer, REQUESTS[2:], layers=LAYERS, state=half, **given)
    assert all(torch.equal(whole.weights[i], rest.weights[i]) for i in LAYERS)
    with pytest.raises(InputError, match="own pretrained model and layers"):
        edit(two, tokenizer, REQUESTS[2:], layers=LAYERS[:1], state=half, **given)


@pytest.mark.parametrize("stored", [False, True])
def test_a_state_is_all_that_a_later_call_needs(
    stored: bool, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Contexts come from the state, statistics from the weights before any edit, the state's or the model's."""
    tokenizer = tiny_tokenizer(True)
    one, two = (tiny_model("llama", len(tokenizer)) for _ in range(2))
    given: dict[str, Any] = {"method": "sphere", "layers": LAYERS, "values": FAST, "corpus": CORPUS, "batch_size": 1}
    given["hyperparameters"] = hyperparameters("sphere")
    whole = edit(one, tokenizer, REQUESTS, **given)
    state = edit(two, tokenizer, REQUESTS[:2], **given)
    if stored:
        state.save(tmp_path / "state")
        state, two = EditState.load(tmp_path / "state"), tiny_model("llama", len(tokenizer))
    rest = edit(two, tokenizer, REQUESTS[2:], state=state, **given)
    assert rest.contexts == whole.contexts != Contexts()
    assert all(torch.equal(whole.weights[i], rest.weights[i]) for i in LAYERS)
    with pytest.raises(InputError, match="other context templates"):
        edit(two, tokenizer, REQUESTS[:1], contexts=Contexts(), state=rest, **given)
    assert all(torch.equal(adapter(two).weight(i), rest.weights[i]) for i in LAYERS)


@pytest.mark.parametrize("name", ["memit", "rome", "ft"])
def test_the_caller_s_defaults_change_nothing(
    name: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Another default dtype, or torch.inference_mode() around the call."""
    tokenizer = tiny_tokenizer(True)

    def edited(around: Callable[[], AbstractContextManager[Any]]) -> EditState:
        model = tiny_model("llama", len(tokenizer))
        with around():
            return edit(model, tokenizer, REQUESTS, method=name, layers=LAYERS, values=FAST, contexts=CONTEXTS,
                        corpus=TEXTS, hyperparameters=hyperparameters(name))  # fmt: skip

    @contextmanager
    def double() -> Iterator[None]:
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)

    states = [edited(around) for around in (nullcontext, double, torch.inference_mode, torch.no_grad)]
    for state in states[1:]:
        assert all(torch.equal(weight, states[0].weights[i]) for i, weight in state.weights.items())
    assert torch.get_default_dtype() == torch.float32


def test_a_model_loaded_in_inference_mode_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    with torch.inference_mode():
        model = tiny_model("llama", len(tokenizer))
    with pytest.raises(InputError, match=r"loaded inside torch.inference_mode\(\): load it outside"):
        edit(model, tokenizer, REQUESTS, method="rome", layers=LAYERS, contexts=CONTEXTS)
