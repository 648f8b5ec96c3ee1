# Everything that is measured of a stream's checkpoints in one job: small models, whose start takes longer than their work.
# Where no state is kept, the same job edits the stream before.
MEASURE_INPUT = {
    "model": "<study>/{model}/model",
    "stream": "<study>/streams/{dataset}/seed{seed}.json",
    "references": of_dataset("references", world=["<study>/world/references.json"]),
    "word_weights": of_dataset("word_weights.0", "word_weights.1"),
    "tasks": MADE_TASKS if STUDY.tasks else [],
    "own_tasks": OWN_TASKS if STUDY.tasks else [],
    "data": [downloaded(row.name) for row in TASK_DATA.values()] if STUDY.tasks else [],
    "texts": neutral_texts if STUDY.neutral else [],
}
MEASURE_OUTPUT = {name: ensure(of_checkpoints(file), non_empty=True) for name, file in measurements().items()}
MEASURE_PARAMS = {
    "load": of_model(lambda model: model.load_settings()),
    "generation": STUDY.generation.plain() if STUDY.generation else None,
    "records": STUDY.evaluate_records,
    "strict": STUDY.strict.plain() if STUDY.strict else None,
    "belief": STUDY.belief,
    "portability": STUDY.portability,
    "tasks": STUDY.tasks.plain() if STUDY.tasks else None,
    "data": [(task, row.subset) for task, row in TASK_DATA.items()],
    "neutral": STUDY.neutral.plain() if STUDY.neutral else None,
    "skip": TEXTS_TO_SKIP,
    "sources": lambda wildcards: [*own("references", "word_weights")(wildcards), "own_tasks", *OWN_TEXTS],
}


if EDITED_AND_MEASURED:

    rule edit_and_measure:
        input:
            **EDIT_INPUT | MEASURE_INPUT,
        output:
            **EDIT_OUTPUT | MEASURE_OUTPUT,
        params:
            **EDIT_PARAMS | MEASURE_PARAMS,
        log:
            "<logs>/{model}/{dataset}/{method}/seed{seed}/edit_and_measure.log",
        benchmark:
            "<benchmarks>/{model}/{dataset}/{method}/seed{seed}/edit_and_measure.tsv"
        threads: 1
        resources:
            mem_mb=planned("mem_mb", "edit_and_measure", **LAST),
            runtime=planned("runtime", "edit_and_measure", **LAST),
            gpu=gpus,
        conda:
            "../../envs/evaluate.yaml"
        message:
            "{wildcards.model}, {wildcards.dataset}, {wildcards.method}, seed {wildcards.seed}: editing to "
            + f"{STUDY.edits} edits and measuring them"
        script:
            "../scripts/edit_and_measure.py"

elif WHOLE_STREAMS:

    rule measure:
        input:
            **MEASURE_INPUT,
            states=of_checkpoints("state.safetensors"),
        output:
            **MEASURE_OUTPUT,
        params:
            **MEASURE_PARAMS,
        log:
            "<logs>/{model}/{dataset}/{method}/seed{seed}/measure.log",
        benchmark:
            "<benchmarks>/{model}/{dataset}/{method}/seed{seed}/measure.tsv"
        threads: 1
        resources:
            mem_mb=planned("mem_mb", "measure", **LAST),
            runtime=planned("runtime", "measure", **LAST),
            gpu=gpus,
        conda:
            "../../envs/evaluate.yaml"
        priority: 1  # before further editing
        message:
            "{wildcards.model}, {wildcards.dataset}, {wildcards.method}, seed {wildcards.seed}: measuring its checkpoints"
        script:
            "../scripts/measure.py"
