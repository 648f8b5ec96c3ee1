"""Measure bits a byte and drift of the states of one or more checkpoints, or of the unedited model."""

from pathlib import Path

from sphere.config.evaluation import NeutralSettings
from sphere.study.job import job, paths

with job(snakemake, sources=snakemake.params.sources):
    from sphere.study.stages import measure_drift

    files, params = snakemake.input, snakemake.params
    measure_drift(
        Path(files.model),
        paths(files.get("states")),
        Path(files.texts),
        paths(snakemake.output.neutral),
        load_settings=params.load,
        settings=NeutralSettings(**params.neutral),
        skip=params.skip,
    )
