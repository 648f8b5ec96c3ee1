"""Edit a stream to one checkpoint from the state of the one before it, or to all of them, one after the other."""

from pathlib import Path

from sphere.config.model import EditSettings
from sphere.files import read_json
from sphere.study.job import job, paths

with job(snakemake, continues="previous") as unfinished:
    from sphere.study.stages import Checkpoint, edit_stream

    files, params = snakemake.input, snakemake.params
    outputs = {name: paths(snakemake.output[name]) for name in ("state", "energy", "timing", "incidents", "cost")}
    parts = [dict(zip(outputs, each, strict=True)) for each in zip(*outputs.values(), strict=True)]
    previous = Path(files.previous) if files.previous else None
    while parts and unfinished.has(parts[0].values()):
        previous = unfinished.path(parts.pop(0)["state"])
        print(f"{previous}: finished before", flush=True)
    todo = {
        Checkpoint(
            int(part["state"].parent.name.removeprefix("edits")),
            **{name: unfinished.path(path) for name, path in part.items()},
        ): part
        for part in parts
    }
    chosen = read_json(files.tuned)["hyperparameters"] if files.tuned else {}
    if todo:
        edit_stream(
            Path(files.model),
            Path(files.stream),
            list(todo),
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
            on_written=lambda checkpoint: unfinished.finish(todo[checkpoint].values()),
        )
