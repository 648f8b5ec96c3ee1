"""The two halves of what jobs do with a stream, as workflow scripts call them: alone, or one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sphere.config.evaluation import NeutralSettings, StrictSettings, TaskSettings
from sphere.config.model import EditSettings
from sphere.evaluation.generation import GenerationSettings
from sphere.files import read_json
from sphere.study import stages
from sphere.study.job import paths
from sphere.study.unfinished import Unfinished


def editing(snakemake: Any) -> dict[str, Any]:
    """What every job that edits passes on: its settings, with those that tuning chose, and the files of its model."""
    files, params = snakemake.input, snakemake.params
    chosen = read_json(files.tuned)["hyperparameters"] if files.get("tuned") else {}
    return {
        "hyperparameters": {**params.hyperparameters, **chosen},
        "editing": EditSettings(**params.editing),
        "contexts": Path(files.contexts),
        "statistics": Path(files.statistics),
        "spectra": paths(files.spectra),
        "targets": paths(files.targets),
        "batch_size": params.batch_size,
    }


def edit(snakemake: Any, unfinished: Unfinished, *, goes_on: bool = False) -> list[Path]:
    """Edit a stream to one checkpoint from the state of the one before it, or to all of them, one after the other.

    Returns where the states lie. ``goes_on``: the job has more to do behind the last checkpoint, which is then kept for
    its next start as the others are.
    """
    files, params = snakemake.input, snakemake.params
    outputs = [paths(snakemake.output[name]) for name in stages.CHECKPOINT_FILES]
    before = next(iter(paths(files.previous)), None)
    left, written, previous = stages.checkpoints_left(outputs, unfinished, before, goes_on=goes_on)
    stages.edit_stream(
        Path(files.model),
        Path(files.stream),
        left,
        written,
        method=snakemake.wildcards.method,
        **editing(snakemake),
        previous=previous,
        energy_every=params.energy_every,
        seed=int(snakemake.wildcards.seed),
    )
    return [unfinished.path(path) for path in paths(snakemake.output.state)]


def measure(snakemake: Any, unfinished: Unfinished, states: Sequence[Path]) -> None:
    """Measure states of a stream, or the unedited model: on its edits, on general ability, on neutral text."""
    files, params, out = snakemake.input, snakemake.params, snakemake.output
    model = Path(files.model)
    if out.get("editing"):
        weights = paths(files.word_weights)
        in_context = snakemake.rule == "evaluate_in_context"  # told a fact, a model has it in its free texts anyhow
        stages.evaluate_states(
            model,
            Path(files.stream),
            *unfinished.left(paths(out.editing), states),
            load_settings=params.load,
            references=next(iter(paths(files.references)), None),
            word_weights=(weights[0], weights[1]) if weights else None,
            records=params.records,
            generation=GenerationSettings(**params.generation) if params.generation and not in_context else None,
            strict=StrictSettings(**params.strict) if params.strict else None,
            belief=params.belief,
            portability=params.portability,
            in_context=in_context,
        )
    if out.get("ability"):
        stages.score_states(
            model,
            *unfinished.left(paths(out.ability), states),
            load_settings=params.load,
            tasks=TaskSettings(**params.tasks),
            include_paths={*paths(files.tasks), *(path.parent for path in paths(files.own_tasks))},
            data={task: (path, subset) for (task, subset), path in zip(params.data, paths(files.data), strict=True)},
        )
    if out.get("neutral"):
        stages.measure_drift(
            model,
            Path(files.texts),
            *unfinished.left(paths(out.neutral), states),
            load_settings=params.load,
            settings=NeutralSettings(**params.neutral),
            skip=params.skip,
        )
