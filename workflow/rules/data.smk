# The world, downloads, and the edit streams drawn from a dataset.
localrules:
    download,
    fetch_corpus,


rule world:
    output:
        counterfact="<study>/world/counterfact.json",
        zsre="<study>/world/zsre.json",
        tuning_counterfact="<study>/world/tuning_counterfact.json",
        tuning_zsre="<study>/world/tuning_zsre.json",
        references="<study>/world/references.json",
        probes="<study>/world/probes.json",
        corpus=ensure("<study>/world/corpus.txt", non_empty=True),
        tasks=directory("<study>/world/tasks"),
    params:
        world=STUDY.world.plain() if STUDY.world else None,
    log:
        "<logs>/world.log",
    benchmark:
        "<benchmarks>/world.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    conda:
        "../../envs/data.yaml"
    message:
        "Building the world"
    script:
        "../scripts/world.py"


rule download:
    output:
        file=ensure("<results>/downloads/{item}.json", non_empty=True),
    params:
        source=lambda wildcards: WHOLE.downloads[wildcards.item].plain(),
    log:
        "<results>/downloads/logs/{item}.log",
    benchmark:
        "<results>/downloads/benchmarks/{item}.tsv"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(60),
    conda:
        "../../envs/data.yaml"
    message:
        "Downloading {wildcards.item}"
    script:
        "../scripts/download.py"


rule fetch_corpus:
    output:
        corpus=ensure("<study>/corpus.txt", non_empty=True),
    params:
        corpus=STUDY.corpus.plain() if STUDY.corpus else None,
        documents=max(model.statistics.documents for model in MODELS.values()),
    log:
        "<logs>/fetch_corpus.log",
    benchmark:
        "<benchmarks>/fetch_corpus.tsv"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    conda:
        "../../envs/data.yaml"
    message:
        "Fetching the corpus for key statistics"
    script:
        "../scripts/fetch_corpus.py"


rule stream:
    input:
        dataset=dataset_file,
    output:
        requests="<study>/streams/{dataset}/seed{seed}.json",
        skipped="<study>/streams/{dataset}/seed{seed}_skipped.csv",
    params:
        edits=STUDY.edits,
        seed=lambda wildcards: int(wildcards.seed),
        sources=own("dataset"),
    log:
        "<logs>/streams/{dataset}/seed{seed}.log",
    benchmark:
        "<benchmarks>/streams/{dataset}/seed{seed}.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    conda:
        "../../envs/data.yaml"
    message:
        "Drawing the {wildcards.dataset} stream, seed {wildcards.seed}"
    script:
        "../scripts/stream.py"
