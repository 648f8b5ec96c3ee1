"""Edit a stream to one checkpoint from the state of the one before it, or to all of them, one after the other."""

from sphere.study.job import job

with job(snakemake, continues="previous") as unfinished:
    from sphere.study.stream_jobs import edit

    edit(snakemake, unfinished)
