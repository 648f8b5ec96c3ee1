"""Find the target values of one part of the requests on the unedited model."""

from pathlib import Path

from sphere.config.model import EditSettings
from sphere.study.job import job, paths

with job(snakemake):
    from sphere.study.targets import find_targets

    files, params = snakemake.input, snakemake.params
    find_targets(
        Path(files.model),
        paths(files.streams),
        editing=EditSettings(**params.editing),
        contexts=Path(files.contexts),
        part=int(snakemake.wildcards.part),
        size=params.size,
        out=Path(snakemake.output.targets),
    )
