"""Build the fictional world: corpus, edit records, reference texts and tasks."""

from pathlib import Path

from sphere.config.world import WorldSettings
from sphere.data.world.build import build
from sphere.study.job import job

with job(snakemake):
    build(WorldSettings(**snakemake.params.world), Path(snakemake.output.corpus).parent)
