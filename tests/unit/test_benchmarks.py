"""The benchmarks' opponents agree with the library, their operations are counted right, and the page gets its table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import agreement
import comparisons
import counting
import made_up_study
import pandas as pd
import plain
import pytest
import resources
import run
import torch
from comparisons import Size, difference, metrics, moments, random_weight, values
from conftest import ModelMaker, TokenizerMaker
from counting import Lengths
from gpu import TINY_SHAPE
from measure import Goal, Row, Series, Timing, operations
from report import BEGIN, END, markdown, plain_data, put_into
from templates import shares
from transformers import LlamaConfig, LlamaForCausalLM
from workload import llama3_8b

from sphere.config.values import ValueSettings
from sphere.data.facts.tables import load_relations
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.values import target_values
from sphere.files import write_json
from sphere.geometry.directions import principal_directions, sparse_projection
from sphere.geometry.energy import measure_energy
from sphere.models.adapters import adapter
from sphere.models.loading import LoadedModel
from sphere.report.tables import gather

CPU = torch.device("cpu")
ROWS = [
    Row("this", "a shape", [2.0, 4.0, 3.0], goal=Goal(4), fast=1.0, plain=3.0, operations=5.0, difference=1e-9),
    Row("that", "another", [0.25], unit="%", goal=Goal(0.5, at_least=False)),
    Row("the rest", "a GPU", goal=Goal(10), note="not run: no CUDA device"),
]
GROWTH = [Series("this", "width", [1, 2], [0.5, 0.25])]


def test_energy_by_differences() -> None:
    weight = random_weight((30, 70), CPU)
    assert measure_energy(weight).sum == pytest.approx(plain.energy(weight), rel=1e-8)


@pytest.mark.parametrize("shape", [(20, 45), (45, 20)])
def test_projection_by_the_projector(shape: tuple[int, int]) -> None:
    weight, update = random_weight(shape, CPU), random_weight(shape, CPU, seed=1).double()
    got = sparse_projection(update, principal_directions(weight, eta=0.5), alpha=0.5)
    expected = plain.projection(update, plain.principal_directions(weight, eta=0.5), alpha=0.5)
    assert difference(got, expected) < 1e-12


def test_operations_of_the_values(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """Of texts of one length, where no padding is run, what torch counts is the count plus attention scores."""
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model("llama", len(tokenizer)))
    requests = [EditRequest(i, "Paris", "Paris is the capital of", 0, "Rome", None) for i in range(2)]
    settings, contexts = ValueSettings(steps=3, stop_loss=0), Contexts()
    counted = operations(lambda: target_values(parts, tokenizer, requests, contexts, layer=1, settings=settings))
    config = parts.model.config
    assert isinstance(config, LlamaConfig)
    lengths = Lengths.of(tokenizer, requests, contexts)
    expected = counting.value_operations(config, lengths, layer=1, steps=3)
    assert 1.0 < counted / expected < 1.25


def test_bytes_of_a_batch(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """Two a parameter: all layers once, then those above z and the head at each step, up and, but the last, down."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    requests = [EditRequest(i, "Paris", "Paris is the capital of", 0, "Rome", None) for i in range(2)]
    assert isinstance(model.config, LlamaConfig)
    given: Any = {"layers": (0, 1), "steps": 3, "directions": 4, "kept": 40}
    few, many = (
        counting.edit_operations(model.config, Lengths.of(tokenizer, requests[:n], Contexts()), **given) for n in (1, 2)
    )
    matrices = [p.numel() for p in adapter(model).layer(0).parameters() if p.dim() == 2]
    head = model.get_output_embeddings().weight.numel()
    depth = model.config.num_hidden_layers
    above = (depth - 2) * sum(matrices) + head
    assert few["targets"].bytes == many["targets"].bytes == 2 * (depth * sum(matrices) + 5 * above)
    assert few["targets"].intensity < many["targets"].intensity
    d_out, d_in = model.config.hidden_size, model.config.intermediate_size
    assert many["projection"].bytes == 2 * 8 * (2 * d_out * d_in + 4 * d_in)


def test_rows_at_the_shape_of_a_large_model_in_small() -> None:
    """What runs on a GPU at Llama3-8B's shape, on a shape like it: bfloat16, grouped key-value heads, layers 4 to 8."""
    workload = llama3_8b(TINY_SHAPE, "cpu")
    size = Size(1, 2, 1, 2, 2, 1, (8, 28), (8, 28))
    assert workload.parts.dtype == torch.bfloat16
    for compare in (values, moments, metrics):
        row = compare(workload, size, 1.0)
        assert row.operations > 1
        assert row.difference < 0.05


def test_a_rate_is_of_the_operations_in_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both take the same time, the share is that of the operations."""
    workload = llama3_8b(TINY_SHAPE, "cpu")
    monkeypatch.setattr(comparisons, "in_turn", lambda *_, repeats: Timing([2.0], [2.0], None, None))
    parts, settings, product = workload.parts, workload.settings, 2 * 2000 * 64 * 128
    requests = workload.texts.requests[:2]
    work = operations(
        lambda: target_values(
            parts, workload.tokenizer, requests, workload.contexts, layer=workload.last, settings=settings.values
        )
    )
    row = comparisons.rate(workload, Size(1, 2, 1, 2, 2, 1, (8, 28), (8, 28)), 65)
    assert row.value == pytest.approx(100 * work / (comparisons.PRODUCTS * product))


def test_a_row_says_whether_its_goal_is_met() -> None:
    text = markdown({"cpu": "a"}, "python x", ROWS, GROWTH)
    assert "| this | a shape | 3 x (2 to 4) | ≥ 4 x, missed | 1 s | 3 s | 5 x | 1e-09 |" in text
    assert "| that | another | 0.25 % (0.25 to 0.25) | ≤ 0.5 %, met |" in text
    assert "| the rest | a GPU | not run: no CUDA device | ≥ 10 x |" in text
    assert "| seconds, by width | 1 | 2 |" in text


def test_the_page_keeps_what_stands_around_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    put_into(page, "new \\1\n")
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\nnew \\1\n{END}\nafter\n"


def test_a_page_without_a_place_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--write", str(tmp_path / "nowhere.md")])
    assert run.main() == 2
    assert "nowhere.md has no place for the table" in capsys.readouterr().err


def test_a_real_model_has_rows_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_tokenizer: TokenizerMaker,
    own_records: list[dict[str, Any]],
) -> None:
    tokenizer = tiny_tokenizer(True)
    deep = TINY_SHAPE.to_dict() | {"vocab_size": len(tokenizer), "num_hidden_layers": 12}  # the study edits up to 10
    model = LlamaForCausalLM(LlamaConfig(**deep))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "records.json").write_text(json.dumps(own_records[:4]), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["run.py", "--short", "--records", str(tmp_path / "records.json")])
    assert run.main() == 2
    assert "--records are measured on a model: name its folder" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--model", str(tmp_path / "model")])
    rows = run.real_rows(run.arguments())
    assert [row.what.split(",")[0] for row in rows] == ["target values", "target values", "editing metrics"]
    assert {row.on for row in rows} == {"model, records.json"}
    assert rows[0].difference < 1e-3
    assert rows[2].difference == 0


def test_the_page_says_what_every_study_takes_as_planned() -> None:
    page = resources.PAGE.read_text(encoding="utf-8")
    assert resources.renewed(page) == page, "python benchmarks/resources.py renews it"
    assert "| `smollm2` | two cores of" in resources.renewed(page.replace("| planned |", "| old |", 1))


def test_figures_are_json(tmp_path: Path) -> None:
    write_json(plain_data({"cpu": "a"}, "python x", ROWS, GROWTH), tmp_path / "figures.json")


def test_templates_are_compared(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    loaded = LoadedModel(tiny_model("llama", len(tokenizer)), tokenizer)
    relation = load_relations(["element_group"])["element_group"]
    found = shares(loaded, relation, 3)
    assert {statement for _, _, statement in found} == {*relation.file.statements, *relation.file.others}
    assert {statement for _, taken, statement in found if taken} == {*relation.file.statements}
    assert [share for share, _, _ in found] == sorted((share for share, _, _ in found), reverse=True)


def test_two_machines_agree_within_their_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope = made_up_study.study(methods=["memit"], datasets=["counterfact"], checkpoints=[20, 40])
    for name in ("a", "b"):
        root = made_up_study.make_results(tmp_path / name, scope)
        gather(root, scope, root / "tables")
    assert agreement.main(tmp_path / "a", tmp_path / "b") == 0
    assert "0 of 6 outside; the largest difference is 0.0 points" in capsys.readouterr().out
    path = tmp_path / "b" / "tables" / "editing_by_method.csv"
    table = pd.read_csv(path)
    far = (table["metric"] == "efficacy") & (table["edits"] == 40) & (table["metric_family"] == "accuracy")
    table.loc[far, ["mean", "ci_low", "ci_high"]] += 0.5
    table.to_csv(path, index=False)
    assert agreement.main(tmp_path / "a", tmp_path / "b") == 1
    assert "1 of 6 outside; the largest difference is 50.0 points" in capsys.readouterr().out
