"""Take the key second moments of the edited layers over a corpus."""

from pathlib import Path

from sphere.study.job import job

with job(snakemake):
    from sphere.editing.stats import collect_statistics, read_documents
    from sphere.models.adapters import adapter
    from sphere.models.loading import load

    settings = dict(snakemake.params.statistics)
    documents = read_documents(snakemake.input.corpus)[: settings.pop("documents")]
    loaded = load(snakemake.input.model, **snakemake.params.load)
    settings["gradients"] = snakemake.params.gradients
    statistics = collect_statistics(
        adapter(loaded.model), loaded.tokenizer, documents, snakemake.params.layers, **settings
    )
    print(statistics.summary, flush=True)
    statistics.save(Path(snakemake.output.statistics))
