"""Adapters: the edited matrix of every architecture, seen one way; loading that says what is wrong with a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from safetensors.torch import load_file, save_file
from transformers import OPTConfig, OPTForCausalLM

from sphere.errors import InputError
from sphere.models.adapters import FAMILIES as KNOWN
from sphere.models.adapters import adapter
from sphere.models.hooks import capture_inputs, capture_output, forward
from sphere.models.loading import load, resolve_device


def test_every_known_family_is_tested() -> None:
    assert set(KNOWN) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_is_what_the_module_multiplies_by(family: str, tiny_model: ModelMaker) -> None:
    """A neuron is a row of ``weight`` however it is stored; it is a view, named as in the state dict."""
    model = tiny_model(family, 64)
    parts = adapter(model)
    weight, module = parts.weight(1), parts.projection(1)
    assert weight.shape == (32, 64)
    inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    bias = getattr(module, "bias", None)
    torch.testing.assert_close(module(inputs), inputs @ weight.T + (0 if bias is None else bias))
    parts.set_weight(1, torch.full_like(weight, 2.0, dtype=torch.float64))
    stored = model.state_dict()[parts.weight_name(1)]
    assert stored.dtype == torch.float32
    assert (stored == 2).all()
    assert (parts.weight(0) != 2).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_backbone_norm_and_head_make_the_logits(family: str, tiny_model: ModelMaker) -> None:
    model = tiny_model(family, 64)
    parts = adapter(model)
    ids = torch.arange(6)[None]
    logits = model(ids).logits
    with capture_output(parts.layer(parts.n_layers - 1)) as seen:
        states = parts.backbone(input_ids=ids).last_hidden_state
    torch.testing.assert_close(parts.logits(states), logits)
    torch.testing.assert_close(parts.logits(parts.final_norm(seen[0])), logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_widened_layer_computes_in_float32_and_can_be_narrowed(family: str, tiny_model: ModelMaker) -> None:
    model = tiny_model(family, 64).bfloat16()
    parts, ids = adapter(model), torch.arange(6)[None]
    clean = model(ids).logits
    parts.widen([1])
    parts.widen([1])  # once is enough
    tiny = torch.full_like(parts.weight(1), 1e-6)
    parts.set_weight(1, parts.weight(1) + tiny)
    assert (parts.weight(1) != parts.weight(1).bfloat16()).any(), "the small update is kept"
    with capture_inputs({1: parts.projection(1)}) as keys, capture_output(parts.projection(1)) as outputs:
        model(ids)
    inputs, bias = keys[1].double(), getattr(parts.projection(1), "bias", None)
    exact = inputs @ parts.weight(1).double().T + (0 if bias is None else bias.double())
    assert outputs[0].dtype == torch.bfloat16
    torch.testing.assert_close(outputs[0], exact.bfloat16(), atol=0, rtol=2**-8)  # one rounding of the output
    parts.narrow([0, 1])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(model(ids).logits, clean)
    full = adapter(tiny_model(family, 64))
    full.widen([1])
    full.narrow([1])
    assert full.parameter(1).dtype == torch.float32


def test_hooks_last_as_long_as_their_block(tiny_model: ModelMaker) -> None:
    parts = adapter(tiny_model("llama", 64))
    ids = torch.arange(6)[None]
    with capture_inputs({i: parts.projection(i) for i in (0, 1, 3)}, stop_after=1) as seen:
        assert forward(parts.backbone, input_ids=ids) is None
    assert set(seen) == {0, 1}, "the pass ends at layer 1"
    assert forward(parts.backbone, input_ids=ids) is not None
    with capture_inputs({0: parts.projection(0)}) as fresh:
        forward(parts.backbone, input_ids=ids)
    torch.testing.assert_close(fresh[0], seen[0])


def test_an_architecture_without_adapter_names_the_file_to_extend() -> None:
    config = OPTConfig(
        vocab_size=32,
        hidden_size=8,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        word_embed_proj_dim=8,
    )
    with pytest.raises(InputError, match=r"no adapter for architecture 'opt': add a row .* sphere/models/adapters\.py"):
        adapter(OPTForCausalLM(config))


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_that_is_not_there(layer: int, tiny_model: ModelMaker) -> None:
    with pytest.raises(InputError, match=f"layer {layer} is not in this model: it has layers 0 to 3"):
        adapter(tiny_model("llama", 64)).weight(layer)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> Path:
    tokenizer = tiny_tokenizer(True)
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_load_is_ready_to_edit(folder: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    loaded = load(folder, device="cpu")
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    original = tiny_model("llama", len(tiny_tokenizer(True)))
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert load(folder, dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def _without_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _with_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _of_no_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "nonsense"}))


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "is not a Hugging Face model folder"),
    "torn tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be loaded"),
    "torn weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"abc"), "cannot be loaded"),
    "unknown architecture": (_of_no_architecture, "cannot be loaded"),
    "no weight": (_without_a_weight, r"layers\.1\.mlp\.down_proj\.weight is missing or has another shape"),
    "another shape": (_with_another_shape, r"layers\.1\.mlp\.down_proj\.weight is missing or has another shape"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_folder_is_refused_in_one_line(breakage: str, folder: Path) -> None:
    """Weights that are not there would otherwise be drawn at random."""
    harm, message = BREAKAGES[breakage]
    harm(folder)
    with pytest.raises(InputError, match=message) as caught:
        load(folder, device="cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float33"}, "'float33' is not a torch dtype"),
        ({"dtype": "int64"}, "'int64' is not a torch dtype for weights"),
        *(({"device": name}, f"device '{name}' is unknown") for name in ("gpu", "mps", "meta", "cuda:x", "")),
        ({"device": "cuda"}, "torch sees no GPU"),
    ],
)
def test_bad_options(options: dict[str, str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=message):
        load(folder, **options)


def test_a_gpu_beyond_those_that_are_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="torch sees 2 GPUs: use cuda:1 or less"):
        resolve_device("cuda:9")
