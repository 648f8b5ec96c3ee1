"""A stream whose numbers become unusable: retried in higher precision, then stopped, with what was finished intact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import TEXTS, ModelMaker, TokenizerMaker

from sphere.config.evaluation import TaskSettings
from sphere.config.model import EditSettings
from sphere.config.values import ValueSettings
from sphere.editing.contexts import Contexts
from sphere.editing.keys import Ascent, Seen
from sphere.editing.methods import resolve
from sphere.editing.solvers.base import LayerProblem, Solution
from sphere.editing.solvers.memit import Memit
from sphere.editing.spectra import save_directions, save_null_space
from sphere.editing.state import EditState
from sphere.editing.stats import collect_statistics
from sphere.evaluation import general_ability, metrics
from sphere.files import digest
from sphere.models.adapters import adapter
from sphere.models.loading import LoadedModel
from sphere.report.tables import build, gather
from sphere.study import stages
from sphere.study.stages import (
    COST_COLUMNS,
    INCIDENT_COLUMNS,
    Checkpoint,
    compare_neurons,
    edit_stream,
    evaluate_states,
    score_states,
)

LAYERS, CHECKPOINTS = (0, 1), (2, 4, 6)
STUDY = {
    "models": ["tiny"], "datasets": ["zsre"], "methods": ["memit", "ft"], "seeds": [0], "checkpoints": CHECKPOINTS,
    "tasks": [], "neutral": [],
}  # fmt: skip
PEOPLE = ("Ada Lovelace", "Emil Zátopek", "Łódź", "Vienna", "Prague", "Rome")
Stream = Callable[..., list[Path]]


@pytest.fixture
def stream(tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> Stream:
    """``stream(method)`` edits six records in three segments, as the workflow does, and evaluates each state."""
    root = tmp_path / "tiny"
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    parts = adapter(model)
    statistics = collect_statistics(parts, tokenizer, [text[i:] for text in TEXTS for i in range(0, 40, 2)], LAYERS)
    statistics.save(root / "statistics.safetensors")
    save_null_space(statistics, root / "null_space.safetensors")
    save_directions(parts, LAYERS, root / "directions.safetensors")
    (root / "contexts.json").write_text(Contexts().to_json())
    records = [{"subject": name, "src": f"What is {name}?", "answers": ["New York"]} for name in PEOPLE]
    (root / "stream.json").write_text(json.dumps(records))

    def edit(method: str, *, energy_every: int = 1, seed: int = 0, at_once: bool = False) -> list[Path]:
        folders = [root / "zsre" / method / f"seed{seed}" / f"edits{edits}" for edits in CHECKPOINTS]
        checkpoints = [
            Checkpoint(
                edits,
                folder / "state.safetensors",
                **{name: folder / f"{name}.csv" for name in ("energy", "timing", "incidents", "cost")},
            )
            for edits, folder in zip(CHECKPOINTS, folders, strict=True)
        ]
        for i, part in enumerate([checkpoints] if at_once else [[each] for each in checkpoints]):
            edit_stream(
                root / "model",
                root / "stream.json",
                part,
                method=method,
                hyperparameters={},
                editing=EditSettings(layers=LAYERS, device="cpu", values=ValueSettings(steps=2)),
                statistics=root / "statistics.safetensors",
                spectra=[root / f"{name}.safetensors" for name in resolve(method).spectra],
                contexts=root / "contexts.json",
                previous=folders[i - 1] / "state.safetensors" if i else None,
                batch_size=1,
                energy_every=energy_every,
                seed=0,
            )
        states = [folder / "state.safetensors" for folder in folders]
        outs = [folder / "editing.csv" for folder in folders]
        evaluate_states(
            root / "model", root / "stream.json", states, outs,
            load_settings={"device": "cpu"}, references=None, generation=None,
        )  # fmt: skip
        return folders

    return edit


def spoil(monkeypatch: pytest.MonkeyPatch, calls: set[int]) -> list[torch.dtype]:
    """MEMIT's n-th solve gives NaN for n in ``calls`` (one a layer); returns the model's dtype at each."""
    solve: Callable[..., Solution] = Memit.solve
    keys: Callable[..., Seen] = Ascent.at
    dtypes: list[torch.dtype] = []

    def spoiled(self: Memit, problem: LayerProblem) -> Solution:
        return Solution(solve(self, problem).update * (float("nan") if len(dtypes) - 1 in calls else 1.0))

    def watched(self: Ascent, *given: object) -> Seen:
        dtypes.append(self.adapter.dtype)
        return keys(self, *given)

    monkeypatch.setattr(Memit, "solve", spoiled)
    monkeypatch.setattr(Ascent, "at", watched)
    return dtypes


def incidents(folders: list[Path]) -> list[tuple[int, int, str]]:
    frames = [pd.read_csv(folder / "incidents.csv") for folder in folders]
    assert all(tuple(frame.columns) == INCIDENT_COLUMNS for frame in frames)
    return [(row.edits, row.batch, row.event) for row in pd.concat(frames).itertuples()]


def test_energy_is_measured_at_every_checkpoint_however_rarely_else(stream: Stream) -> None:
    folders = stream("memit", energy_every=3)
    found = [pd.read_csv(folder / "energy.csv")["batch"].unique().tolist() for folder in folders]
    assert found == [[0, 2], [3, 4], [6]]


@pytest.mark.parametrize("method", ["memit", "memit-seq", "prune", "sphere", "ft"])
def test_a_stream_in_one_job_is_the_stream_in_segments(method: str, stream: Stream) -> None:
    names = ("state.safetensors", "energy.csv", "incidents.csv", "editing.csv")
    for one, other in zip(stream(method), stream(method, seed=1, at_once=True), strict=True):
        assert [digest(one / name) for name in names] == [digest(other / name) for name in names]


def test_what_is_kept_is_counted_and_memory_peaks(stream: Stream) -> None:
    """MEMIT-seq keeps the sum of the keys' products of each layer; MEMIT nothing; no GPU has no peak."""
    sizes = {}
    for method in ("memit", "memit-seq"):
        costs = pd.concat([pd.read_csv(folder / "cost.csv") for folder in stream(method)])
        assert tuple(costs.columns) == COST_COLUMNS
        assert costs["edits"].tolist() == list(CHECKPOINTS)
        assert (costs["operations"] > 1e5).all()
        assert costs["peak_memory"].is_monotonic_increasing
        assert costs["peak_memory"].min() > 2**20
        assert costs["peak_device_memory"].isna().all()
        (sizes[method],) = set(zip(costs["weights"], costs["kept"], strict=True))
    d_out, d_in = 32, 64
    edited = len(LAYERS) * d_out * d_in * 4
    assert sizes == {"memit": (edited, 0), "memit-seq": (edited, len(LAYERS) * d_in**2 * 8)}


@pytest.mark.parametrize(("records", "cases"), [(None, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4, 5])])
def test_an_evaluation_can_take_some_records_evenly_spread(
    records: int | None, cases: list[int], stream: Stream, tmp_path: Path
) -> None:
    whole = pd.read_csv(stream("memit")[-1] / "editing.csv")
    root = tmp_path / "tiny"
    last = root / "zsre" / "memit" / "seed0" / f"edits{CHECKPOINTS[-1]}" / "state.safetensors"
    evaluate_states(
        root / "model", root / "stream.json", [last], [tmp_path / "some.csv"],
        load_settings={"device": "cpu"}, references=None, generation=None, records=records,
    )  # fmt: skip
    some = pd.read_csv(tmp_path / "some.csv")
    assert len(whole) == 6
    pd.testing.assert_frame_equal(some, whole.iloc[cases].reset_index(drop=True))


def test_a_batch_that_is_not_finite_is_made_in_higher_precision(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EditState.load(stream("memit")[-1] / "state.safetensors")
    dtypes = spoil(monkeypatch, {4})
    folders = stream("memit")
    assert incidents(folders) == [(2, 3, "retried")]
    assert "batch 3 in float32: " in (folders[1] / "incidents.csv").read_text()
    assert dtypes == [torch.float32] * 6 + [torch.float64] * 2 + [torch.float32] * 6
    state = EditState.load(folders[-1] / "state.safetensors")
    assert (state.position, state.stopped) == (6, "")
    for layer, weight in whole.weights.items():
        assert state.weights[layer].dtype == weight.dtype
        torch.testing.assert_close(state.weights[layer], weight, rtol=1e-3, atol=1e-4)


def test_a_stream_that_stays_unusable_stops_and_the_rest_goes_on(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream("ft")
    before = [EditState.load(folder / "state.safetensors") for folder in stream("memit")]
    spoil(monkeypatch, {6, 8})  # batch 4, the second of the second segment, in float32 and in float64
    folders = stream("memit")
    states = [EditState.load(folder / "state.safetensors") for folder in folders]
    assert [state.position for state in states] == [2, 3, 3]
    assert [bool(state.stopped) for state in states] == [False, True, True]
    assert all(torch.equal(states[0].weights[i], before[0].weights[i]) for i in LAYERS), "finished: intact"
    assert all(torch.isfinite(weight).all() for weight in states[2].weights.values())
    assert incidents(folders) == [(3, 4, "stopped")]
    assert "batch 4 in float32: " in states[1].stopped
    assert "; in float64: " in states[1].stopped
    assert pd.read_csv(folders[1] / "energy.csv")["batch"].unique().tolist() == [3]
    assert [len(pd.read_csv(folder / "editing.csv")) for folder in folders] == [2, 0, 0]
    assert tuple(pd.read_csv(folders[2] / "editing.csv").columns) == metrics.COLUMNS

    assert len(gather(tmp_path, STUDY, tmp_path / "tables")) == 1, "only the pre-edited model was not evaluated"
    last = {"memit": folders[2], "ft": folders[2].parents[2] / "ft" / "seed0" / "edits6"}
    names = [
        ({"model": "tiny", "dataset": "zsre", "method": method, "seed": 0, "edits": 6}, folder / "state.safetensors")
        for method, folder in last.items()
    ]
    compare_neurons({"tiny": (tmp_path / "tiny" / "model", {"device": "cpu"})}, names, tmp_path / "tables")
    assert pd.read_csv(tmp_path / "tables" / "neuron_cosine.csv")["method"].unique().tolist() == ["ft"]
    for name in ("table1", "checkpoints", "energy"):
        table = build(name, tmp_path / "tables")
        assert {row.label for row in table.rows if row.mark} == {"MEMIT"}, name
        assert any(note.startswith("†: MEMIT on zsRE, seed 0, stopped after 3 edits: batch 4") for note in table.notes)
    lost = next(row for row in build("table1", tmp_path / "tables").rows if row.label == "MEMIT")
    assert all(pd.isna(cell.value) for cell in lost.cells.values()), "nothing is filled in"


def test_general_ability_of_a_stopped_stream_has_no_rows(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoil(monkeypatch, {0, 2})
    folders = stream("memit")
    score_states(
        tmp_path / "tiny" / "model",
        [folder / "state.safetensors" for folder in folders],
        [folder / "general_ability.csv" for folder in folders],
        load_settings={"device": "cpu"},
        tasks=TaskSettings(names=("none",)),
    )
    for folder in folders:
        frame = pd.read_csv(folder / "general_ability.csv")
        assert frame.empty
        assert tuple(frame.columns) == general_ability.COLUMNS


def test_general_ability_of_all_states_and_tasks_takes_one_load(
    tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer(True)
    loaded = LoadedModel(tiny_model("llama", len(tokenizer)), tokenizer)
    loads: list[Path] = []
    monkeypatch.setattr(stages, "load", lambda path, **_: (loads.append(path), loaded)[1])
    monkeypatch.setattr(stages, "evaluate_tasks", lambda _model, _tokenizer, names, **_: pd.DataFrame({"task": names}))
    states = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for number, path in enumerate(states):
        EditState("memit", 0, number, number, {0: torch.full((32, 64), float(number))}).save(path)
    tasks = TaskSettings(names=("boolq", "rte"))
    outs = [path.with_suffix(".csv") for path in states]
    score_states(tmp_path, states, outs, load_settings={}, tasks=tasks)
    assert loads == [tmp_path]
    assert [list(pd.read_csv(out)["task"]) for out in outs] == [["boolq", "rte"]] * 2
