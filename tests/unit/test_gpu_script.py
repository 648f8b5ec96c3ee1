"""The prepared run on a GPU, in small on this machine: every part ends, says what it found, and leaves what it made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu
import pytest
from conftest import TokenizerMaker
from transformers import LlamaConfig, LlamaForCausalLM

from sphere.editing.state import EditState

SCRIPT = Path(gpu.__file__).with_name("gpu.sh")
Main = Callable[..., int]


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """``gpu.main`` with these words on its command line."""

    def called(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
        return gpu.main()

    return called


@pytest.fixture
def real(tmp_path: Path, tiny_tokenizer: TokenizerMaker, own_records: list[dict[str, Any]]) -> list[str]:
    """Options that name a tiny model deep enough for the study's layers, two files of records, and a text."""
    tokenizer = tiny_tokenizer(True)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **heads)).double()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    for name in "ab":  # the same numbers twice, as samples of one dataset can have them
        (tmp_path / f"{name}.json").write_text(json.dumps(own_records[:5]), encoding="utf-8")
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"It is said that {i} is more." for i in range(60)), encoding="utf-8"
    )
    records = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    return ["--model", str(tmp_path / "model"), "--records", *records, "--corpus", str(tmp_path / "text.txt")]


def steps(file: Path) -> dict[str, Any]:
    """Step -> its result, of a run in which none was skipped or failed."""
    found = json.loads(file.read_text(encoding="utf-8"))
    assert not [step for step in found["steps"] if "result" not in step]
    return {step["step"]: step["result"] for step in found["steps"]}


@pytest.mark.parametrize("targets", ["current", "pretrained"])
def test_a_real_model_in_small(targets: str, main: Main, real: list[str], tmp_path: Path) -> None:
    parts = ["stream"] if targets == "current" else ["smollm2", "stream"]
    small = ["--tiny", "--device", "cpu", "--batch-size", "2", "--targets", targets]
    assert main(*parts, "--out", str(tmp_path), *small, *real) == 0
    found = steps(tmp_path / f"{'-'.join(parts)}.json")
    stream = found["stream: alphaedit"]
    assert (stream["edits"], stream["stopped"], stream["targets"]) == (10, False, targets)
    assert [batch["edits"] for batch in stream["batches"]] == [2, 4, 6, 8, 10]
    assert stream["minutes for 15000 edits, extrapolated from 10"] == pytest.approx(250 / stream["edits a second"])
    assert stream["growth"] > 0
    assert "accuracy_efficacy" in stream["metrics"]
    state = EditState.load(tmp_path / "alphaedit.safetensors")
    assert (state.position, sorted(state.weights)) == (10, [6, 7, 8, 9, 10])
    if "smollm2" in parts:
        (row,) = found["smollm2: target values"]
        assert row["value"] > 0
        assert row["difference"] < 1e-6


def test_a_stream_ends_while_there_is_time_to_save(
    real: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "stream", "--out", str(tmp_path), "--batch-size", "2", *real])
    given = gpu.arguments()
    workload = gpu.real(given.model, given.records, given.study, given.corpus, "cpu")
    found = gpu.stream(gpu.Budget(gpu.AFTERWARDS - 1, tmp_path / "x.json"), workload, given)
    assert (found["edits"], found["stopped"], found["growth"]) == (2, True, None)
    assert EditState.load(tmp_path / "alphaedit.safetensors").position == 2


def test_a_step_without_time_is_skipped(tmp_path: Path) -> None:
    budget = gpu.Budget(100, tmp_path / "x.json")
    assert budget.step("long", 200, lambda: 1) is None
    assert budget.steps == [{"step": "long", "skipped": "100 seconds are left, 200 may be needed"}]


def test_steps_may_be_chosen(main: Main, tmp_path: Path) -> None:
    assert main("8b", "--tiny", "--device", "cpu", "--out", str(tmp_path), "--only", "model", "moments") == 0
    assert list(steps(tmp_path / "8b.json")) == ["8b: model", "8b: key second moments, 5 layers"]


def test_large_shapes_and_cuda_tests_in_small(main: Main, tmp_path: Path) -> None:
    assert main("8b", "tests", "--tiny", "--device", "cpu", "--out", str(tmp_path)) == 0
    found = steps(tmp_path / "8b-tests.json")
    (row,) = found["8b: target values, 100 requests"]
    assert row["difference"] < 0.05
    done = ["model", "contexts", "statistics", "null_space", "directions", "edit"]
    assert [step["step"] for step in found["8b: memory"]] == done
    assert "passed" in (said := found["tests: those that need CUDA"]["pytest"]) or "skipped" in said


def test_a_step_that_fails_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = gpu.Budget(100, tmp_path / "x.json")
    assert budget.step("first", 0, lambda: [1][1:][0]) is None
    assert budget.step("second", 0, lambda: "done") == "done"
    first, second = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["steps"]
    assert first["failed"].startswith("IndexError")
    assert second["result"] == "done"
    assert "first: IndexError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["9b"], "there is no part '9b': choose from 8b, smollm2, stream, tests"),
        (["stream"], "name a folder with --out"),
        (["smollm2", "--out", "x"], "smollm2 needs --model"),
        (["stream", "--out", "x", "--model", "nowhere"], "stream needs --records"),
        (["smollm2", "--out", "x", "--model", "nowhere", "--records", "no.json"], "nowhere is not there"),
        (["8b", "--out", "x"], "torch sees no GPU"),
    ],
)
def test_what_a_part_lacks_is_said_first(
    words: list[str], said: str, main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert main(*words) == 2
    assert said in capsys.readouterr().err


def test_the_script_says_what_is_there(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    run = [
        subprocess.run(
            ["sh", str(SCRIPT)], env={**os.environ, "PYTHON": python}, capture_output=True, text=True, check=False
        )
        for python in (sys.executable, str(bare))
    ]
    assert [each.returncode for each in run] == [0, 1]
    assert "torch 2" in run[0].stderr
    assert "cores" in run[0].stderr
    assert "torch is not there: pip install -c constraints.txt torch" in run[1].stderr
