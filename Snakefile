# Reproduces the SPHERE paper. Which study: config/config.yaml, or --config study=NAME. Every key: config/README.md.
from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/stats.smk"
include: "workflow/rules/locate.smk"
include: "workflow/rules/edit.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/general_ability.smk"
include: "workflow/rules/neutral.smk"
include: "workflow/rules/measure.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


onstart:
    need_partition_and_account()
    keep_to_this_run()


rule all:
    default_target: True
    input:
        rules.tables.output,
        rules.figures.output,
        rules.explore.output,
        rules.claims.output,
        rules.provenance.output,
        rules.report.output,
    message:
        "The study {STUDY.name} is complete"


onsuccess:
    from sphere.report.headlines import headlines

    print(*headlines(Path(config["results"]) / STUDY.name), sep="\n")
