"""Edit held-out records with every pair of eta and alpha."""

from pathlib import Path

from sphere.config.model import EditSettings
from sphere.config.tuning import SensitivitySettings
from sphere.files import read_json
from sphere.study.job import job, paths

with job(snakemake):
    from sphere.study.tune import map_sensitivity

    files, params = snakemake.input, snakemake.params
    chosen = read_json(files.tuned)["hyperparameters"] if files.tuned else {}
    map_sensitivity(
        Path(files.model),
        Path(files.requests),
        sensitivity=SensitivitySettings(**params.sensitivity),
        hyperparameters={**params.hyperparameters, **chosen},
        editing=EditSettings(**params.editing),
        contexts=Path(files.contexts),
        statistics=Path(files.statistics),
        spectra=paths(files.spectra),
        targets=paths(files.targets),
        batch_size=params.batch_size,
        out=Path(snakemake.output.trials),
    )
