"""Say what the results rest on: versions, machines, wall times, digests, configuration."""

from pathlib import Path

from sphere.job import job
from sphere.manifest import write_manifest
from sphere.pages import write_pages

with job(snakemake):
    out = snakemake.output
    results = [Path(path) for path in snakemake.input]
    write_manifest(results, snakemake.params.study, artefacts=Path(out.artefacts), page=Path(out.page))
    write_pages([Path(out.page)])
