"""Measure how each stream's edits changed the cosines between neurons, and sample rows to draw."""

from pathlib import Path

from sphere.study.job import job, paths

with job(snakemake):
    from sphere.study.stages import compare_neurons

    names = dict.fromkeys(stream["model"] for stream in snakemake.params.streams)
    compare_neurons(
        dict(zip(names, zip(paths(snakemake.input.models), snakemake.params.load, strict=True), strict=True)),
        list(zip(snakemake.params.streams, paths(snakemake.input.states), strict=True)),
        Path(snakemake.output.cosine).parent,
    )
