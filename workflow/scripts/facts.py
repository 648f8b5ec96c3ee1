"""Make edit records of the facts that a model knows."""

from pathlib import Path

from sphere.config.facts import FactsSettings
from sphere.study.job import job, paths

with job(snakemake):
    from sphere.data.facts.build import build

    params, out = snakemake.params, Path(snakemake.output.counterfact).parent
    build(paths(snakemake.input.known), FactsSettings(**params.facts), out, edits=params.edits)
