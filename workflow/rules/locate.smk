# Which layers of the unedited model to edit: a question beside the study, whose streams edit those of the model's file.
rule locate:
    input:
        model="<study>/{model}/model",
        corpus=statistics_corpus,
        requests=held_out(),
    output:
        effects=ensure("<study>/{model}/locate/effects.csv", non_empty=True),
        sets=ensure("<study>/{model}/locate/sets.csv", non_empty=True),
    params:
        locate=STUDY.locate.plain() if STUDY.locate else None,
        hyperparameters=of_model(lambda model: model.hyperparameters(STUDY.locate.method)),
        packages=of_model(lambda model: WHOLE.packages(model.name, STUDY.locate.method)),
        editing=of_model(lambda model: model.edit_settings().plain()),
        statistics=of_model(lambda model: model.statistics.plain()),
    log:
        "<logs>/{model}/locate.log",
    benchmark:
        "<benchmarks>/{model}/locate.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "locate"),
        runtime=planned("runtime", "locate"),
        gpu=gpus,
    conda:
        "../../envs/edit.yaml"
    message:
        "{wildcards.model}: locating layers"
    script:
        "../scripts/locate.py"
