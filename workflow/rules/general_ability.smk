# General ability by lm-evaluation-harness, whose data are fetched before: these jobs need no network.
MADE_TASKS = [f"<study>/{made}/tasks" for made in ("world", "facts") if getattr(STUDY, made) is not None]
MADE_TASKS += ["<study>/corpus/tasks"] if STUDY.tasks and set(CORPUS_TASKS) & set(STUDY.tasks.names) else []
OWN_TASKS = [str(WHOLE.root / "tasks" / f"{name}.yaml") for name in WHOLE.task_files]
OWN_TASKS += map(str, WHOLE.outside_tasks.values())
TASK_DATA = WHOLE.task_data()


rule ability_pre_edited:
    input:
        model="<study>/{model}/model",
        tasks=MADE_TASKS,
        own_tasks=OWN_TASKS,
        data=[downloaded(row.name) for row in TASK_DATA.values()],
    output:
        ability=ensure(f"<study>/{{model}}/{PRE_EDITED}/general_ability.csv", non_empty=True),
    params:
        load=of_model(lambda model: model.load_settings()),
        tasks=STUDY.tasks.plain() if STUDY.tasks else None,
        data=[(task, row.subset) for task, row in TASK_DATA.items()],
        sources=["own_tasks"],
    log:
        f"<logs>/{{model}}/ability_{PRE_EDITED}.log",
    benchmark:
        f"<benchmarks>/{{model}}/ability_{PRE_EDITED}.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "ability_pre_edited", method=PRE_EDITED),
        runtime=planned("runtime", "ability_pre_edited", method=PRE_EDITED),
        gpu=gpus,
    conda:
        "../../envs/evaluate.yaml"
    message:
        "{wildcards.model}: general ability of the unedited model"
    script:
        "../scripts/measure.py"


if not WHOLE_STREAMS:

    use rule ability_pre_edited as ability with:
        input:
            model="<study>/{model}/model",
            tasks=MADE_TASKS,
            own_tasks=OWN_TASKS,
            data=[downloaded(row.name) for row in TASK_DATA.values()],
            states="<stream>/edits{edits}/state.safetensors",
        output:
            ability=ensure("<stream>/edits{edits}/general_ability.csv", non_empty=True),
        log:
            "<logs>/{model}/{dataset}/{method}/seed{seed}/ability_edits{edits}.log",
        benchmark:
            "<benchmarks>/{model}/{dataset}/{method}/seed{seed}/ability_edits{edits}.tsv"
        resources:
            mem_mb=planned("mem_mb", "ability"),
            runtime=planned("runtime", "ability"),
            gpu=gpus,
        priority: 1  # before further editing, so that a state goes as soon as it can
        message:
            "{wildcards.model}, {wildcards.dataset}, {wildcards.method}, seed {wildcards.seed}: general ability"
