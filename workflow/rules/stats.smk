# What editing needs of the unedited model: context templates and key second moments.
rule contexts:
    input:
        model="<study>/{model}/model",
    output:
        contexts="<study>/{model}/contexts.json",
    params:
        contexts=of_model(lambda model: model.contexts.plain()),
        load=of_model(lambda model: model.load_settings()),
    log:
        "<logs>/{model}/contexts.log",
    benchmark:
        "<benchmarks>/{model}/contexts.tsv"
    threads: 1
    resources:
        mem_mb=model_resource("mem_mb"),
        runtime=model_resource("runtime"),
        gpu=gpus,
    conda:
        "../../envs/stats.yaml"
    script:
        "../scripts/contexts.py"


rule statistics:
    input:
        model="<study>/{model}/model",
        corpus=statistics_corpus,
    output:
        statistics="<study>/{model}/statistics.safetensors",
    params:
        statistics=of_model(lambda model: model.statistics.plain()),
        layers=of_model(lambda model: WHOLE.layers_with_statistics(model)),
        load=of_model(lambda model: model.load_settings()),
    log:
        "<logs>/{model}/statistics.log",
    benchmark:
        "<benchmarks>/{model}/statistics.tsv"
    threads: 1
    resources:
        mem_mb=model_resource("mem_mb"),
        runtime=model_resource("runtime"),
        gpu=gpus,
    conda:
        "../../envs/stats.yaml"
    script:
        "../scripts/statistics.py"
