"""The three commands on tiny models: what they write, what they print, and how they fail."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from sphere import cli, hyperspherical_energy
from sphere.data.records import load_requests
from sphere.errors import NumericalError
from sphere.evaluation.metrics import evaluate_requests
from sphere.models.adapters import adapter
from sphere.models.loading import load

EDITS = 100
LAYERS = (1, 2)
SETTINGS = f"""\
layers: {list(LAYERS)}
values: {{steps: 2, lr: 0.2}}
"""
OWN = {"memit+sphere": "second_moment_weight: 100\n", "sphere": "nullspace_fraction: 0.6\nridge: 1\n"}


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: ModelMaker,
    tiny_tokenizer: TokenizerMaker,
    own_records: list[Any],
) -> Path:
    """A folder with the models ``llama`` and ``gpt2``, 100 records, a corpus, and settings for each method."""
    folder = tmp_path_factory.mktemp("cli")
    for family in ("llama", "gpt2"):
        tokenizer = tiny_tokenizer(family == "llama")
        tiny_model(family, len(tokenizer)).save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    records = own_records[:EDITS]
    (folder / "requests.json").write_text(json.dumps(records), encoding="utf-8")
    texts = [text for record in records for text in record["generation_prompts"]]
    (folder / "corpus.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (folder / "dangling").symlink_to(folder / "nowhere")
    for method, own in OWN.items():
        (folder / f"{method}.yaml").write_text(SETTINGS + own, encoding="utf-8")
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def edit(files: Path, out: Path, *more: object, method: str = "memit+sphere", model: str = "llama") -> int:
    inputs = ("--corpus", files / "corpus.txt", "--hyperparameters", files / f"{method}.yaml")
    return run("edit", files / model, files / "requests.json", "--method", method, "--out", out, *inputs, *more)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("method", OWN)
def test_edit_changes_the_edited_matrices_and_nothing_else(
    method: str, model: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edit(files, tmp_path / "out", "--batch-size", 50, method=method, model=model) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[:2] == ["50/100 edits", "100/100 edits"]
    before, after = tensors(files / model), tensors(tmp_path / "out")
    names = {adapter(AutoModelForCausalLM.from_pretrained(files / model)).weight_name(i) for i in LAYERS}
    assert before.keys() == after.keys()
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} == names
    assert all(torch.isfinite(after[name]).all() for name in names)
    note = json.loads((tmp_path / "out" / "sphere.json").read_text(encoding="utf-8"))
    assert (note["method"], note["edits"], note["layers"]) == (method, EDITS, list(LAYERS))
    assert len(note["energy"]) == 2 * len(LAYERS)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_edited_in_bfloat16_and_loads(
    family: str, files: Path, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(family != "gpt2")
    tiny_model(family, len(tokenizer)).bfloat16().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert edit(files, tmp_path / "out", "--limit", 4, model=str(tmp_path / "model")) == 0
    before, after = tensors(tmp_path / "model"), tensors(tmp_path / "out")
    names = {adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "model")).weight_name(i) for i in LAYERS}
    assert {name for name, value in after.items() if not torch.equal(value, before[name])} == names
    assert {after[name].dtype for name in names} == {torch.bfloat16}


def test_edit_is_reproducible_and_its_seed_matters(files: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        assert edit(files, tmp_path / name, "--limit", 4, "--seed", seed) == 0
    one, two, other = (tensors(tmp_path / name) for name in ("one", "two", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_edit_needs_no_file_of_settings(files: Path, tmp_path: Path) -> None:
    """Nor a corpus, for a method that takes no statistics."""
    inputs = (files / "llama", files / "requests.json", "--method", "rome", "--limit", 1)
    assert run("edit", *inputs, "--out", tmp_path / "new" / "out") == 0
    assert json.loads((tmp_path / "new/out/sphere.json").read_text(encoding="utf-8"))["layers"] == [1]


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_evaluate_is_finite_and_reproducible(model: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        assert run("evaluate", files / model, files / "requests.json", "--json") == 0
        printed.append(capsys.readouterr())
    assert printed[0] == printed[1]
    assert printed[0].err == ""
    rows = {row["metric"]: row for row in json.loads(printed[0].out)}
    metrics = ("efficacy", "generalization", "specificity")
    families = ("success", "accuracy", "token_accuracy", "belief")
    assert set(rows) == {f"{f}_{m}" for f in families for m in metrics} | {
        "portability_subject_alias", "portability_unchanged",
    }  # fmt: skip
    for name, row in rows.items():
        assert 0 <= row["mean"] <= 1 or name.startswith("belief")
        assert math.isfinite(row["stderr"])
        assert row["n"] == EDITS
    assert run("evaluate", files / model, files / "requests.json", "--limit", 1, "--json") == 0
    assert {row["stderr"] for row in json.loads(capsys.readouterr().out)} == {None}


def test_evaluate_takes_what_edit_wrote(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edit(files, tmp_path / "out", "--limit", 20) == 0
    capsys.readouterr()
    assert run("evaluate", tmp_path / "out", files / "requests.json", "--limit", 20, "--json") == 0
    printed = {row["metric"]: row["mean"] for row in json.loads(capsys.readouterr().out)}
    loaded = load(tmp_path / "out", device="cpu")
    frame = evaluate_requests(loaded.model, loaded.tokenizer, load_requests(files / "requests.json").requests[:20])
    assert printed == frame.drop(columns="case_id").mean().dropna().to_dict()


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("s", [0, 1, 2])
def test_energy_is_that_of_the_weights(s: int, model: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("energy", files / model, "--layers", "0,3", "--s", s, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    parts = adapter(AutoModelForCausalLM.from_pretrained(files / model))
    assert [row["layer"] for row in rows] == [0, 3]
    for row in rows:
        weight = parts.weight(row["layer"])
        assert row["he_sum"] == hyperspherical_energy(weight, s=s)
        assert row["he_mean"] == hyperspherical_energy(weight, s=s, reduction="mean")
        assert (row["zero_rows"], row["coincident_pairs"]) == (0, 0)


def test_an_infinite_energy_is_null(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(files / "llama")
    weight = adapter(model).weight(2).clone()
    weight[5], weight[7], weight[9] = 4 * weight[4], 2 * weight[4], 0
    adapter(model).set_weight(2, weight)
    model.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((files / "llama" / name).read_bytes())
    capsys.readouterr()
    assert run("energy", tmp_path / "model", "--layers", "2", "--json") == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    rows = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert rows == [{"layer": 2, "he_sum": None, "he_mean": None, "zero_rows": 1, "coincident_pairs": 3}]


def test_tables_for_people(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("energy", files / "llama") == 0
    assert "he_sum" in capsys.readouterr().out
    assert run("evaluate", files / "llama", files / "requests.json", "--limit", 2) == 0
    assert "token_accuracy_efficacy" in capsys.readouterr().out
    assert run() == 0
    assert "evaluate" in capsys.readouterr().out


def records(files: Path, change: Callable[[list[dict[str, Any]]], object]) -> Path:
    """The records with a change, in a file of their own."""
    content = json.loads((files / "requests.json").read_text(encoding="utf-8"))[:3]
    change(content)
    path = files / "changed.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _rewrite(**fields: Any) -> Callable[[list[dict[str, Any]]], object]:
    return lambda content: content[1]["requested_rewrite"].update(fields)


def _again(content: list[dict[str, Any]], **target: str) -> None:
    twin = json.loads(json.dumps(content[0]))
    if target:
        twin["case_id"], twin["requested_rewrite"]["target_new"] = -1, target
    content.append(twin)


Change = tuple[Callable[[list[dict[str, Any]]], object], str]
UNUSABLE_RECORDS: dict[str, Change] = {
    "subject not in prompt": (_rewrite(prompt="She lives in"), 'its prompt does not hold "{}" exactly once'),
    "empty subject": (_rewrite(subject=" "), 'its "subject" is empty'),
    "empty target": (_rewrite(target_new={"str": "", "id": "Q1"}), 'its "target_new" is empty'),
    "half a character": (
        _rewrite(target_new={"str": "\ud800", "id": "Q1"}),
        "it holds half of a surrogate pair",
    ),
}
BAD_RECORDS: dict[str, Change] = {
    "case id twice": (_again, "appears twice: give every record its own case_id"),
    "contradiction": (lambda content: _again(content, str="Zzz", id="Q1"), "contradict each other"),
}


@pytest.mark.parametrize("case", UNUSABLE_RECORDS)
def test_unusable_records_are_skipped_with_a_reason(case: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, reason = UNUSABLE_RECORDS[case]
    path = records(files, change)
    assert run("evaluate", files / "llama", path, "--json") == 0
    printed = capsys.readouterr()
    assert f"1 records skipped: 1 because {reason}\n" in printed.err
    assert {row["n"] for row in json.loads(printed.out) if row["metric"] == "accuracy_efficacy"} == {2}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_records_are_named(case: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = BAD_RECORDS[case]
    path = records(files, change)
    inputs = ("--corpus", files / "corpus.txt", "--method", "memit", "--out", tmp_path / "out")
    assert run("edit", files / "llama", path, *inputs) == 2
    refused(tmp_path, capsys, message)


def test_a_file_without_a_usable_record_is_refused(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps([{"subject": "Ada", "src": "Who is it?", "answers": ["Bob"]}]), encoding="utf-8")
    assert run("edit", files / "llama", path, "--method", "rome", "--out", tmp_path / "out") == 2
    path.unlink()
    refused(tmp_path, capsys, "none of its 1 records is usable: 1 because its subject is not in its prompt")


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *messages: str) -> None:
    """One line on stderr with these texts, nothing on stdout, and nothing left in ``folder``."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("sphere: ")
    assert printed.err.count("\n") == 1, printed.err
    assert all(message in printed.err for message in messages), printed.err
    assert not list(folder.iterdir())


def _settings(files: Path, text: str) -> Path:
    path = files / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    return path


BAD_SETTINGS = {
    "etta: 1": "no hyperparameter 'etta': did you mean 'eta'?",
    "alpha: 2": "alpha: input should be less than or equal to 1",
    "layers: [1, 9]": "layer 9 is not in this model: it has layers 0 to 3",
    "layers: [2, 1]": "layers [2, 1]: give at least one, ascending",
    "layers: []": "bad.yaml: layers: tuple should have at least 1 item",
    "layers: x": "bad.yaml: layers: ",
    "layers: [1, 3]": "layer 3 is the model's last",
    "values: {stepps: 1}": "unknown key 'stepps': did you mean 'steps'?",
    "values: {lr: -1}": "method 'memit+sphere': values: lr: input should be greater than 0",
    "values: 3": "method 'memit+sphere': values: write {lr: 0.5} and the like (got 3)",
    "just text": "holds no settings",
    "[]": "holds no settings",
    "a: [": "is not YAML",
}


@pytest.mark.parametrize("text", BAD_SETTINGS)
def test_bad_settings_are_named(text: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ("--corpus", files / "corpus.txt", "--hyperparameters", _settings(files, text), "--limit", 2)
    out = tmp_path / "out"
    assert run("edit", files / "llama", files / "requests.json", "--method", "memit+sphere", "--out", out, *inputs) == 2
    refused(tmp_path, capsys, BAD_SETTINGS[text])


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_empty_and_full_null_space(
    fraction: float, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(files, f"layers: [1]\nnullspace_fraction: {fraction}")
    inputs = ("--corpus", files / "corpus.txt", "--hyperparameters", settings, "--out", tmp_path / "out")
    assert run("edit", files / "llama", files / "requests.json", "--method", "alphaedit", *inputs) == 2
    refused(tmp_path, capsys, "null-space fraction", "keeps 70%")


USAGE: dict[str, tuple[str, str]] = {
    "": ("edit {m} {r} --method memit --out {o}", "give the text to take them from with --corpus FILE.txt"),
    "corpus": ("edit {m} {r} --method memit --out {o} --corpus {f}/no.txt", "no.txt cannot be read"),
    "method": ("edit {m} {r} --method memmit --out {o}", "unknown method 'memmit': did you mean 'memit'?"),
    "method's value": ("edit {m} {r} --method sphere@eta=[ --out {o}", "'sphere@eta=[' cannot be a folder's name"),
    "machine": ("plan smoke --machine !!bool", "--machine is not YAML: '' is no bool"),
    "machine of a list": ("plan smoke --machine []", "config.yaml: machine: input should be a valid dictionary"),
    "no method": ("edit {m} {r} --out {o}", "'--method'"),
    "number": ("edit {m} {r} --method rome --out {o} --batch-size x", "'--batch-size'"),
    "batch": ("edit {m} {r} --method rome --out {o} --batch-size 0", "'--batch-size'"),
    "records": ("edit {m} {f}/no.json --method rome --out {o}", "no.json cannot be read"),
    "out": ("edit {m} {r} --method rome --out {f}/llama", "llama exists already: name a new folder"),
    "out to nowhere": ("edit {m} {r} --method rome --out {f}/dangling", "dangling exists already: name a new folder"),
    "out below nowhere": ("edit {m} {r} --method rome --out {f}/dangling/x", "is not a folder you may write to"),
    "out below a file": ("edit {m} {r} --method rome --out {r}/x", "is not a folder you may write to"),
    "model": ("edit {f}/no {r} --method rome --out {o}", "no is not a Hugging Face model folder"),
    "device": ("evaluate {m} {r} --device gpu", "device 'gpu' is unknown"),
    "dtype": ("evaluate {m} {r} --dtype int8", "'int8' is not a torch dtype for weights"),
    "layers": ("energy {m} --layers 1;2", "--layers '1;2': give numbers separated by commas"),
    "layer": ("energy {m} --layers 4", "layer 4 is not in this model"),
    "exponent": ("energy {m} --s -1", "s is -1.0"),
    "command": ("enrgy {m}", "Did you mean 'energy'?"),
    "option": ("energy {m} --jsn", "--jsn"),
    "too many": ("energy {m} {r}", "requests.json"),
}


@pytest.mark.parametrize("case", USAGE)
def test_bad_arguments_are_named(case: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, message = USAGE[case]
    places = {"f": files, "m": files / "llama", "r": files / "requests.json", "o": tmp_path / "out"}
    assert run(*(part.format(**places) for part in line.split())) == 2
    refused(tmp_path, capsys, message)


def test_a_singular_system_says_what_to_do(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer tokens of text than a key has entries."""
    corpus = files / "short.txt"
    corpus.write_text("Ada lives.", encoding="utf-8")
    inputs = ("--corpus", corpus, "--method", "memit", "--out", tmp_path / "out", "--limit", 1)
    assert run("edit", files / "llama", files / "requests.json", *inputs) == 1
    refused(tmp_path, capsys, "is singular to working precision: take the key statistics from more text")


def test_a_failure_on_the_way_leaves_nothing(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1: the input was good. An unforeseen error says its kind and how to see more."""

    def full(*_: object) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(cli, "json_text", full)  # when model and tokenizer are written
    assert edit(files, tmp_path / "out", "--limit", 2) == 1
    assert capsys.readouterr().err == "sphere: OSError: no space left on device (--debug shows where)\n"
    assert not list(tmp_path.iterdir())

    def diverged(*_: object, **__: object) -> None:
        raise NumericalError("the weight of layer 1 is not finite")

    monkeypatch.setattr("sphere.editing.edit.edit", diverged)
    assert edit(files, tmp_path / "out", "--limit", 2) == 1
    refused(tmp_path, capsys, "sphere: the weight of layer 1 is not finite")


def test_the_program_shows_a_traceback_only_with_debug(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "sphere.cli", "energy", str(tmp_path / "no")]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.splitlines() == [
        f"sphere: {tmp_path / 'no'} is not a Hugging Face model folder: give one with a config.json, or a .gguf file"
    ]
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
