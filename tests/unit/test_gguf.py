"""GGUF files: read as the model they were written from, edited like any other, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import TEXTS, ModelMaker, TokenizerMaker
from gguf_files import write_gguf
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sphere import cli
from sphere.errors import InputError
from sphere.models.adapters import adapter
from sphere.models.loading import load
from sphere.study.gguf import convert_gguf


@pytest.fixture
def written(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> tuple[Path, PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("llama", len(tokenizer))
    write_gguf(model, tokenizer, tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf", model, tokenizer


def test_a_file_is_the_model_it_was_written_from(
    written: tuple[Path, PreTrainedModel, PreTrainedTokenizerFast], capsys: pytest.CaptureFixture[str]
) -> None:
    path, model, tokenizer = written
    capsys.readouterr()
    loaded = load(path, device="cpu")
    assert capsys.readouterr().err == ""
    assert adapter(loaded.model).dtype == torch.float32
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert loaded.tokenizer(text)["input_ids"] == ids
        rows = torch.tensor([ids])
        torch.testing.assert_close(loaded.model(rows).logits, model(rows).logits, rtol=1e-5, atol=1e-4)


def test_the_rule_writes_a_folder_like_any_other(
    written: tuple[Path, PreTrainedModel, PreTrainedTokenizerFast], tmp_path: Path
) -> None:
    path, model, tokenizer = written
    convert_gguf(path, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    loaded = load(tmp_path / "model", device="cpu")
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], weight), name
    assert loaded.tokenizer(TEXTS[2])["input_ids"] == tokenizer(TEXTS[2])["input_ids"]


def test_the_command_line_takes_a_file(
    written: tuple[Path, PreTrainedModel, PreTrainedTokenizerFast],
    own_records: list[dict[str, object]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, model, _ = written
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps(own_records[:2]), encoding="utf-8")
    (tmp_path / "settings.yaml").write_text("layers: [1]\nvalues: {steps: 2}\n", encoding="utf-8")
    given = ("--method", "rome", "--hyperparameters", tmp_path / "settings.yaml", "--out", tmp_path / "edited")
    for arguments in (
        ("energy", path, "--layers", 1, "--json"),
        ("edit", path, requests, *given),
        ("evaluate", path, requests, "--json"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert (caught.value.code, printed.err) == (0, "")
    edited = AutoModelForCausalLM.from_pretrained(tmp_path / "edited").state_dict()
    before = model.state_dict()
    changed = {name for name, weight in edited.items() if not torch.equal(weight, before[name])}
    assert changed == {"model.layers.1.mlp.down_proj.weight"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:2000], "cannot be loaded as a causal language model"),
        (lambda data: b"GGUF" + b"\xff" * 200, "cannot be loaded as a causal language model"),
        (lambda data: b"GGML" + data[4:], "give one with a config.json, or a .gguf file"),
        (lambda data: b"", "is not a Hugging Face model folder"),
    ],
)
def test_a_broken_file_costs_one_line(
    spoil: object, said: str, written: tuple[Path, PreTrainedModel, PreTrainedTokenizerFast]
) -> None:
    path, _, _ = written
    path.write_bytes(spoil(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        load(path, device="cpu")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_architecture_that_nobody_knows_costs_one_line(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(False)
    write_gguf(tiny_model("llama", len(tokenizer)), tokenizer, tmp_path / "x.gguf", kind="plamo")
    with pytest.raises(InputError) as caught:
        convert_gguf(tmp_path / "x.gguf", tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()
    with pytest.raises(InputError, match="is no GGUF file"):
        convert_gguf(Path(__file__), tmp_path / "model")
