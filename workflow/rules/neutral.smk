# Text that no edit is about: bits a byte, and how far the model has moved on it.
rule neutral_pre_edited:
    input:
        model="<study>/{model}/model",
        texts=neutral_texts,
    output:
        neutral=ensure(f"<study>/{{model}}/{PRE_EDITED}/neutral.csv", non_empty=True),
    params:
        load=of_model(lambda model: model.load_settings()),
        neutral=STUDY.neutral.plain() if STUDY.neutral else None,
        skip=0 if STUDY.neutral and STUDY.neutral.file else STATISTICS_TEXTS,
        sources=["texts"] if STUDY.neutral and STUDY.neutral.file else [],
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
        "../scripts/neutral.py"


use rule neutral_pre_edited as neutral with:
    input:
        model="<study>/{model}/model",
        texts=neutral_texts,
        states=evaluated("state.safetensors"),
    output:
        neutral=ensure(evaluated("neutral.csv"), non_empty=True),
    log:
        f"<logs>/{{model}}/{{dataset}}/{{method}}/seed{{seed}}/neutral_{EVALUATION}.log",
    benchmark:
        f"<benchmarks>/{{model}}/{{dataset}}/{{method}}/seed{{seed}}/neutral_{EVALUATION}.tsv"
    resources:
        mem_mb=planned("mem_mb", "neutral", **LAST),
        runtime=planned("runtime", "neutral", **LAST),
        gpu=gpus,
    priority: 1  # before further editing, so that a state goes as soon as it can
    message:
        "{wildcards.model}, {wildcards.dataset}, {wildcards.method}, seed {wildcards.seed}: neutral text"
