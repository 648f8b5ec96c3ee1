"""Trace facts through the unedited model, and edit them in several sets of layers."""

from pathlib import Path

from sphere.config.model import EditSettings, StatisticsSettings
from sphere.config.tuning import LocateSettings
from sphere.study.job import job

with job(snakemake):
    from sphere.study.locate import locate_for_study

    files, params = snakemake.input, snakemake.params
    locate_for_study(
        Path(files.model),
        Path(files.requests),
        Path(files.corpus),
        locate=LocateSettings(**params.locate),
        hyperparameters=params.hyperparameters,
        editing=EditSettings(**params.editing),
        text=StatisticsSettings(**params.statistics),
        out_effects=Path(snakemake.output.effects),
        out_sets=Path(snakemake.output.sets),
    )
