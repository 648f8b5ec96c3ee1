"""Decompose the key second moments of all layers, for AlphaEdit's null space."""

from pathlib import Path

from sphere.study.job import job

with job(snakemake):
    from sphere.editing.spectra import save_null_space
    from sphere.editing.stats import Statistics
    from sphere.models.loading import resolve_device

    statistics = Statistics.load(snakemake.input.statistics, device=resolve_device(snakemake.params.device))
    save_null_space(statistics, Path(snakemake.output.null_space))
