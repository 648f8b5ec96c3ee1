"""Evaluate the states of one or more checkpoints of a stream, or the unedited model, on the edits made so far."""

from pathlib import Path

from sphere.study.job import job, paths

with job(snakemake, sources=snakemake.params.sources):
    from sphere.config.evaluation import StrictSettings
    from sphere.evaluation.generation import GenerationSettings
    from sphere.study.stages import evaluate_states

    files, params = snakemake.input, snakemake.params
    in_context = snakemake.rule == "evaluate_in_context"  # told a fact, a model has it in its free texts anyhow
    evaluate_states(
        Path(files.model),
        paths(files.get("states")),
        Path(files.stream),
        paths(snakemake.output.editing),
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
