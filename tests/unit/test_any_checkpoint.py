"""Checkpoints as people have them: what can be edited is, what cannot be is refused in one line before the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS, ModelMaker, TokenizerMaker
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BitsAndBytesConfig, MixtralConfig

from sphere.cli import main
from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest, Probe
from sphere.editing.contexts import Contexts, sample_contexts
from sphere.editing.edit import edit
from sphere.editing.stats import Statistics
from sphere.errors import InputError, NumericalError
from sphere.evaluation.generation import continue_rows
from sphere.evaluation.metrics import evaluate_requests
from sphere.models import loading
from sphere.models.adapters import adapter, known_family
from sphere.models.loading import load
from sphere.models.precision import diverged_may_miss

REQUEST = EditRequest(
    10**30,
    "Ada Lovelace",
    "The mother tongue of Ada Lovelace is",
    21,
    "French",
    "English",
    paraphrases=("Ada Lovelace lives in",),
    neighborhood=(Probe("The capital of France is", "Paris"),),
)
FAST = ValueSettings(steps=3)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> Path:
    tokenizer = tiny_tokenizer(True)
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of one of the folder's JSON files."""
    found = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(found | changes), encoding="utf-8")


# ------------------------------------------------------------------------------------------ quantised checkpoints

SCHEMES: dict[str, tuple[Mapping[str, Any], str]] = {
    "bitsandbytes 4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bit"),
    "bitsandbytes 8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bit"),
    "GPTQ": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq, 4 bit"),
    "AWQ": ({"quant_method": "awq", "bits": 4, "zero_point": True}, "awq, 4 bit"),
    "FP8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    "one of tomorrow's": ({"quant_method": "xyz"}, "xyz"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantised_checkpoint_is_refused_before_its_weights_are_read(scheme: str, folder: Path) -> None:
    settings, name = SCHEMES[scheme]
    changed(folder, "config.json", quantization_config=settings)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"model is quantised \({name}\).* unquantised original, or a GGUF") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_quantised_model_in_memory_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    model, tokenizer = tiny_model("llama", 384), tiny_tokenizer(True)
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(InputError, match=r"'?llama'? is quantised \(bitsandbytes, 8 bit\)"):
        edit(model, tokenizer, [REQUEST], method="ft", layers=[1])


def test_raw_eight_bit_weights_are_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    save_file(eight, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"is quantised \(weights stored as F8_E4M3\)"):
        load(folder)


def test_models_of_other_kinds_are_refused_as_what_they_are(folder: Path) -> None:
    with pytest.raises(InputError, match="architecture 'mixtral' is a mixture of experts, no single MLP: take a dense"):
        known_family(MixtralConfig())
    changed(folder, "config.json", model_type="gemma3")
    with pytest.raises(InputError, match=r"model: architecture 'gemma3' reads images or sound beside text"):
        load(folder)


# --------------------------------------------------------------------------------------- tokens the model lacks


def test_end_and_padding_tokens_beyond_the_embedding_change_nothing(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    states = []
    for beyond in (False, True):
        tokenizer = tiny_tokenizer(True)
        if beyond:
            tokenizer.add_special_tokens({"pad_token": "[PAD]", "eos_token": "[END]"})
        model = tiny_model("llama", 384)
        states.append(edit(model, tokenizer, [REQUEST], layers=[1], values=FAST, corpus=TEXTS, batch_size=1))
        frame = evaluate_requests(model, tokenizer, [REQUEST])
        assert frame["case_id"].tolist() == [10**30]
    assert torch.equal(states[0].weights[1], states[1].weights[1])


@pytest.mark.parametrize(
    ("prompt", "target"), [("The <new> of Ada Lovelace is", "French"), ("The tongue of Ada Lovelace is", "<new>")]
)
def test_a_prompt_or_target_with_a_token_that_the_model_lacks_is_named(
    prompt: str, target: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    model, tokenizer = tiny_model("llama", 384), tiny_tokenizer(True)
    tokenizer.add_tokens(["<new>"])
    request = EditRequest(1, "Ada Lovelace", prompt, prompt.index("Ada"), target, "English")
    line = r"has the token '<new>' \(id 384\), which the model lacks"
    with pytest.raises(InputError, match=line):
        edit(model, tokenizer, [request], method="ft", layers=[1])
    with pytest.raises(InputError, match=line):
        evaluate_requests(model, tokenizer, [request])


# ------------------------------------------------------------------------------------------------- tokenizers


def with_spaces(folder: Path) -> Tokenizer:
    """A llama folder whose tokenizer.json splits on spaces by bytes, which transformers' LlamaTokenizer does not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    own = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    own.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return own


def test_the_folder_s_own_tokenizer_is_used_and_saved(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = with_spaces(folder)
    (folder / "LICENSE").write_text("Mine.\n", encoding="utf-8")
    loaded = load(folder)
    text = "The mother tongue of Ada Lovelace"
    assert loaded.tokenizer(text)["input_ids"] == own.encode(text).ids
    assert loaded.tokenizer.decode(own.encode(text).ids) == text
    assert "tokenizer.json is used where its class would differ" in caplog.text
    record = {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": "{} speaks", "subject": "Ada", "target_new": {"str": "French"}, "target_true": {"str": "English"}
        },
        "paraphrase_prompts": [],
        "neighborhood_prompts": [],
    }  # fmt: skip
    (folder.parent / "requests.json").write_text(json.dumps([record]), encoding="utf-8")
    out = folder.parent / "out"
    with pytest.raises(SystemExit) as ended:
        main(["edit", str(folder), str(folder.parent / "requests.json"), "--method", "ft", "--out", str(out)])
    assert ended.value.code == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "LICENSE"):
        assert (out / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_tokenizer_that_comes_back_as_it_is_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(folder)
    assert "tokenizer" not in caplog.text


# ---------------------------------------------------------------------------------------- numbers and precision


def test_a_weight_that_overflows_on_the_way_back_is_refused(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).half()
    own = {"lr": 1e5, "epochs": 1, "stop_loss": 0.0}
    with pytest.raises(NumericalError, match=r"weight of layer 1 has \d+ entries that float16 cannot hold: load .* in"):
        edit(model, tokenizer, [REQUEST], method="ft", layers=[1], hyperparameters=own)


def broken(model: Any) -> Any:
    """Its logits are beyond float16, whatever it reads."""
    model.lm_head.weight.fill_(6e4)
    return model.half()


USES: dict[str, Callable[[Any, Any], object]] = {
    "contexts": lambda model, tokenizer: sample_contexts(
        adapter(model), tokenizer, count=1, length=2, generator=torch.Generator()
    ),
    "metrics": lambda model, tokenizer: evaluate_requests(model, tokenizer, [REQUEST]),
    "generation": lambda model, _tokenizer: continue_rows(model, [(5, 6)], new_tokens=[2], pad=0),
}


@pytest.mark.parametrize("use", USES)
def test_logits_that_are_not_finite_name_the_dtype_to_take(
    use: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    with pytest.raises(NumericalError, match=r"logits are not finite in float16: load it in float32 \(--dtype float32"):
        USES[use](broken(tiny_model("llama", len(tokenizer))), tokenizer)


def test_a_diverged_edit_misses_where_it_is_measured(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """Its study goes on: ``evaluate_states`` is not strict with what it edited itself."""
    tokenizer = tiny_tokenizer(True)
    with diverged_may_miss():
        frame = evaluate_requests(broken(tiny_model("llama", len(tokenizer))), tokenizer, [REQUEST])
    assert frame[["accuracy_efficacy", "success_efficacy"]].to_numpy().tolist() == [[0, 0]]


@pytest.mark.parametrize(("method", "settings"), [("memit", {}), ("rome", {"second_moment": "data"})])
def test_a_dead_neuron_is_named_once_with_what_helps(
    method: str, settings: dict[str, Any], tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    moment = torch.eye(64, dtype=torch.float64)
    moment[5, 5] = moment[9, 9] = 0
    statistics = Statistics({1: moment}, {}, 1000)
    given: dict[str, Any] = {"layers": [1], "values": FAST, "statistics": statistics, "contexts": Contexts()}
    model = tiny_model("llama", len(tokenizer))
    with pytest.raises(InputError, match=r"entry 5 \(and 1 more\) of layer 1's keys is zero .* dead neuron.*encore"):
        edit(model, tokenizer, [REQUEST], method=method, hyperparameters=settings, **given)
    for helps in ("encore", "alphaedit"):
        edit(tiny_model("llama", len(tokenizer)), tokenizer, [REQUEST], method=helps, **given)


@pytest.mark.parametrize("there", [True, False])
def test_half_precision_is_taken_as_float32_where_the_processor_does_not_compute_in_it(
    there: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load(folder).model.bfloat16().save_pretrained(folder)
    monkeypatch.setattr(loading, "computes_in", lambda dtype: there or dtype == torch.float32)
    assert load(folder, device="cpu").model.dtype == (torch.bfloat16 if there else torch.float32)
    said = caplog.text
    assert ("bfloat16 taken as float32, much faster on this processor (dtype overrules)" in said) is not there
    assert load(folder, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_processor_is_asked_what_it_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "avx512_fp16": False})
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    assert [loading.computes_in(dtype) for dtype in dtypes] == [True, True, False]


# --------------------------------------------------------------------------------- the default method, no settings


@pytest.mark.parametrize("method", ["sphere", "alphaedit"])
def test_the_default_method_edits_a_model_that_nobody_has_settings_for(
    method: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tiny_tokenizer(True)
    given: dict[str, Any] = {"method": method, "layers": [1], "values": FAST, "corpus": TEXTS}
    rows: list[Any] = []
    edit(tiny_model("llama", 384), tokenizer, [REQUEST], **given, on_batch=rows.append)
    assert rows[0].energy[0]["editable_share"] == pytest.approx(0.7, abs=1 / 64)
    line = f"{method} edits the weakest 70% of key directions (nullspace_fraction), since nothing says otherwise"
    assert line in caplog.text
    caplog.clear()
    own = {"nullspace_fraction": 0.7}
    edit(tiny_model("llama", 384), tokenizer, [REQUEST], **given, hyperparameters=own)
    assert "otherwise" not in caplog.text
