"""Ask a model which facts it knows."""

from pathlib import Path

from sphere.config.facts import FactsSettings
from sphere.study.job import job

with job(snakemake):
    from sphere.study.facts import find_known

    params = snakemake.params
    find_known(
        Path(snakemake.input.model),
        FactsSettings(**params.facts),
        load_settings=params.load,
        part=int(snakemake.wildcards.part),
        parts=params.parts,
        out=Path(snakemake.output.known),
    )
