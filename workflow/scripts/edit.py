"""Edit one segment of a stream: from the previous checkpoint's state to this checkpoint's."""

from pathlib import Path

from sphere.config.model import EditSettings
from sphere.files import read_json
from sphere.study.job import job, paths

with job(snakemake, continues="previous"):
    from sphere.study.stages import edit_segment

    files, params = snakemake.input, snakemake.params
    chosen = read_json(files.tuned)["hyperparameters"] if files.tuned else {}
    edit_segment(
        Path(files.model),
        Path(files.stream),
        method=snakemake.wildcards.method,
        hyperparameters={**params.hyperparameters, **chosen},
        editing=EditSettings(**params.editing),
        contexts=Path(files.contexts),
        statistics=Path(files.statistics),
        spectra=paths(files.spectra),
        targets=paths(files.targets),
        previous=Path(files.previous) if files.previous else None,
        upto=int(snakemake.wildcards.edits),
        batch_size=params.batch_size,
        energy_every=params.energy_every,
        seed=int(snakemake.wildcards.seed),
        **{f"out_{name}": Path(path) for name, path in snakemake.output.items()},
    )
