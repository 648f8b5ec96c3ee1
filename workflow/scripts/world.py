"""Build the fictional world: corpus, edit records, reference texts and tasks."""

from pathlib import Path

from sphere.config import WorldSettings
from sphere.job import job
from sphere.world import build

with job(snakemake):
    build(WorldSettings(**snakemake.params.world), Path(snakemake.output.corpus).parent)
