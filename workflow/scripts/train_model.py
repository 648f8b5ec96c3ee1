"""Train the embedded base model on the world's corpus."""

import os
from pathlib import Path

from sphere.config.training import TrainingSettings
from sphere.files import write_csv
from sphere.study.job import job

# Threads that wait soon sleep instead of spinning on, which beside another busy process slows training many times.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

with job(snakemake):
    from sphere.data.world.training import train

    settings = TrainingSettings(**snakemake.params.training)
    curve = train(
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output.model),
        settings,
        seed=settings.seed,
        device=snakemake.params.device,
    )
    write_csv(curve, snakemake.output.training)
