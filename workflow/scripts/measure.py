"""Measure states of a stream, or the unedited model: on its edits, on tasks of general ability, on neutral text."""

from sphere.study.job import job, paths

with job(snakemake, sources=snakemake.params.sources) as unfinished:
    from sphere.study.stream_jobs import measure

    measure(snakemake, unfinished, paths(snakemake.input.get("states")))
