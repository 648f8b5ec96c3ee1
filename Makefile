# make reproduce   the default study, from nothing to results/smollm2/report.html
# make test        every check
# make docs        these documents and the API as a site: .site/html/index.html
# All make .venv first if it is not there. Afterwards: source .venv/bin/activate; snakemake --cores 2 [target]
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STUDY ?= smollm2
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: reproduce test docs drill lint packages setup reference

# Bars on a terminal, lines in a log.
reproduce: setup
	snakemake --cores all $$(test -t 2 && echo --logger rich) --config study=$(STUDY)

# Three files of tests at a time on two cores, since a third of the time they wait, and one thread a test. They begin in
# this order: those that fill the machine or wait for it first, and the many short ones last, wherever a core is free.
test: lint packages
	OMP_NUM_THREADS=1 pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
		tests/workflow tests/slurm tests/reliability tests/parity tests/unit

# Every fault many times over, and the table of docs/reliability.md.
drill: setup
	SPHERE_DRILL=1 pytest tests/reliability

# Style, types, which wing may import which, and the workflow's format; its lints are in tests/workflow.
lint: setup
	ruff check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow

# TeX, Chromium and SLURM, where they are not there yet.
packages:
	.ci/packages

# What follows from sphere/config/: workflow/schemas/ and the tables of config/README.md.
reference: setup
	python -m sphere.study.config_reference

# Strict: a link that leads nowhere, or a page that is not in the navigation, fails.
docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	rm -rf .site
	mkdir -p .site/pages
	cp --parents -r README.md CONTRIBUTING.md CHANGELOG.md LICENSE config/README.md config/published/README.md docs .site/pages
	mkdocs build

# The stamp is newer than what it was installed from, so that a changed pin installs again.
setup: $(BIN)/.installed

$(BIN)/.installed: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
