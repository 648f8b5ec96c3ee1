"""Try a method's hyperparameters on held-out edits and keep the best."""

from pathlib import Path

from sphere.config.model import EditSettings
from sphere.config.tuning import TuningSettings
from sphere.study.job import job, paths

with job(snakemake):
    from sphere.study.tune import tune

    files, params = snakemake.input, snakemake.params
    tune(
        Path(files.model),
        Path(files.requests),
        method=snakemake.wildcards.method,
        hyperparameters=params.hyperparameters,
        grid=params.grid,
        tuning=TuningSettings(**params.tuning),
        editing=EditSettings(**params.editing),
        contexts=Path(files.contexts),
        statistics=Path(files.statistics),
        spectra=paths(files.spectra),
        targets=paths(files.targets),
        batch_size=params.batch_size,
        out_chosen=Path(snakemake.output.chosen),
        out_trials=Path(snakemake.output.trials),
    )
