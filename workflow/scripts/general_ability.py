"""Score the general ability of the states of one or more checkpoints of a stream, or of the unedited model."""

from pathlib import Path

from sphere.config import TaskSettings
from sphere.job import job, paths

with job(snakemake):
    from sphere.stages import score_states

    files = snakemake.input
    score_states(
        Path(files.model),
        paths(files.get("states")),
        paths(snakemake.output.ability),
        load_settings=snakemake.params.load,
        tasks=TaskSettings(**snakemake.params.tasks),
        include_path=Path(files.tasks) if files.tasks else None,
    )
