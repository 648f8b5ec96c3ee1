# The world, downloads, and the edit streams drawn from a dataset.
localrules:
    download,
    fetch_dataset,


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
        file=ensure("<results>/downloads/{file}", non_empty=True),
    params:
        source=lambda wildcards: sourced(FILES[wildcards.file]),
        locks=str(WHOLE.locks),
    log:
        "<results>/downloads/logs/{file}.log",
    benchmark:
        "<results>/downloads/benchmarks/{file}.tsv"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(60),
    conda:
        "../../envs/data.yaml"
    message:
        "Downloading {wildcards.file}"
    script:
        "../scripts/download.py"


rule fetch_dataset:
    output:
        folder=directory("<results>/downloads/{item}"),
    params:
        source=lambda wildcards: sourced(WHOLE.sources[wildcards.item]),
        locks=str(WHOLE.locks),
    log:
        "<results>/downloads/logs/{item}.log",
    benchmark:
        "<results>/downloads/benchmarks/{item}.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    conda:
        "../../envs/data.yaml"
    message:
        "Fetching the data of {wildcards.item}"
    script:
        "../scripts/fetch_snapshot.py"


rule extract_corpus:
    input:
        file=CORPUS_FILE,
    output:
        corpus=ensure("<study>/corpus.txt", non_empty=True),
    params:
        column=STUDY.corpus.column if STUDY.corpus else None,
        sources=OWN_CORPUS,
        documents=CORPUS_TEXTS,
    log:
        "<logs>/extract_corpus.log",
    benchmark:
        "<benchmarks>/extract_corpus.tsv"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    conda:
        "../../envs/data.yaml"
    message:
        "Extracting the corpus for key statistics"
    script:
        "../scripts/extract_corpus.py"


rule held_out:
    input:
        file=CORPUS_FILE,
    output:
        tasks=directory("<study>/corpus/tasks"),
    params:
        column=STUDY.corpus.column if STUDY.corpus else None,
        sources=OWN_CORPUS,
        skip=CORPUS_TEXTS,
    log:
        "<logs>/held_out.log",
    benchmark:
        "<benchmarks>/held_out.tsv"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    conda:
        "../../envs/data.yaml"
    message:
        "Taking held-out passages from the corpus"
    script:
        "../scripts/held_out.py"


rule known_facts:
    input:
        model=f"<study>/{STUDY.asked}/model",
    output:
        known=ensure("<study>/facts/known{part}.csv", non_empty=True),
    params:
        facts=STUDY.facts.plain() if STUDY.facts else None,
        parts=ASKED_PARTS,
        load=MODELS[STUDY.asked].load_settings(),
    log:
        "<logs>/known_facts{part}.log",
    benchmark:
        "<benchmarks>/known_facts{part}.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "known_facts", model=STUDY.asked),
        runtime=planned("runtime", "known_facts", model=STUDY.asked),
        gpu=MODELS[STUDY.asked].resources.gpu,
    conda:
        "../../envs/evaluate.yaml"
    wildcard_constraints:
        part="[0-9]+",
    message:
        "Asking the model which facts it knows, part {wildcards.part}"
    script:
        "../scripts/known_facts.py"


rule facts:
    input:
        known=expand("<study>/facts/known{part}.csv", part=ASKED),
    output:
        known="<study>/facts/known.csv",
        counterfact="<study>/facts/counterfact.json",
        zsre="<study>/facts/zsre.json",
        tuning_counterfact="<study>/facts/tuning_counterfact.json",
        tuning_zsre="<study>/facts/tuning_zsre.json",
        tasks=directory("<study>/facts/tasks"),
        relations=report(
            "<study>/facts/relations.csv",
            caption="../report/data.rst",
            category="Data",
            labels={"file": "relations.csv"},
        ),
    params:
        facts=STUDY.facts.plain() if STUDY.facts else None,
        edits=STUDY.edits if "facts" in SOURCES else 0,
    log:
        "<logs>/facts.log",
    benchmark:
        "<benchmarks>/facts.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    conda:
        "../../envs/data.yaml"
    message:
        "Making records of the facts that the model knows"
    script:
        "../scripts/facts.py"


rule stream:
    input:
        dataset=of_dataset(
            "item", "path", world=["<study>/world/{dataset}.json"], facts=["<study>/facts/{dataset}.json"]
        ),
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
