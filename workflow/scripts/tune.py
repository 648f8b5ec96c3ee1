"""Try a method's hyperparameters on held-out edits and keep the best."""

from pathlib import Path

from sphere.config.tuning import TuningSettings
from sphere.study.job import job

with job(snakemake):
    from sphere.study.stream_jobs import editing
    from sphere.study.tune import tune

    tune(
        Path(snakemake.input.model),
        Path(snakemake.input.requests),
        method=snakemake.wildcards.method,
        grid=snakemake.params.grid,
        tuning=TuningSettings(**snakemake.params.tuning),
        out_chosen=Path(snakemake.output.chosen),
        out_trials=Path(snakemake.output.trials),
        **editing(snakemake),
    )
