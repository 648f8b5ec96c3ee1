"""What a study takes, before it runs: jobs, memory of GPU and host, time, disk. From shapes alone; no torch import.

``shapes`` has a model's dimensions, ``footprint`` counts bytes and ``durations`` estimates seconds, ``costs`` has what
each kind of job takes. Downloads, streams, tables, figures and the report take minutes of one core and no GPU, and are
left out.

``plan`` counts, ``Plan.problems`` says what cannot fit and what would, ``Plan.table`` is what ``sphere plan`` prints,
``Plan.asks`` what a job asks of a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import ceil
from typing import Any

import pandas as pd

from sphere.config.machine import MachineSettings
from sphere.config.model import ComputeSettings
from sphere.editing.methods import resolve
from sphere.study.configuration import Study
from sphere.study.plan.costs import DOCUMENT, GIB, PYTHON, Costs
from sphere.study.plan.jobs import CHARACTERS, START, Job
from sphere.study.plan.shapes import BYTES


def jobs_of(study: Study, machine: MachineSettings) -> list[Job]:
    """Every job of ``study`` that is worth counting. Raises InputError where a model's file has no shape."""
    whole, found = study.study, list[Job]()
    seeds = len(whole.seeds)
    for name, model in study.models.items():
        costs = Costs(model, study, machine)
        methods = {each: resolve(each, hyperparameters=model.hyperparameters(each)) for each in whole.methods}
        found += costs.preparations()
        found += costs.locating(study)
        for each, method in methods.items():
            found += costs.tuning(method, each)
        for dataset in whole.datasets:
            found.append(costs.pre_edited(dataset))
            if whole.in_context:
                found.append(costs.in_context(dataset))
        if whole.tasks is not None:
            found.append(costs.ability_pre_edited())
        if whole.neutral is not None:
            found.append(costs.neutral_pre_edited())
        for each, method in methods.items():
            for dataset in whole.datasets:
                found += costs.edited(method, each, dataset, seeds)
        assert name == model.name
    if whole.corpus is not None:
        longest = max(study.models.values(), key=lambda model: model.statistics.documents)
        held_out = whole.neutral.passages if whole.neutral and not whole.neutral.file else 0
        text = (longest.statistics.documents + held_out) * DOCUMENT * CHARACTERS
        found.append(Job("extract_corpus", "", host=PYTHON[False], written=text))
    found.append(_neurons(found, study, machine))
    return found


def _neurons(jobs: Sequence[Job], study: Study, machine: MachineSettings) -> Job:
    """The comparison of all last states with their models, on one core: bound by reading."""
    last = [job for job in jobs if job.rule in EDITING and job.edits == study.study.edits]
    models = [Costs(model, study, machine) for model in study.models.values()]
    folders = [costs.bytes.folder for costs in models]
    weights = [
        costs.bytes.evaluated_weights(resolve(each, hyperparameters=costs.model.hyperparameters(each)))
        for costs in models
        for each in study.study.methods
    ]
    read = sum(folders) + 2 * sum(job.written * job.count for job in last)
    host = PYTHON[False] + max(folders) + max(weights)
    return Job("neurons", "", host=host, seconds=START + 2 * read / (machine.read * 1e9))


EDITING = ("edit", "edit_and_measure")
"""Rules that edit a stream."""
LEAST_MINUTES = 10


@dataclass(frozen=True)
class Asked:
    """What a job asks of a cluster."""

    mem_mb: int
    runtime: int
    """Minutes."""
    gpu: int


@dataclass(frozen=True)
class Plan:
    """A study's jobs on a machine."""

    study: Study
    machine: MachineSettings
    jobs: list[Job]

    @cached_property
    def _found(self) -> dict[tuple[str, str, str, str, int], Job]:
        return {(job.rule, job.model, job.dataset, job.method, job.edits): job for job in self.jobs}

    @cached_property
    def kept(self) -> float:
        """Bytes on disk once all is done."""
        return sum(job.written * job.count for job in self.jobs if not job.temporary)

    @cached_property
    def peak(self) -> float:
        """Most bytes on disk, whatever runs when: every temporary state is there at once."""
        return sum(job.written * job.count for job in self.jobs)

    @cached_property
    def peak_in_turn(self) -> float:
        """Most bytes on disk where one job edits or evaluates at a time.

        Evaluation goes before further editing (the rules' priority), so a stream has its newest state alone, beside the
        one being written. A study with jobs of whole streams needs all their states.
        """
        states = [job for job in self.jobs if job.temporary]
        if not states or self.study.study.jobs == "stream":
            return self.peak
        key = lambda job: (job.model, job.dataset, job.method)  # noqa: E731 (of a sort)
        newest = sum(
            max(job.written * job.count for job in stream) for _, stream in groupby(sorted(states, key=key), key)
        )
        return self.kept + newest + max(job.written for job in states)

    @property
    def gpu_hours(self) -> float:
        return sum(job.seconds * job.count for job in self.jobs if job.gpu_least) / 3600

    def job(self, rule: str, *, model: str = "", dataset: str = "", method: str = "", edits: int = 0) -> Job:
        """The jobs of ``rule`` with these wildcards; ``edits`` of a job of a whole stream is its last."""
        return self._found[rule, model, dataset, method, edits]

    def asks(self, rule: str, **wildcards: Any) -> Asked:
        """What a job asks of a cluster at its first attempt: its model's ``resources``, or else what is expected of it.

        ``wildcards`` are as of ``job``. Times are in minutes, and short ones rounded up to ``LEAST_MINUTES``: what a
        job takes to start, and a slow disk, are no part of an estimate.
        """
        return self._asked(self.job(rule, **wildcards))

    def _asked(self, job: Job) -> Asked:
        margin = self.machine
        own = self.study.models[job.model].resources if job.model else ComputeSettings()
        memory = ceil(job.host * margin.memory_margin / 2**20 / 100) * 100
        minutes = max(LEAST_MINUTES, ceil(job.seconds * margin.time_margin / 60))
        return Asked(own.mem_mb or memory, own.runtime or minutes, own.gpu if job.gpu_least else 0)

    def problems(self) -> list[str]:
        """One line for each thing that cannot fit this machine: where, how much, and what would make it fit."""
        lines, limit = [], self.machine.gpu_memory * GIB
        for model, jobs in groupby(sorted(self.jobs, key=lambda job: job.model), lambda job: job.model):
            over = max(jobs, key=lambda job: job.gpu_least)
            if over.gpu_least > limit:
                lines.append(
                    f"{model}: {over.rule} {over.method}".rstrip()
                    + f" needs {over.gpu_least / GIB:.1f} GiB of GPU memory even with micro-batches of one request, "
                    f"the GPU has {self.machine.gpu_memory:g}: {self._gpu_remedy(model)}"
                )
        room = self.machine.disk * GIB
        if self.peak_in_turn > room:
            lines.append(
                f"{self.study.study.name}: results need {self.peak_in_turn / GIB:.0f} GiB of disk, there are "
                f"{self.machine.disk:g}: {self._disk_remedy()}"
            )
        return lines

    def notes(self) -> list[str]:
        """What to know that stops nothing."""
        lines = []
        limit = self.machine.gpu_memory * GIB
        shrunk = sorted({job.model for job in self.jobs if job.gpu_most > limit >= job.gpu_least})
        if shrunk:
            lines.append(f"Micro-batches will be halved to fit the GPU: {', '.join(shrunk)}.")
        if self.peak > self.machine.disk * GIB >= self.peak_in_turn:
            lines.append("The disk holds the states only if evaluation keeps pace: give --jobs a few at a time.")
        for name, model in self.study.models.items():
            own = [job for job in self.jobs if job.model == name and job.rule not in ("fetch_model",)]
            host, longest = max(job.host for job in own), max(own, key=lambda job: job.seconds)
            if model.resources.mem_mb is not None and host > model.resources.mem_mb * 2**20:
                lines.append(f"models/{name}.yaml: resources.mem_mb: {ceil(host / 2**20)} expected; it asks for less.")
            if model.resources.runtime is not None and longest.seconds > model.resources.runtime * 60:
                minutes = ceil(longest.seconds / 60)
                lines.append(
                    f"models/{name}.yaml: resources.runtime: {longest.rule} {longest.method} is expected to take "
                    f"{minutes} minutes; it asks for less."
                )
        return lines

    def _with(self, **changes: Mapping[str, Any]) -> Plan:
        """The plan after changes to settings: ``study={...}`` or ``MODEL={...}``."""
        models = {
            name: model.model_copy(update=dict(changes.get(name, {}))) for name, model in self.study.models.items()
        }
        whole = self.study.study.model_copy(update=dict(changes.get("study", {})))
        study = self.study.model_copy(update={"study": whole, "models": models})
        return replace(self, study=study, jobs=jobs_of(study, self.machine))

    def _gpu_remedy(self, name: str) -> str:
        """The smallest change of models/NAME.yaml that fits, or the GPU that would do."""
        model = self.study.models[name]
        precisions = [model.dtype or "float32"]
        if BYTES[precisions[0]] > 2:
            precisions.append("bfloat16")
        for count in range(len(model.layers), 0, -1):
            for dtype in precisions:
                layers = model.layers[-count:]
                changed = self._with(**{name: {"dtype": dtype, "layers": layers}})
                needed = max(job.gpu_least for job in changed.jobs if job.model == name) / GIB
                if needed <= self.machine.gpu_memory:
                    said = [f"dtype: {dtype}"] if dtype != precisions[0] else []
                    said += [f"layers: {list(layers)}"] if count < len(model.layers) else []
                    return f"{' and '.join(said)} in models/{name}.yaml would fit ({needed:.1f} GiB)"
        worst = max(job.gpu_least for job in self.jobs if job.model == name) / GIB
        return f"no precision and no choice of layers fits, take a GPU of {ceil(worst)} GiB or a smaller model"

    def _disk_remedy(self) -> str:
        whole = self.study.study
        if whole.keep_states:
            changed = self._with(study={"keep_states": False})
            if changed.peak_in_turn <= self.machine.disk * GIB:
                return f"keep_states: false would fit ({changed.peak_in_turn / GIB:.0f} GiB)"
        for count in range(len(whole.methods) - 1, 0, -1):
            changed = self._with(study={"methods": whole.methods[:count], "keep_states": False})
            if changed.peak_in_turn <= self.machine.disk * GIB:
                needed = f"{changed.peak_in_turn / GIB:.0f} GiB"
                return f"studies of {count} methods with keep_states: false would fit ({needed})"
        return f"free {ceil(self.peak_in_turn / GIB)} GiB, or edit fewer layers or models in one study"

    def summary(self) -> str:
        """Disk and time of the whole study, a line each."""
        room = f"{self.kept / GIB:.0f} GiB of disk once all is done"
        if self.peak > self.kept:
            room += (
                f", {self.peak_in_turn / GIB:.0f} GiB on the way on one GPU, at most {self.peak / GIB:.0f} GiB where "
                "all streams run at once"
            )
        hours = sum(job.seconds * job.count for job in self.jobs) / 3600
        spent = f"{self.gpu_hours:.0f} GPU hours" if self.gpu_hours else f"{hours:.1f} hours of one job at a time"
        temporary = "\n* removed once continued from and evaluated" if any(job.temporary for job in self.jobs) else ""
        return f"{room}.{temporary}\nAbout {spent}, estimated at {self._rates()}."

    def _rates(self) -> str:
        m = self.machine
        if not self.gpu_hours:
            return f"{m.cpu_tflops:g} TFLOPS of the CPU"
        return f"{m.tflops:g} TFLOPS (half precision), {m.tflops_float32:g} (float32), {m.tflops_float64:g} (float64)"

    def table(self) -> pd.DataFrame:
        """One row a class of jobs, in the order of a study; the columns of plan.csv.

        A class is a rule and a model, and, where methods differ much (tuning and editing), a method.
        """
        rows = []
        classes: dict[tuple[str, str, str], list[Job]] = {}
        for job in self.jobs:
            method = job.method if job.rule in ("tune", "sensitivity", *EDITING) else ""
            classes.setdefault((job.rule, job.model, method), []).append(job)
        models = [*self.study.models, ""]
        order = sorted(classes.items(), key=lambda item: (models.index(item[0][1]), RULES.index(item[0][0])))
        for (rule, model, method), jobs in order:
            asked = [self._asked(job) for job in jobs if rule not in ("extract_corpus", "fetch_model")]
            rows.append(
                {
                    "rule": rule,
                    "model": model,
                    "method": method,
                    "jobs": sum(job.count for job in jobs),
                    "gpu_gib_least": max(job.gpu_least for job in jobs) / GIB,
                    "gpu_gib_most": max(job.gpu_most for job in jobs) / GIB,
                    "host_gib": max(job.host for job in jobs) / GIB,
                    "longest_hours": max(job.seconds for job in jobs) / 3600,
                    "hours": sum(job.seconds * job.count for job in jobs) / 3600,
                    "disk_gib": sum(job.written * job.count for job in jobs) / GIB,
                    "temporary": all(job.temporary for job in jobs),
                    "mem_mb": max((each.mem_mb for each in asked), default=None),
                    "runtime": max((each.runtime for each in asked), default=None),
                }
            )
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"mem_mb": "Int64", "runtime": "Int64"})


RULES = (
    *("extract_corpus", "fetch_model", "convert_gguf", "train_model", "known_facts", "contexts", "statistics"),
    *("null_space", "directions", "targets", "locate", "tune", "sensitivity", "edit", "edit_and_measure"),
    *("evaluate_pre_edited", "evaluate_in_context", "evaluate", "ability_pre_edited", "ability"),
    *("neutral_pre_edited", "neutral", "measure", "neurons"),
)
"""Rules that are counted, in the order of a study."""
COLUMNS = (
    *("rule", "model", "method", "jobs", "gpu_gib_least", "gpu_gib_most", "host_gib"),
    *("longest_hours", "hours", "disk_gib", "temporary", "mem_mb", "runtime"),
)


def plan(study: Study, machine: MachineSettings | None = None) -> Plan:
    """The plan of ``study`` on ``machine``."""
    machine = machine or MachineSettings()
    return Plan(study, machine, jobs_of(study, machine))
