"""Measure states of a stream, or the unedited model: on its edits, on tasks of general ability, on neutral text.

Each of the three where it is asked for as an output.
"""

from pathlib import Path

from sphere.config.evaluation import NeutralSettings, StrictSettings, TaskSettings
from sphere.study.job import job, paths

with job(snakemake, sources=snakemake.params.sources) as unfinished:
    from sphere.evaluation.generation import GenerationSettings
    from sphere.study.stages import evaluate_states, measure_drift, score_states

    files, params = snakemake.input, snakemake.params
    model, states = Path(files.model), paths(files.get("states"))

    def asked(name):
        """Of the outputs called ``name`` that no earlier start finished: states, places, and what marks one done."""
        outputs = {unfinished.path(path): path for path in paths(snakemake.output.get(name))}
        todo = [out for out, path in outputs.items() if not unfinished.has([path])]
        chosen = [state for state, out in zip(states, outputs, strict=True) if out in todo] if states else []
        return chosen, todo, lambda out: unfinished.finish([outputs[out]])

    chosen, outs, done = asked("editing")
    if outs:
        in_context = snakemake.rule == "evaluate_in_context"  # told a fact, a model has it in its free texts anyhow
        evaluate_states(
            model,
            chosen,
            Path(files.stream),
            outs,
            load_settings=params.load,
            references=next(iter(paths(files.references)), None),
            word_weights=tuple(paths(files.word_weights)) or None,
            records=params.records,
            generation=GenerationSettings(**params.generation) if params.generation and not in_context else None,
            strict=StrictSettings(**params.strict) if params.strict else None,
            belief=params.belief,
            portability=params.portability,
            in_context=in_context,
            on_written=done,
        )
    chosen, outs, done = asked("ability")
    if outs:
        folders = dict(zip(map(tuple, params.data), paths(files.data), strict=True))
        score_states(
            model,
            chosen,
            outs,
            load_settings=params.load,
            tasks=TaskSettings(**params.tasks),
            include_paths={*paths(files.tasks), *(path.parent for path in paths(files.own_tasks))},
            data={task: (folder, subset) for (task, subset), folder in folders.items()},
            on_written=done,
        )
    chosen, outs, done = asked("neutral")
    if outs:
        measure_drift(
            model,
            chosen,
            Path(files.texts),
            outs,
            load_settings=params.load,
            settings=NeutralSettings(**params.neutral),
            skip=params.skip,
            on_written=done,
        )
