"""Find the principal hyperspherical directions of the pretrained weights of all layers."""

from pathlib import Path

from sphere.job import job

with job(snakemake):
    from sphere.models import adapter, load
    from sphere.spectra import save_directions

    loaded = load(snakemake.input.model, **snakemake.params.load)
    save_directions(adapter(loaded.model), snakemake.params.layers, Path(snakemake.output.directions))
