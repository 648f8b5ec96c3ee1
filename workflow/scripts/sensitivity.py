"""Edit held-out records with every pair of eta and alpha."""

from pathlib import Path

from sphere.config.tuning import SensitivitySettings
from sphere.study.job import job

with job(snakemake):
    from sphere.study.stream_jobs import editing
    from sphere.study.tune import map_sensitivity

    map_sensitivity(
        Path(snakemake.input.model),
        Path(snakemake.input.requests),
        sensitivity=SensitivitySettings(**snakemake.params.sensitivity),
        out=Path(snakemake.output.trials),
        **editing(snakemake),
    )
