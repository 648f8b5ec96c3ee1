"""Measure states of a stream, or the unedited model: on its edits, on tasks of general ability, on neutral text."""

from pathlib import Path

from sphere.config.evaluation import NeutralSettings, StrictSettings, TaskSettings
from sphere.study.job import job, paths

with job(snakemake, sources=snakemake.params.sources) as unfinished:
    from sphere.evaluation.generation import GenerationSettings
    from sphere.study.stages import evaluate_states, measure_drift, score_states

    files, params, out = snakemake.input, snakemake.params, snakemake.output
    model, states = Path(files.model), paths(files.get("states"))
    if out.get("editing"):
        in_context = snakemake.rule == "evaluate_in_context"  # told a fact, a model has it in its free texts anyhow
        evaluate_states(
            model,
            Path(files.stream),
            *unfinished.left(paths(out.editing), states),
            load_settings=params.load,
            references=next(iter(paths(files.references)), None),
            word_weights=tuple(paths(files.word_weights)) or None,
            records=params.records,
            generation=GenerationSettings(**params.generation) if params.generation and not in_context else None,
            strict=StrictSettings(**params.strict) if params.strict else None,
            belief=params.belief,
            portability=params.portability,
            in_context=in_context,
        )
    if out.get("ability"):
        score_states(
            model,
            *unfinished.left(paths(out.ability), states),
            load_settings=params.load,
            tasks=TaskSettings(**params.tasks),
            include_paths={*paths(files.tasks), *(path.parent for path in paths(files.own_tasks))},
            data={task: (path, subset) for (task, subset), path in zip(params.data, paths(files.data), strict=True)},
        )
    if out.get("neutral"):
        measure_drift(
            model,
            Path(files.texts),
            *unfinished.left(paths(out.neutral), states),
            load_settings=params.load,
            settings=NeutralSettings(**params.neutral),
            skip=params.skip,
        )
