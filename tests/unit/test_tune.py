"""Tuning: an equal budget, a score that needs all three metrics, and a search that leaves no trace in the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS, ModelMaker, TokenizerMaker

from sphere.config.model import EditSettings
from sphere.config.tuning import SensitivitySettings, TuningSettings
from sphere.config.values import ValueSettings
from sphere.editing.contexts import Contexts
from sphere.editing.spectra import save_directions, save_null_space
from sphere.editing.stats import collect_statistics
from sphere.errors import InputError
from sphere.models.adapters import adapter
from sphere.study import tune as module
from sphere.study.tune import METRICS, map_sensitivity, score, trials, try_settings, tune


def frame(*means: float) -> pd.DataFrame:
    return pd.DataFrame({f"accuracy_{metric}": [mean] for metric, mean in zip(METRICS, means, strict=True)})


def test_the_score_is_the_harmonic_mean() -> None:
    assert score(frame(1.0, 1.0, 1.0)) == 1
    assert score(frame(0.5, 0.25, 1.0)) == pytest.approx(3 / (2 + 4 + 1))
    assert score(frame(1.0, 0.0, 1.0)) == 0
    assert score(frame(0.5, 0.25, float("nan"))) == pytest.approx(2 / (2 + 4)), "records without neighbours"
    assert score(frame(float("nan"), float("nan"), float("nan"))) == 0


def test_trials_are_the_grid_or_a_draw_of_it() -> None:
    grid = {"ridge": [1, 2, 3], "alpha": [0.5, 0.8]}
    every = trials(grid, 6, rng=np.random.default_rng(0))
    assert len(every) == 6
    assert {tuple(trial.items()) for trial in every} == {
        (("ridge", ridge), ("alpha", alpha)) for ridge in (1, 2, 3) for alpha in (0.5, 0.8)
    }
    assert trials(grid, 99, rng=np.random.default_rng(0)) == every
    some = trials(grid, 4, rng=np.random.default_rng(0))
    assert some == trials(grid, 4, rng=np.random.default_rng(0))
    assert len({tuple(trial.items()) for trial in some}) == 4
    assert all(trial in every for trial in some)


def record(number: int, subject: str, target: str) -> dict[str, Any]:
    return {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} lives in the city of",
            "subject": subject,
            "target_new": {"str": target, "id": "Q1"},
            "target_true": {"str": "Rome", "id": "Q2"},
            "relation_id": "P1",
        },
        "paraphrase_prompts": [f"The home of {subject} is"],
        "neighborhood_prompts": ["The capital of Italy is"],
    }


@pytest.fixture
def files(tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> dict[str, Any]:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    documents = [text[start:] for text in TEXTS for start in range(0, len(text), 3)]
    statistics = collect_statistics(adapter(model), tokenizer, documents, [1])
    statistics.save(tmp_path / "statistics.safetensors")
    save_null_space(statistics, tmp_path / "null_space.safetensors")
    save_directions(adapter(model), [1], tmp_path / "directions.safetensors")
    (tmp_path / "contexts.json").write_text(Contexts().to_json(), encoding="utf-8")
    names = ("Ada Lovelace", "Emil Zátopek", "Paris", "Ada")
    records = [record(i, name, "London") for i, name in enumerate(names)]
    (tmp_path / "requests.json").write_text(json.dumps(records), encoding="utf-8")
    return {
        "model_dir": tmp_path / "model",
        "requests": tmp_path / "requests.json",
        "method": "memit",
        "hyperparameters": {},
        "grid": {"second_moment_weight": [1.0, 50.0, 500.0]},
        "tuning": TuningSettings(trials=3, edits=4),
        "editing": EditSettings(layers=(1,), device="cpu", values=ValueSettings(steps=2)),
        "contexts": tmp_path / "contexts.json",
        "statistics": tmp_path / "statistics.safetensors",
        "spectra": [tmp_path / f"{name}.safetensors" for name in ("null_space", "directions")],
        "batch_size": 2,
        "out_chosen": tmp_path / "memit.json",
        "out_trials": tmp_path / "memit.csv",
    }


def told(monkeypatch: pytest.MonkeyPatch, scores: list[list[float]]) -> list[list[torch.Tensor]]:
    """Have each trial's batches score as told; returns, for each, the weights that were evaluated."""
    seen: list[list[torch.Tensor]] = []
    flat = iter([value for trial in scores for value in trial])

    def evaluate(model: Any, _tokenizer: Any, requests: Any) -> pd.DataFrame:
        seen.append([adapter(model).weight(i).clone() for i in range(4)])
        return frame(*[next(flat)] * 3)

    monkeypatch.setattr(module, "evaluate_requests", evaluate)
    return seen


def test_the_best_mean_over_batches_is_chosen(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = told(monkeypatch, [[0.9, 0.1], [0.6, 0.6], [0.6, 0.6]])
    tune(**files)
    chosen = json.loads(files["out_chosen"].read_text(encoding="utf-8"))
    assert chosen["hyperparameters"] == {"second_moment_weight": 50.0}, "a tie goes to the earlier trial"
    assert chosen["score"] == pytest.approx(0.6)
    table = pd.read_csv(files["out_trials"])
    assert list(table) == ["trial", "second_moment_weight", *METRICS, "score"]
    assert list(table["score"]) == pytest.approx([0.5, 0.6, 0.6])
    assert len(seen) == 6
    assert all(torch.equal(batch[0], seen[0][0]) for batch in seen), "layers that are not edited stay"
    assert not torch.equal(seen[0][1], seen[2][1]), "other settings edit otherwise"


def test_every_trial_starts_from_the_unedited_model(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"second_moment_weight": [50.0, 50.0, 50.0]}
    seen = told(monkeypatch, [[0.5, 0.5]] * 3)
    tune(**{**files, "grid": grid})
    for number in (0, 1):
        assert all(torch.equal(seen[number][1], seen[number + 2 * trial][1]) for trial in (1, 2))


def test_a_diverged_trial_scores_nothing(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, [[0.5, 0.5], [0.5, 0.5]])
    files["grid"] = {"second_moment_weight": [1.0, 50.0, 500.0]}
    broken = module.resolve

    def resolve(method: str, *, hyperparameters: Any) -> Any:
        """The first trial's system is singular: no second moment to speak of, and fewer keys than inputs."""
        weight = hyperparameters["second_moment_weight"]
        return broken(method, hyperparameters={"second_moment_weight": 1e-300 if weight == 1 else weight})

    monkeypatch.setattr(module, "resolve", resolve)
    tune(**files)
    table = pd.read_csv(files["out_trials"])
    assert list(table["score"]) == pytest.approx([0, 0.5, 0.5])
    assert "singular" in table["note"][0]


def test_a_search_without_a_success_is_refused(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, [[0.0, 0.0]] * 3)
    with pytest.raises(InputError, match=r"no trial of memit edits anything: widen tuning_grid\.memit"):
        tune(**files)
    assert not files["out_chosen"].exists()


def test_too_few_records_are_refused(files: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"has 4 usable records, the study asks for 5 held-out edits"):
        tune(**{**files, "tuning": TuningSettings(trials=3, edits=5)})


def test_the_map_has_every_pair_and_edits_once_without_the_projection(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(
        "sphere.study.tune.try_settings",
        lambda *given, **named: tried.append(given[2]) or try_settings(*given, **named),
    )
    for name in ("method", "grid", "tuning", "out_chosen", "out_trials"):
        del files[name]
    settings = SensitivitySettings(method="memit+sphere", eta=(0, 0.5), alpha=(0, 0.9), edits=4)
    map_sensitivity(**files, sensitivity=settings, out=files["model_dir"].parent / "map.csv")
    table = pd.read_csv(files["model_dir"].parent / "map.csv")
    assert [len(each) for each in tried] == [2]
    assert list(table["trial"]) == [0, 1, 2, 3]
    assert list(table) == ["trial", "eta", "alpha", *METRICS, "score"]
    assert list(zip(table["eta"], table["alpha"], strict=True)) == [(0, 0), (0, 0.9), (0.5, 0), (0.5, 0.9)]
    off = table[(table["eta"] == 0) | (table["alpha"] == 0)]
    assert (off[[*METRICS]].nunique() == 1).all()
