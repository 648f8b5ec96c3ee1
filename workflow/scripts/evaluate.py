"""Evaluate the states of one or more checkpoints of a stream, or the unedited model, on the edits made so far."""

from pathlib import Path

from sphere.study.job import job, paths

with job(snakemake, sources=snakemake.params.sources):
    from sphere.evaluation.generation import GenerationSettings
    from sphere.study.stages import evaluate_states

    files, generation = snakemake.input, snakemake.params.generation
    evaluate_states(
        Path(files.model),
        paths(files.get("states")),
        Path(files.stream),
        paths(snakemake.output.editing),
        load_settings=snakemake.params.load,
        references=next(iter(paths(files.references)), None),
        word_weights=tuple(paths(files.word_weights)) or None,
        records=snakemake.params.records,
        generation=GenerationSettings(**generation) if generation else None,
    )
