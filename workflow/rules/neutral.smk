# Text that no edit is about: bits a byte, and how far the model has moved on it.
TEXTS_TO_SKIP = 0 if STUDY.neutral and STUDY.neutral.file else STATISTICS_TEXTS
OWN_TEXTS = ["texts"] if STUDY.neutral and STUDY.neutral.file else []


rule neutral_pre_edited:
    input:
        model="<study>/{model}/model",
        texts=neutral_texts,
    output:
        neutral=ensure(f"<study>/{{model}}/{PRE_EDITED}/neutral.csv", non_empty=True),
    params:
        load=of_model(lambda model: model.load_settings()),
        neutral=STUDY.neutral.plain() if STUDY.neutral else None,
        skip=TEXTS_TO_SKIP,
        sources=OWN_TEXTS,
    log:
        f"<logs>/{{model}}/neutral_{PRE_EDITED}.log",
    benchmark:
        f"<benchmarks>/{{model}}/neutral_{PRE_EDITED}.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "neutral_pre_edited", method=PRE_EDITED),
        runtime=planned("runtime", "neutral_pre_edited", method=PRE_EDITED),
        gpu=gpus,
    conda:
        "../../envs/evaluate.yaml"
    message:
        "{wildcards.model}: the unedited model on neutral text"
    script:
        "../scripts/measure.py"


if not WHOLE_STREAMS:

    use rule neutral_pre_edited as neutral with:
        input:
            model="<study>/{model}/model",
            texts=neutral_texts,
            states="<stream>/edits{edits}/state.safetensors",
        output:
            neutral=ensure("<stream>/edits{edits}/neutral.csv", non_empty=True),
        log:
            "<logs>/{model}/{dataset}/{method}/seed{seed}/neutral_edits{edits}.log",
        benchmark:
            "<benchmarks>/{model}/{dataset}/{method}/seed{seed}/neutral_edits{edits}.tsv"
        resources:
            mem_mb=planned("mem_mb", "neutral"),
            runtime=planned("runtime", "neutral"),
            gpu=gpus,
        priority: 1  # before further editing, so that a state goes as soon as it can
        message:
            "{wildcards.model}, {wildcards.dataset}, {wildcards.method}, seed {wildcards.seed}: neutral text"
