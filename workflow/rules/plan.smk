# What the study takes, before it runs: `snakemake --cores 1 plan`. It has no output, so it always runs.
localrules:
    plan,


rule plan:
    params:
        study=str(config["study"]),
        machine=json.dumps(MACHINE.plain()),
        csv=f"{config['results']}/{STUDY.name}/plan.csv",
    log:
        "<logs>/plan.log",
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    conda:
        "../../envs/data.yaml"
    message:
        "Planning {params.study}"
    shell:
        "sphere plan {params.study:q} --machine {params.machine:q} --csv {params.csv:q} 2>&1 | tee {log:q}"
