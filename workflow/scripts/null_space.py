"""Decompose the key second moments of all layers, for AlphaEdit's null space."""

from pathlib import Path

from sphere.job import job

with job(snakemake):
    from sphere.models import resolve_device
    from sphere.spectra import save_null_space
    from sphere.stats import Statistics

    statistics = Statistics.load(snakemake.input.statistics, device=resolve_device(snakemake.params.device))
    save_null_space(statistics, Path(snakemake.output.null_space))
