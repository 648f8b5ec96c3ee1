"""Say what the results rest on: versions, machines, wall times, digests, configuration."""

from pathlib import Path

from sphere.report.pages import write_pages
from sphere.study.job import job
from sphere.study.manifest import write_manifest

with job(snakemake):
    out = snakemake.output
    results = [Path(path) for path in snakemake.input]
    write_manifest(
        results, snakemake.params.study, snakemake.params.methods, artefacts=Path(out.artefacts), page=Path(out.page)
    )
    write_pages([Path(out.page)])
