"""Write the task of held-out text: passages that neither key statistics nor neutral text read."""

from pathlib import Path

from sphere.data.corpus import write_held_out
from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources):
    files, params = snakemake.input, snakemake.params
    write_held_out(Path(files.file), Path(snakemake.output.tasks), column=params.column, skip=params.skip)
