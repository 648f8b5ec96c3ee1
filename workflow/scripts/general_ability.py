"""Score the general ability of the states of one or more checkpoints of a stream, or of the unedited model."""

from pathlib import Path

from sphere.config.evaluation import TaskSettings
from sphere.study.job import job, paths

with job(snakemake, sources=snakemake.params.sources):
    from sphere.study.stages import score_states

    files, data = snakemake.input, snakemake.params.data
    score_states(
        Path(files.model),
        paths(files.get("states")),
        paths(snakemake.output.ability),
        load_settings=snakemake.params.load,
        tasks=TaskSettings(**snakemake.params.tasks),
        include_paths={*paths(files.tasks), *(path.parent for path in paths(files.own_tasks))},
        data={task: (folder, subset) for (task, subset), folder in zip(data, paths(files.data), strict=True)},
    )
