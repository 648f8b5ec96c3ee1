# Tables, figures and claims from the streams' CSVs, and the report that shows them.
from sphere.report.first_page import first_page


report: "../report/workflow.rst"


FINAL = STUDY.checkpoints[-1:]
SUMMARIES = [
    "editing_summary",
    "editing_records",
    "editing_by_method",
    "energy_summary",
    "general_ability_summary",
    "general_ability_by_method",
    "neutral_summary",
    "neutral_by_method",
    "layer_effects",
    "layer_sets",
    "sensitivity_summary",
    "timing_summary",
    "cost_summary",
    "training",
    "tuning_summary",
    "retention_summary",
    "incidents",
    "skipped_summary",
    "missing",
]
OFFERED = {"caption": "../report/data.rst", "category": "Data"}  # files that the report has for download
FIGURES = captioned("figure")
config["first_page"] = first_page(Path(config["results"]) / STUDY.name, STUDY, MODELS.values())  # for workflow.rst
TABLES = [name for name in captioned("table") if name != "claims"]


localrules:
    report,


rule gather:
    input:
        anchors=expand(
            "<study>/{model}/{dataset}/{anchor}/editing.csv",
            model=MODELS,
            dataset=STUDY.datasets,
            anchor=[PRE_EDITED, IN_CONTEXT] if STUDY.in_context else [PRE_EDITED],
        ),
        streams=over_streams("editing.csv", "energy.csv", "timing.csv", "cost.csv"),
        ability=over_streams("general_ability.csv") if STUDY.tasks else [],
        ability_pre_edited=(
            expand(f"<study>/{{model}}/{PRE_EDITED}/general_ability.csv", model=MODELS) if STUDY.tasks else []
        ),
        neutral=over_streams("neutral.csv") if STUDY.neutral else [],
        neutral_pre_edited=(
            expand(f"<study>/{{model}}/{PRE_EDITED}/neutral.csv", model=MODELS) if STUDY.neutral else []
        ),
        training=expand("<study>/{model}/training.csv", model=WORLD_MODELS),
        skipped=expand(
            "<study>/streams/{dataset}/seed{seed}_skipped.csv",
            dataset=STUDY.datasets,
            seed=STUDY.seeds,
        ),
        located=(
            expand("<study>/{model}/locate/{name}.csv", model=MODELS, name=["effects", "sets"]) if STUDY.locate else []
        ),
        tuning=(
            expand(
                "<study>/{model}/tuning/{method}.csv",
                model=MODELS,
                method=STUDY.methods,
            )
            if STUDY.tuning
            else []
        ),
        sensitivity=(
            expand(
                "<study>/{model}/sensitivity/{method}.csv",
                model=MODELS,
                method=STUDY.sensitivity.method,
            )
            if STUDY.sensitivity
            else []
        ),
    output:
        summaries=[
            report(f"<study>/tables/{name}.csv", labels={"file": f"{name}.csv"}, **OFFERED) for name in SUMMARIES
        ],
        results=report("<study>/results.parquet", labels={"file": "results.parquet"}, **OFFERED),
    params:
        study=STUDY.scope(MODELS),
    log:
        "<logs>/gather.log",
    benchmark:
        "<benchmarks>/gather.tsv"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    conda:
        "../../envs/report.yaml"
    message:
        "Gathering all results"
    script:
        "../scripts/gather.py"


rule explore:
    input:
        results=rules.gather.output.results,
    output:
        page=report(
            "<study>/explore.html",
            caption="../report/explore.rst",
            category="Explore",
            labels={"page": title("explore")},
        ),
    log:
        "<logs>/explore.log",
    benchmark:
        "<benchmarks>/explore.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    conda:
        "../../envs/report.yaml"
    message:
        "Writing the page to explore results on"
    script:
        "../scripts/explore.py"


rule neurons:
    input:
        models=expand("<study>/{model}/model", model=MODELS),
        states=over_streams("state.safetensors", edits=FINAL),
    output:
        cosine=ensure(
            report("<study>/tables/neuron_cosine.csv", labels={"file": "neuron_cosine.csv"}, **OFFERED), non_empty=True
        ),
        sample="<study>/tables/neurons.safetensors",
    params:
        streams=[
            {
                "model": model,
                "dataset": dataset,
                "method": method,
                "seed": seed,
                "edits": edits,
            }
            for model in MODELS
            for dataset in STUDY.datasets
            for method in STUDY.methods
            for seed in STUDY.seeds
            for edits in FINAL
        ],
        load=[model.load_settings() for model in MODELS.values()],
    log:
        "<logs>/neurons.log",
    benchmark:
        "<benchmarks>/neurons.tsv"
    threads: 1
    resources:
        mem_mb=planned("mem_mb", "neurons"),
        runtime=planned("runtime", "neurons"),
    conda:
        "../../envs/edit.yaml"
    message:
        "Comparing neurons before and after editing"
    script:
        "../scripts/neurons.py"


rule tables:
    input:
        summaries=rules.gather.output.summaries,
        published="config/published",
    output:
        [
            report(
                f"<study>/tables/{name}.html",
                caption=caption("table", name),
                category="Tables",
                labels={"table": title("table", name)},
            )
            for name in TABLES
        ],
        [report(f"<study>/tables/{name}.csv", labels={"file": f"{name}.csv"}, **OFFERED) for name in TABLES],
        expand("<study>/tables/{name}.{ext}", name=TABLES, ext=["md", "tex"]),
    params:
        sources=["published"],
    log:
        "<logs>/tables.log",
    benchmark:
        "<benchmarks>/tables.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    conda:
        "../../envs/report.yaml"
    message:
        "Writing tables"
    script:
        "../scripts/tables.py"


rule figures:
    input:
        summaries=rules.gather.output.summaries,
        neurons=rules.neurons.output,
        published="config/published",
    output:
        [
            report(
                f"<study>/figures/{name}.svg",
                caption=caption("figure", name),
                category="Figures",
                labels={"figure": title("figure", name)},
            )
            for name in FIGURES
        ],
        expand("<study>/figures/{name}.{ext}", name=FIGURES, ext=["pdf", "png"]),
    params:
        sources=["published"],
    log:
        "<logs>/figures.log",
    benchmark:
        "<benchmarks>/figures.tsv"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    conda:
        "../../envs/report.yaml"
    message:
        "Drawing figures"
    script:
        "../scripts/figures.py"


rule claims:
    input:
        summaries=rules.gather.output.summaries,
        neurons=rules.neurons.output,
        published="config/published",
    output:
        report(
            "<study>/claims/claims.html",
            caption=caption("table", "claims"),
            category="Claims",
            labels={"table": title("table", "claims")},
        ),
        [
            report(f"<study>/claims/{name}.csv", labels={"file": f"{name}.csv"}, **OFFERED)
            for name in ("claims", "claims_detail")
        ],
        "<study>/claims/claims.md",
    params:
        sources=["published"],
    log:
        "<logs>/claims.log",
    benchmark:
        "<benchmarks>/claims.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    conda:
        "../../envs/report.yaml"
    message:
        "Testing the paper's claims"
    script:
        "../scripts/claims.py"


rule provenance:
    input:
        rules.tables.output,
        rules.figures.output,
        rules.explore.output,
        rules.claims.output,
    output:
        html=report(
            "<study>/provenance.html",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"page": title("provenance")},
        ),
        artefacts=report("<study>/artefacts.csv", labels={"file": "artefacts.csv"}, **OFFERED),
        page="<study>/provenance.md",
    params:
        study=WHOLE.plain(),
        methods=WHOLE.methods_used(),
    log:
        "<logs>/provenance.log",
    benchmark:
        "<benchmarks>/provenance.tsv"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(20),
    conda:
        "../../envs/report.yaml"
    message:
        "Writing down what made the results"
    script:
        "../scripts/provenance.py"


rule report:
    input:
        rules.tables.output,
        rules.figures.output,
        rules.explore.output,
        rules.claims.output,
        rules.provenance.output,
    output:
        html=ensure("<study>/report.html", non_empty=True),
    params:
        snakefile=workflow.main_snakefile,
        stylesheet=Path(workflow.basedir) / "workflow" / "report" / "report.css",
        overrides=[f"{key}={config[key]}" for key in KEYS if key != "machine"],
        unfinished=lambda wildcards, output: str(Path(output.html).with_name(".report.html")),
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(20),
    conda:
        "../../envs/report.yaml"
    message:
        "Writing {output.html}"
    shell:
        "snakemake tables figures explore claims provenance --report {params.unfinished:q} --snakefile {params.snakefile:q} --nolock"
        " --report-stylesheet {params.stylesheet:q} --workflow-profile none --config {params.overrides:q}"
        " > {log:q} 2>&1 && mv {params.unfinished:q} {output.html:q}"
