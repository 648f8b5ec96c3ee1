# Editing metrics, over all edits made so far.
rule evaluate_pre_edited:
    input:
        model="<study>/{model}/model",
        stream=f"<study>/streams/{{dataset}}/seed{STUDY.seeds[0]}.json",
        references=of_dataset("references", world=["<study>/world/references.json"]),
        word_weights=of_dataset("word_weights.0", "word_weights.1"),
    output:
        editing=ensure(f"<study>/{{model}}/{{dataset}}/{PRE_EDITED}/editing.csv", non_empty=True),
    params:
        load=of_model(lambda model: model.load_settings()),
        generation=STUDY.generation.plain() if STUDY.generation else None,
        records=STUDY.evaluate_records,
        strict=STUDY.strict.plain() if STUDY.strict else None,
        belief=STUDY.belief,
        portability=STUDY.portability,
        sources=own("references", "word_weights"),
    log:
        f"<logs>/{{model}}/{{dataset}}/evaluate_{PRE_EDITED}.log",
    benchmark:
        f"<benchmarks>/{{model}}/{{dataset}}/evaluate_{PRE_EDITED}.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "evaluate_pre_edited", method=PRE_EDITED),
        runtime=planned("runtime", "evaluate_pre_edited", method=PRE_EDITED),
        gpu=gpus,
    conda:
        "../../envs/evaluate.yaml"
    message:
        "{wildcards.model}, {wildcards.dataset}: evaluating the unedited model"
    script:
        "../scripts/measure.py"


use rule evaluate_pre_edited as evaluate_in_context with:
    output:
        editing=ensure(f"<study>/{{model}}/{{dataset}}/{IN_CONTEXT}/editing.csv", non_empty=True),
    log:
        f"<logs>/{{model}}/{{dataset}}/evaluate_{IN_CONTEXT}.log",
    benchmark:
        f"<benchmarks>/{{model}}/{{dataset}}/evaluate_{IN_CONTEXT}.tsv"
    resources:
        mem_mb=planned("mem_mb", "evaluate_in_context", method=IN_CONTEXT),
        runtime=planned("runtime", "evaluate_in_context", method=IN_CONTEXT),
        gpu=gpus,
    message:
        "{wildcards.model}, {wildcards.dataset}: evaluating the unedited model with each new fact in its context"


if not WHOLE_STREAMS:

    use rule evaluate_pre_edited as evaluate with:
        input:
            model="<study>/{model}/model",
            stream="<study>/streams/{dataset}/seed{seed}.json",
            references=of_dataset("references", world=["<study>/world/references.json"]),
            word_weights=of_dataset("word_weights.0", "word_weights.1"),
            states="<stream>/edits{edits}/state.safetensors",
        output:
            editing=ensure("<stream>/edits{edits}/editing.csv", non_empty=True),
        log:
            "<logs>/{model}/{dataset}/{method}/seed{seed}/evaluate_edits{edits}.log",
        benchmark:
            "<benchmarks>/{model}/{dataset}/{method}/seed{seed}/evaluate_edits{edits}.tsv"
        resources:
            mem_mb=planned("mem_mb", "evaluate"),
            runtime=planned("runtime", "evaluate"),
            gpu=gpus,
        priority: 1  # before further editing, so that a state goes as soon as it can
        message:
            "{wildcards.model}, {wildcards.dataset}, {wildcards.method}, seed {wildcards.seed}: evaluating edits"
