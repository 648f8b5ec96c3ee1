# The base model: trained on the world, or fetched from the hub or a folder.
WORLD_MODELS = [name for name, model in MODELS.items() if isinstance(model.source, WorldSource)]


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
        model=alternatives(MODELS.keys() - WORLD_MODELS),
    message:
        "Fetching {wildcards.model}"
    script:
        "../scripts/fetch_snapshot.py"
