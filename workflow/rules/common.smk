# The validated study, and the helpers that rules share. Rules see the configuration only through these.
import json
import re
import sys
from pathlib import Path

from sphere.files import occupy
from sphere.config.dataset import CORPUS_TASKS
from sphere.config.model import GgufSource, WorldSource
from sphere.config.names import IN_CONTEXT, PRE_EDITED
from sphere.config.run import RunSettings, load_run
from sphere.study.configuration import load_study
from sphere.errors import InputError
from sphere.plain_yaml import read_yaml
from sphere.study.plan import plan
from sphere.study.plan.costs import ASKED_PARTS, HELD_OUT, TARGETS, target_parts

KEYS = tuple(RunSettings.model_fields)

try:
    for file in workflow.configfiles:  # Snakemake takes a key that stands twice
        if not file.endswith(".json"):
            read_yaml(Path(file))
    RUN = load_run(config)
    WHOLE = load_study(RUN.study, places=RUN.sources)
    MACHINE = RUN.machine
    PLAN = plan(WHOLE, MACHINE)
except InputError as error:
    sys.exit(f"error: {error}")

config.update(RUN.plain())  # with the defaults of what it leaves out
STUDY = WHOLE.study
MODELS = WHOLE.models
FILES = {row.file_name: row for row in WHOLE.sources.values() if row.is_file}
SOURCES = {dataset.source for dataset in STUDY.datasets.values()}
STREAM = "<study>/{model}/{dataset}/{method}/seed{seed}"

# A job edits or measures a whole stream, or one checkpoint of it. A state that is not kept is made again for whatever is
# to be measured of it anew, so that jobs of their own for measuring would save nothing.
WHOLE_STREAMS = STUDY.jobs == "stream"
EDITED_AND_MEASURED = WHOLE_STREAMS and not STUDY.keep_states
PART = "" if WHOLE_STREAMS else "_{edits}"
LAST = {"edits": STUDY.edits} if WHOLE_STREAMS else {}


pathvars:
    results=str(config["results"]),
    study=f"<results>/{STUDY.name}",
    stream=STREAM,
    logs="<study>/logs",
    benchmarks="<study>/benchmarks",


def keep_to_this_run():
    """No other workflow writes this study's results while this one does, from whatever folder it was started."""
    try:
        occupy(Path(config["results"]) / STUDY.name)
    except InputError as error:
        sys.exit(f"error: {error}")
    for name, model in MODELS.items():
        if model.trust_remote_code:
            print(f"warning: models/{name}.yaml: trust_remote_code: its folder's own Python runs here", file=sys.stderr)


def alternatives(names):
    """A regular expression that matches just these names; none of them matches nothing."""
    return "|".join(re.escape(str(name)) for name in names) or "(?!)"


wildcard_constraints:
    model=alternatives(MODELS),
    dataset=alternatives(STUDY.datasets),
    method=alternatives(STUDY.methods),
    seed=alternatives(STUDY.seeds),
    edits=alternatives(STUDY.checkpoints),
    file=alternatives(FILES),
    item=alternatives(name for name, row in WHOLE.sources.items() if row.kind == "dataset"),


def of_model(get):
    """A function of the wildcards: ``get`` of the settings of the job's model."""
    return lambda wildcards: get(MODELS[wildcards.model])


def growing(amount):
    """A resource that grows by ``amount`` with each attempt."""
    return lambda wildcards, attempt: amount * attempt


def planned(resource, rule, **fixed):
    """A resource that the plan expects a job to need, growing by as much again with each attempt.

    ``fixed`` stands for what the plan tells jobs apart by and the rule has no wildcard for.
    """

    def asked(wildcards, attempt):
        told = {key: value for key, value in wildcards.items() if key in ("model", "dataset", "method")}
        if "edits" in wildcards.keys():
            told["edits"] = int(wildcards.edits)
        return getattr(PLAN.asks(rule, **told | fixed), resource) * attempt

    return asked


def gpus(wildcards):
    return MODELS[wildcards.model].resources.gpu


def downloaded(name):
    """The file, or folder of a dataset, that a row of sources.tsv becomes."""
    return f"<results>/downloads/{WHOLE.sources[name].file_name}"


def of_dataset(*keys, world=(), facts=()):
    """A function of the wildcards: the files that the job's dataset has under ``keys``, the ``world``'s or the ``facts``'."""

    def find(wildcards):
        dataset = STUDY.datasets[wildcards.dataset]
        made = {"world": world, "facts": facts}
        if dataset.source in made:
            return [path.format(**wildcards) for path in made[dataset.source]]
        found = [dataset.files[key] for key in keys if key in dataset.files]
        return found if dataset.source == "path" else [downloaded(name) for name in found]

    return find


def sourced(row):
    """A row of sources.tsv as a job sees it; its note is for people."""
    return row.model_dump(mode="json", exclude={"note"})


def own(*names):
    """Those of a rule's inputs that are a user's own files where the job's dataset is one; see sphere.job."""
    return lambda wildcards: (list(names) if STUDY.datasets[wildcards.dataset].source == "path" else [])


# the text behind <study>/corpus.txt: a download's, or the user's own
CORPUS_FILE = (str(STUDY.corpus.path or downloaded(STUDY.corpus.item))) if STUDY.corpus else []
OWN_CORPUS = ["file"] if STUDY.corpus and STUDY.corpus.path else []


def statistics_corpus(wildcards):
    """The text that key statistics are taken from."""
    return "<study>/corpus.txt" if STUDY.corpus else "<study>/world/corpus.txt"


STATISTICS_TEXTS = max(model.statistics.documents for model in MODELS.values())  # at most so many, from the start


# behind them those of neutral text, where they are the corpus's
CORPUS_TEXTS = STATISTICS_TEXTS + (STUDY.neutral.passages if STUDY.neutral and not STUDY.neutral.file else 0)


def neutral_texts(wildcards):
    """The text that drift is measured on: the user's, or the corpus."""
    own = STUDY.neutral.file if STUDY.neutral else None
    return str(own) if own else statistics_corpus(wildcards)


def previous_state(wildcards):
    """The state a job's edits start from: that of the checkpoint before, or none at the stream's start."""
    if WHOLE_STREAMS:
        return []
    index = STUDY.checkpoints.index(int(wildcards.edits))
    return f"<stream>/edits{STUDY.checkpoints[index - 1]}/state.safetensors" if index else []


def kept(path):
    """``path``, to be removed once every job that needs it is done, if the study keeps no states."""
    return path if STUDY.keep_states else temp(path)


def held_out():
    """The records that tuning edits: the world's, or else of the facts that the model knows."""
    return f"<study>/{'world' if STUDY.world else 'facts'}/tuning_counterfact.json"


def tuned(wildcards):
    """The hyperparameters that tuning chose for the job's method, or none."""
    return "<study>/{model}/tuning/{method}.json" if STUDY.tuning else []


def spectra(wildcards):
    """The decompositions of the unedited model that the job's method reads."""
    method = WHOLE.method(wildcards.model, wildcards.method)
    return [f"<study>/{{model}}/{name}.safetensors" for name in method.spectra]


PARTS = target_parts(STUDY)
ASKED = range(ASKED_PARTS)


def requests_of(dataset):
    """The records that target values are found for: of all streams of a dataset, or those that tuning edits."""
    if dataset == HELD_OUT:
        return [held_out()]
    return [f"<study>/streams/{dataset}/seed{seed}.json" for seed in STUDY.seeds]


def frozen_targets(dataset=None):
    """A function of the wildcards: the target values that the job's method reads, where they are the unedited model's."""

    def find(wildcards):
        model, method = MODELS[wildcards.model], WHOLE.method(wildcards.model, wildcards.method)
        if not method.shares_targets(model.values):
            return []
        chosen = dataset or wildcards.dataset
        return expand(f"<study>/{wildcards.model}/targets/{chosen}/part{{part}}.safetensors", part=range(PARTS[chosen]))

    return find


def of_checkpoints(name):
    """The files called ``name`` of all checkpoints of a stream."""
    return expand(f"{STREAM}/edits{{edits}}/{name}", edits=STUDY.checkpoints, allow_missing=True)


def edited(name):
    """The files called ``name`` that one job of editing makes."""
    return of_checkpoints(name) if WHOLE_STREAMS else f"{STREAM}/edits{{edits}}/{name}"


def measurements():
    """What a job measures of each checkpoint: name of the output -> file."""
    found = {"editing": "editing.csv"}
    if STUDY.tasks:
        found["ability"] = "general_ability.csv"
    if STUDY.neutral:
        found["neutral"] = "neutral.csv"
    return found


def over_streams(*names, edits=STUDY.checkpoints):
    """The files called ``names`` of every model, dataset, method, seed and checkpoint of the study."""
    return expand(
        f"{STREAM}/edits{{edits}}/{{name}}",
        name=names,
        model=MODELS,
        dataset=STUDY.datasets,
        method=STUDY.methods,
        seed=STUDY.seeds,
        edits=edits,
    )


def caption(kind, name):
    """The caption beside a figure or table in the report."""
    return f"../report/{kind}_{name}.rst"


def title(*name):
    """The title of a caption, its first line: ``title("figure", "training")``, ``title("provenance")``."""
    path = Path(workflow.basedir) / "workflow" / "report" / f"{'_'.join(name)}.rst"
    return path.read_text(encoding="utf-8").splitlines()[0]


def captioned(kind):
    """The names of all figures or tables: each has a caption."""
    folder = Path(workflow.basedir) / "workflow" / "report"
    return sorted(path.stem.removeprefix(f"{kind}_") for path in folder.glob(f"{kind}_*.rst"))


def need_partition_and_account():
    """Stop with one line if the slurm profile is still as it came, without a site's partition and account."""
    defaults = workflow.resource_settings.default_resources
    unset = [each.split("=")[0] for each in (defaults.args if defaults else []) if each.endswith("=CHANGE_ME")]
    if unset:
        sys.exit(f"error: profiles/slurm/profile.yaml: set {' and '.join(unset)} to yours; see docs/slurm.md")
