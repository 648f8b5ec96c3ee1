# What editing needs of the unedited model: context templates, key second moments and two decompositions.
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
        mem_mb=planned("mem_mb", "contexts"),
        runtime=planned("runtime", "contexts"),
        gpu=gpus,
    conda:
        "../../envs/stats.yaml"
    message:
        "{wildcards.model}: sampling contexts"
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
        gradients=of_model(lambda model: WHOLE.takes_gradients(model)),
        load=of_model(lambda model: model.load_settings()),
    log:
        "<logs>/{model}/statistics.log",
    benchmark:
        "<benchmarks>/{model}/statistics.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "statistics"),
        runtime=planned("runtime", "statistics"),
        gpu=gpus,
    conda:
        "../../envs/stats.yaml"
    message:
        "{wildcards.model}: taking key statistics"
    script:
        "../scripts/statistics.py"


rule null_space:
    input:
        statistics="<study>/{model}/statistics.safetensors",
    output:
        null_space="<study>/{model}/null_space.safetensors",
    params:
        device=of_model(lambda model: model.device),
    log:
        "<logs>/{model}/null_space.log",
    benchmark:
        "<benchmarks>/{model}/null_space.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "null_space"),
        runtime=planned("runtime", "null_space"),
        gpu=gpus,
    conda:
        "../../envs/stats.yaml"
    message:
        "{wildcards.model}: decomposing the key statistics"
    script:
        "../scripts/null_space.py"


rule directions:
    input:
        model="<study>/{model}/model",
    output:
        directions="<study>/{model}/directions.safetensors",
    params:
        layers=of_model(lambda model: WHOLE.layers_with_statistics(model)),
        load=of_model(lambda model: model.load_settings()),
    log:
        "<logs>/{model}/directions.log",
    benchmark:
        "<benchmarks>/{model}/directions.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "directions"),
        runtime=planned("runtime", "directions"),
        gpu=gpus,
    conda:
        "../../envs/stats.yaml"
    message:
        "{wildcards.model}: finding the principal directions"
    script:
        "../scripts/directions.py"
