# One job for each way in which a job can die on a cluster, with resources as the workflow's own rules have them.
configfile: "config/config.yaml"


include: "../../workflow/rules/common.smk"


rule all:
    input:
        "fails.txt",
        "cancelled.txt",
        "killed_for_time.txt",
        "killed_for_memory.txt",
        "too_long.txt",


# Fails as long as the file `mended` is missing.
rule fails:
    output:
        "fails.txt",
    log:
        "fails.log",
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
        gpu=1,
    shell:
        "echo half > {output}; test -e mended || {{ echo 'the file mended is missing' > {log}; exit 3; }}"


# Takes long enough to be cancelled as long as the file `mended` is missing.
rule cancelled:
    output:
        "cancelled.txt",
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    shell:
        "echo half > {output}; test -e mended || sleep 300"


# Needs more than the minute that the first attempt has.
rule killed_for_time:
    output:
        "killed_for_time.txt",
    resources:
        mem_mb=growing(500),
        runtime=growing(1),
    shell:
        "echo half > {output}; test {resources.runtime} -gt 1 || sleep 300"


# Needs about 700 MiB, more than the first attempt has.
rule killed_for_memory:
    output:
        "killed_for_memory.txt",
    resources:
        mem_mb=growing(600),
        runtime=growing(5),
    shell:
        "echo half > {output}; python -c \"import time; x = b'x' * (700 << 20); time.sleep(5)\""


# Asks for more than the partition gives to anyone.
rule too_long:
    output:
        "too_long.txt",
    resources:
        mem_mb=growing(500),
        runtime=growing(100000),
    shell:
        "echo whole > {output}"
