# Editing. The state after a checkpoint is made from the state of the checkpoint before it.
rule targets:
    input:
        model="<study>/{model}/model",
        contexts="<study>/{model}/contexts.json",
        streams=lambda wildcards: requests_of(wildcards.requests),
    output:
        targets="<study>/{model}/targets/{requests}/part{part}.safetensors",
    params:
        editing=of_model(lambda model: model.edit_settings().plain()),
        size=TARGETS,
    log:
        "<logs>/{model}/targets/{requests}/part{part}.log",
    benchmark:
        "<benchmarks>/{model}/targets/{requests}/part{part}.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "targets"),
        runtime=planned("runtime", "targets"),
        gpu=gpus,
    conda:
        "../../envs/edit.yaml"
    wildcard_constraints:
        requests=alternatives([*STUDY.datasets, HELD_OUT]),
        part="[0-9]+",
    message:
        "{wildcards.model}, {wildcards.requests}: target values of the unedited model, part {wildcards.part}"
    script:
        "../scripts/targets.py"


rule tune:
    input:
        model="<study>/{model}/model",
        contexts="<study>/{model}/contexts.json",
        statistics="<study>/{model}/statistics.safetensors",
        spectra=spectra,
        targets=frozen_targets(HELD_OUT),
        requests=held_out(),
    output:
        chosen="<study>/{model}/tuning/{method}.json",
        trials="<study>/{model}/tuning/{method}.csv",
    params:
        tuning=STUDY.tuning.plain() if STUDY.tuning else None,
        grid=lambda wildcards: MODELS[wildcards.model].plain()["tuning_grid"].get(wildcards.method, {}),
        hyperparameters=lambda wildcards: MODELS[wildcards.model].hyperparameters(wildcards.method),
        packages=lambda wildcards: WHOLE.packages(wildcards.model, wildcards.method),
        editing=of_model(lambda model: model.edit_settings().plain()),
        batch_size=STUDY.batch_size,
    log:
        "<logs>/{model}/tune/{method}.log",
    benchmark:
        "<benchmarks>/{model}/tune/{method}.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "tune"),
        runtime=planned("runtime", "tune"),
        gpu=gpus,
    conda:
        "../../envs/edit.yaml"
    message:
        "{wildcards.model}: tuning {wildcards.method}"
    script:
        "../scripts/tune.py"


rule sensitivity:
    input:
        model="<study>/{model}/model",
        contexts="<study>/{model}/contexts.json",
        statistics="<study>/{model}/statistics.safetensors",
        spectra=spectra,
        targets=frozen_targets(HELD_OUT),
        requests=held_out(),
        tuned=tuned,
    output:
        trials="<study>/{model}/sensitivity/{method}.csv",
    params:
        sensitivity=STUDY.sensitivity.plain() if STUDY.sensitivity else None,
        hyperparameters=lambda wildcards: MODELS[wildcards.model].hyperparameters(wildcards.method),
        packages=lambda wildcards: WHOLE.packages(wildcards.model, wildcards.method),
        editing=of_model(lambda model: model.edit_settings().plain()),
        batch_size=STUDY.batch_size,
    log:
        "<logs>/{model}/sensitivity/{method}.log",
    benchmark:
        "<benchmarks>/{model}/sensitivity/{method}.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "sensitivity"),
        runtime=planned("runtime", "sensitivity"),
        gpu=gpus,
    conda:
        "../../envs/edit.yaml"
    message:
        "{wildcards.model}: {wildcards.method} over eta and alpha"
    script:
        "../scripts/sensitivity.py"


EDIT_INPUT = {
    "model": "<study>/{model}/model",
    "contexts": "<study>/{model}/contexts.json",
    "statistics": "<study>/{model}/statistics.safetensors",
    "spectra": spectra,
    "targets": frozen_targets(),
    "stream": "<study>/streams/{dataset}/seed{seed}.json",
    "tuned": tuned,
    "previous": previous_state,
}
EDIT_OUTPUT = {
    "state": kept(edited("state.safetensors")),
    "energy": ensure(edited("energy.csv"), non_empty=True),
    "timing": ensure(edited("timing.csv"), non_empty=True),
    "incidents": ensure(edited("incidents.csv"), non_empty=True),
    "cost": ensure(edited("cost.csv"), non_empty=True),
}
EDIT_PARAMS = {
    "hyperparameters": lambda wildcards: MODELS[wildcards.model].hyperparameters(wildcards.method),
    "packages": lambda wildcards: WHOLE.packages(wildcards.model, wildcards.method),
    "editing": of_model(lambda model: model.edit_settings().plain()),
    "batch_size": STUDY.batch_size,
    "energy_every": STUDY.energy_every,
}


if not EDITED_AND_MEASURED:

    rule edit:
        input:
            **EDIT_INPUT,
        output:
            **EDIT_OUTPUT,
        params:
            **EDIT_PARAMS,
        log:
            f"<logs>/{{model}}/{{dataset}}/{{method}}/seed{{seed}}/edit{PART}.log",
        benchmark:
            f"<benchmarks>/{{model}}/{{dataset}}/{{method}}/seed{{seed}}/edit{PART}.tsv"
        threads: 1
        resources:
            mem_mb=planned("mem_mb", "edit", **LAST),
            runtime=planned("runtime", "edit", **LAST),
            gpu=gpus,
        conda:
            "../../envs/edit.yaml"
        message:
            "{wildcards.model}, {wildcards.dataset}, {wildcards.method}, seed {wildcards.seed}: editing to "
            + (f"{STUDY.edits} edits" if WHOLE_STREAMS else "{wildcards.edits} edits")
        script:
            "../scripts/edit.py"
