# The base model: trained on the world, or fetched from the hub or a folder.
WORLD_MODELS = [name for name, model in MODELS.items() if isinstance(model.source, WorldSource)]
GGUF_MODELS = [name for name, model in MODELS.items() if isinstance(model.source, GgufSource)]


localrules:
    fetch_model,


rule train_model:
    input:
        corpus="<study>/world/corpus.txt",
        probes="<study>/world/probes.json",
    output:
        model=directory("<study>/{model}/model"),
        training="<study>/{model}/training.csv",
    params:
        training=of_model(lambda model: model.source.training.plain()),
        device=of_model(lambda model: model.device),
    log:
        "<logs>/{model}/train_model.log",
    benchmark:
        "<benchmarks>/{model}/train_model.tsv"
    threads: STUDY.threads
    resources:
        mem_mb=planned("mem_mb", "train_model"),
        runtime=planned("runtime", "train_model"),
        gpu=gpus,
    conda:
        "../../envs/model.yaml"
    wildcard_constraints:
        model=alternatives(WORLD_MODELS),
    message:
        "Training {wildcards.model}"
    script:
        "../scripts/train_model.py"


rule fetch_model:
    output:
        model=directory("<study>/{model}/model"),
    params:
        source=of_model(lambda model: sourced(WHOLE.model_source(model))),
        shape=of_model(lambda model: model.shape.plain() if model.shape else None),
        code=of_model(lambda model: model.trust_remote_code),
        locks=str(WHOLE.locks),
    log:
        "<logs>/{model}/fetch_model.log",
    benchmark:
        "<benchmarks>/{model}/fetch_model.tsv"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    conda:
        "../../envs/model.yaml"
    wildcard_constraints:
        model=alternatives(MODELS.keys() - {*WORLD_MODELS, *GGUF_MODELS}),
    message:
        "Fetching {wildcards.model}"
    script:
        "../scripts/fetch_snapshot.py"


rule convert_gguf:
    input:
        file=of_model(lambda model: downloaded(model.source.item) if model.source.item else str(model.source.path)),
    output:
        model=directory("<study>/{model}/model"),
    params:
        shape=of_model(lambda model: model.shape.plain() if model.shape else None),
        sources=of_model(lambda model: ["file"] if model.source.path else []),
    log:
        "<logs>/{model}/convert_gguf.log",
    benchmark:
        "<benchmarks>/{model}/convert_gguf.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "convert_gguf"),
        runtime=planned("runtime", "convert_gguf"),
    conda:
        "../../envs/model.yaml"
    wildcard_constraints:
        model=alternatives(GGUF_MODELS),
    message:
        "Writing {wildcards.model} out in float32"
    script:
        "../scripts/convert_gguf.py"
