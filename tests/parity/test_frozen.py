"""Target values of the unedited model: found once, read by every method, whatever was edited before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ModelMaker, TokenizerMaker
from plain import target_value
from test_sequential import LAYERS, statistics
from test_values import CONTEXTS, REQUESTS

from sphere.config.model import EditSettings
from sphere.config.values import ValueSettings
from sphere.editing import construction
from sphere.editing.frozen import FrozenTargets, find_frozen
from sphere.editing.loop import Editor
from sphere.editing.methods import resolve
from sphere.editing.values import target_values
from sphere.errors import InputError
from sphere.models.adapters import Adapter, adapter
from sphere.study.targets import find_targets

FROZEN = ValueSettings(lr=0.5, steps=6, clamp_norm_factor=2, weights="pretrained")
CURRENT = FROZEN.changed({"weights": "current"}, "here")


def editor(model: Any, tokenizer: Any, name: str, values: ValueSettings, **given: Any) -> Editor:
    settings = {"second_moment_weight": 1.0}
    method = resolve(name, hyperparameters=settings)
    return Editor(model, tokenizer, method, layers=LAYERS, values=values, contexts=CONTEXTS,
                  statistics=statistics(model), **given)  # fmt: skip


@pytest.fixture
def frozen(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> FrozenTargets:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    return find_frozen(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layers=LAYERS, settings=FROZEN, group=2)


def test_they_are_those_of_the_unedited_model(
    frozen: FrozenTargets, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    parts = Adapter(tiny_model("llama", len(tokenizer)).double())
    for request in REQUESTS:
        expected = target_value(parts, tokenizer, request, CONTEXTS, layer=LAYERS[-1], settings=CURRENT)
        torch.testing.assert_close(frozen.values[request.case_id][0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["memit", "memit-seq+sphere"])
def test_a_stream_is_the_same_with_and_without_the_file(
    name: str, frozen: FrozenTargets, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Batch after batch: the second is edited towards values of the model before the first. None is found twice."""
    tokenizer = tiny_tokenizer(True)
    frozen.save(tmp_path / "targets.safetensors")
    asked: list[int] = []

    def counted(*given: Any, **named: Any) -> Any:
        asked.append(len(given[2]))
        return target_values(*given, **named)

    monkeypatch.setattr(construction, "target_values", counted)
    states = []
    for targets in (None, FrozenTargets.load([tmp_path / "targets.safetensors"])):
        model = tiny_model("llama", len(tokenizer)).double()
        states.append(editor(model, tokenizer, name, FROZEN, targets=targets).run(REQUESTS, batch_size=1))
        for i, weight in states[-1].weights.items():
            assert torch.equal(adapter(model).weight(i), weight), "the model is left edited"
    assert asked == [1, 1, 1]
    for i, weight in states[0].weights.items():
        torch.testing.assert_close(states[1].weights[i], weight, rtol=1e-7, atol=1e-9)
    model = tiny_model("llama", len(tokenizer)).double()
    other = editor(model, tokenizer, name, CURRENT).run(REQUESTS, batch_size=1)
    assert not any(torch.allclose(other.weights[i], w, rtol=1e-4, atol=1e-4) for i, w in states[0].weights.items())


def test_values_found_otherwise_are_not_read(
    frozen: FrozenTargets, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Other settings, another model or another layer: they are found anew."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    same = editor(model, tokenizer, "memit", FROZEN)
    assert frozen.of(REQUESTS, same.made_with).keys() == {r.case_id for r in REQUESTS}
    for other in (
        editor(model, tokenizer, "memit", FROZEN.changed({"lr": 0.4}, "here")),
        editor(tiny_model("llama", len(tokenizer), seed=1).double(), tokenizer, "memit", FROZEN),
    ):
        assert frozen.of(REQUESTS, other.made_with) == {}
    frozen.save(tmp_path / "one.safetensors")
    FrozenTargets(frozen.values, "something else").save(tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="found with different settings: delete them"):
        FrozenTargets.load([tmp_path / "one.safetensors", tmp_path / "two.safetensors"])


def test_parts_hold_every_request_of_all_streams_once(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, own_records: list[dict[str, Any]]
) -> None:
    tokenizer = tiny_tokenizer(True)
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "contexts.json").write_text(CONTEXTS.to_json(), encoding="utf-8")
    streams = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, records in zip(streams, (own_records[:4], own_records[2:5]), strict=True):
        path.write_text(json.dumps(records), encoding="utf-8")
    editing = EditSettings(layers=LAYERS, device="cpu", values=ValueSettings(steps=2, weights="pretrained"))
    files = [tmp_path / f"part{part}.safetensors" for part in range(4)]
    for part, out in enumerate(files):
        find_targets(tmp_path / "model", streams, editing=editing, contexts=tmp_path / "contexts.json", part=part,
                     size=2, out=out)  # fmt: skip
    sizes = [len(FrozenTargets.load([path]).values) for path in files]
    assert sizes == [2, 2, 1, 0]
    assert sorted(FrozenTargets.load(files).values) == sorted(record["case_id"] for record in own_records[:5])
