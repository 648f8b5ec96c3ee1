"""Edit a stream to one checkpoint from the state of the one before it, or to all of them, one after the other."""

from pathlib import Path

from sphere.config.model import EditSettings
from sphere.files import read_json
from sphere.study.job import job, paths

with job(snakemake, continues="previous") as unfinished:
    from sphere.study.stages import CHECKPOINT_FILES, checkpoints_left, edit_stream

    files, params = snakemake.input, snakemake.params
    chosen = read_json(files.tuned)["hyperparameters"] if files.tuned else {}
    outputs = [paths(snakemake.output[name]) for name in CHECKPOINT_FILES]
    left, done, previous = checkpoints_left(outputs, unfinished, next(iter(paths(files.previous)), None))
    edit_stream(
        Path(files.model),
        Path(files.stream),
        left,
        done,
        method=snakemake.wildcards.method,
        hyperparameters={**params.hyperparameters, **chosen},
        editing=EditSettings(**params.editing),
        contexts=Path(files.contexts),
        statistics=Path(files.statistics),
        spectra=paths(files.spectra),
        targets=paths(files.targets),
        previous=previous,
        batch_size=params.batch_size,
        energy_every=params.energy_every,
        seed=int(snakemake.wildcards.seed),
    )
