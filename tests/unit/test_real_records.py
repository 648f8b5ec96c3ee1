"""``sphere edit`` and ``sphere evaluate`` on real records of both datasets: all are taken, and always to the same end.

SPHERE_ALL_RECORDS=1 takes all 1,000 of each sample instead of 100 (CONTRIBUTING.md).
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from conftest import ModelMaker, TokenizerMaker

from sphere import cli
from sphere.data.records import load_requests

RECORDS = 1000 if os.environ.get("SPHERE_ALL_RECORDS") else 100
SETTINGS = "layers: [1, 2]\nvalues: {steps: 2, lr: 0.2}\nsecond_moment_weight: 100\n"


@pytest.mark.parametrize("name", ["counterfact", "zsre"])
def test_real_records_are_edited_and_evaluated_twice_alike(
    name: str,
    sample_data: Path,
    tmp_path: Path,
    tiny_model: ModelMaker,
    tiny_tokenizer: TokenizerMaker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 512  # a token of this tokenizer is hardly more than a letter
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    records = sample_data / f"{name}_sample.json"
    capsys.readouterr()  # what saving printed
    texts = [request.prompt for request in load_requests(records).requests[:RECORDS]]
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts), encoding="utf-8")

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            cli.main([*map(str, arguments), "--limit", str(RECORDS)])
        assert caught.value.code == 0
        printed = capsys.readouterr()
        assert printed.err == "", "no record is skipped"
        return printed.out

    inputs = ("--corpus", tmp_path / "corpus.txt", "--hyperparameters", tmp_path / "settings.yaml", "--batch-size", 100)
    printed, edited = [], []
    for out in (tmp_path / "one", tmp_path / "two"):
        run("edit", tmp_path / "model", records, "--method", "memit-seq+sphere", "--out", out, *inputs)
        edited.append((out / "model.safetensors").read_bytes())
        printed.append(run("evaluate", out, records, "--json"))
    assert edited[0] == edited[1] != (tmp_path / "model" / "model.safetensors").read_bytes()
    assert printed[0] == printed[1]
    rows = {row["metric"]: row for row in json.loads(printed[0])}
    metrics = {f"{family}_{of}" for family in ("accuracy", "token_accuracy") for of in ("efficacy", "generalization")}
    assert metrics | {"token_accuracy_specificity"} <= rows.keys()
    for name, row in rows.items():
        assert 0 <= row["mean"] <= 1 or name.startswith("belief")
        assert math.isfinite(row["stderr"])
        assert row["n"] == RECORDS
