"""Edit a stream to all its checkpoints, and then measure each: one start, where no state is kept for another job."""

from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources) as unfinished:
    from sphere.study.stream_jobs import edit, measure

    measure(snakemake, unfinished, edit(snakemake, unfinished, goes_on=True))
