"""What a study takes, before it runs: jobs, memory of GPU and host, time, disk. From shapes alone; no torch import.

Memory and disk follow from the shapes of what the code holds and writes, so they are counts, with an allowance for the
CUDA context and for fragmentation. Time is an estimate: operations and bytes over the rates of ``MachineSettings``,
with texts as long as CounterFact's and zsRE's are on average. Downloads, streams, tables, figures and the report take
minutes of one core and no GPU, and are left out.

``plan`` counts, ``Plan.problems`` says what cannot fit and what would, ``Plan.table`` is what ``sphere plan`` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd

from sphere.artifacts import read_json
from sphere.batching import DEFAULT_TOKEN_BUDGET
from sphere.config import HubSource, MachineSettings, ModelConfig, ShapeSettings, Study, WorldSource
from sphere.errors import InputError
from sphere.methods import Method, resolve
from sphere.solvers.base import ClosedFormSolver
from sphere.solvers.ft import FineTuning
from sphere.solvers.rome import Rome

GIB = 2**30
TERA = 1e12
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
CONTEXT = 1.0 * GIB
"""GPU memory of the CUDA context and of the linear-algebra libraries' workspaces."""
FRAGMENTATION = 1.05
"""GPU memory that the allocator keeps, over what is in use."""
PYTHON = {True: 4.0 * GIB, False: 0.7 * GIB}
"""Host memory of the process with its libraries, with a GPU and without."""
START = 30.0
"""Seconds a job takes to start."""
PASS = 0.02
"""Seconds a forward pass takes at least, however small: launching its kernels."""
EIGEN = 40
"""Operations of a symmetric eigendecomposition over n^3: about 9, at a fifth or so of a matrix product's speed."""
DOCUMENT = 1000
"""Tokens of a document of the corpus (an English Wikipedia article), where ``max_length`` does not cut it."""
CHARACTERS = 4
"""Bytes of text a token."""
ABILITY = {"rows": 16, "prompt": 500, "generated": 256}
"""Rows in a batch, and tokens of an item, of the general-ability tasks."""


@dataclass(frozen=True)
class Texts:
    """Mean lengths of a dataset's texts in tokens, at ``CHARACTERS`` a token, from 1,000 records of each."""

    prompt: int
    tail: int
    """From the subject's last token to the end of the target."""
    target: int
    scored: int
    """All that teacher forcing reads for one record."""
    generations: int
    """Generation prompts of a record."""


COUNTERFACT = Texts(prompt=8, tail=7, target=2, scored=304, generations=10)
ZSRE = Texts(prompt=11, tail=6, target=3, scored=46, generations=0)


def texts_of(dataset: str) -> Texts:
    """The lengths of a dataset, told from its name as its family of metrics is."""
    return ZSRE if dataset.casefold().startswith("zsre") else COUNTERFACT


@dataclass(frozen=True)
class Sizes:
    """Counts of numbers that follow from a model's dimensions and precision."""

    shape: ShapeSettings
    dtype: str

    @property
    def bytes(self) -> int:
        """Of one number of the model."""
        return BYTES[self.dtype]

    @property
    def wide(self) -> int:
        """Bytes of one number of an edited layer: float32 or wider."""
        return max(4, self.bytes)

    @property
    def weight(self) -> int:
        """The edited matrix of a layer, d_out x d_in."""
        return self.shape.width * self.shape.inner

    @property
    def moment(self) -> int:
        """A matrix over keys, d_in x d_in."""
        return self.shape.inner**2

    @property
    def heads(self) -> int:
        """Width of all query heads together."""
        return self.shape.heads * (self.shape.head_dim or self.shape.width // self.shape.heads)

    @property
    def layer(self) -> int:
        """Parameters of a layer: the matrices. Biases and norms are less than a thousandth."""
        shared = (self.shape.kv_heads or self.shape.heads) / self.shape.heads
        attention = 2 * self.shape.width * self.heads * (1 + shared)
        return round(attention) + (3 if self.shape.gated else 2) * self.weight

    @property
    def head(self) -> int:
        return self.shape.vocabulary * self.shape.width

    @property
    def parameters(self) -> int:
        """Of the whole model, to within two thousandths."""
        return (1 if self.shape.tied else 2) * self.head + self.shape.depth * self.layer

    @property
    def saved(self) -> int:
        """Bytes that backpropagation through one frozen layer keeps of one token, at most.

        The float32 copies in the two norms, queries, keys, values (of prefix and tail) and outputs of the attention,
        and inside the MLP four numbers an inner unit.
        """
        return 16 * self.shape.width + self.bytes * (8 * self.heads + 4 * self.shape.inner)

    @property
    def passed(self) -> int:
        """Bytes that a forward pass without gradients holds of one token, at most."""
        return self.bytes * (8 * self.shape.width + 4 * self.shape.inner)

    @property
    def cached(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        shared = (self.shape.kv_heads or self.shape.heads) / self.shape.heads
        return round(2 * self.bytes * self.shape.depth * self.heads * shared)


@dataclass(frozen=True)
class Job:
    """Jobs that differ in nothing but the seed. Sizes in bytes."""

    rule: str
    model: str
    dataset: str = ""
    method: str = ""
    edits: int = 0
    count: int = 1
    gpu_least: float = 0
    """GPU memory with micro-batches of one request; 0 without a GPU."""
    gpu_most: float = 0
    """GPU memory with full micro-batches, which an out-of-memory error halves."""
    host: float = 0
    """Main memory."""
    seconds: float = 0
    written: float = 0
    """What one job leaves on disk."""
    temporary: bool = False
    """Whether that is removed once it was continued from and evaluated."""


class Costs:
    """What every kind of job on one model takes."""

    def __init__(self, model: ModelConfig, study: Study, machine: MachineSettings) -> None:
        self.model, self.study, self.machine = model, study.study, machine
        self.sizes = Sizes(shape_of(model), model.dtype or "float32")
        self.layers = study.layers_with_statistics(model)
        self.gpu = model.resources.gpu > 0
        self.contexts = model.contexts.count + 1

    # -------------------------------------------------------------------------------------------- disk

    @property
    def folder(self) -> float:
        """The model folder; what the hub has is taken to be in the model's precision."""
        return self.sizes.parameters * self.sizes.bytes

    @property
    def statistics_file(self) -> float:
        return len(self.layers) * 8 * (self.sizes.moment + self.model.statistics.probe_keys * self.sizes.shape.inner)

    @property
    def null_space_file(self) -> float:
        return len(self.layers) * 8 * self.sizes.moment

    @property
    def directions_file(self) -> float:
        return len(self.layers) * 8 * self.sizes.shape.inner * min(self.sizes.shape.width, self.sizes.shape.inner)

    def state_file(self, method: Method) -> float:
        """Edited weights, for PRUNE those the next batch starts from too, and the sum of the keys' products."""
        copies = 2 if _restrains(method) else 1
        past = 8 * self.sizes.moment if _accumulates(method) else 0
        return len(method.edited_layers(self.model.layers)) * (copies * self.sizes.wide * self.sizes.weight + past)

    # ------------------------------------------------------------------------------------------ memory

    def _job(
        self, rule: str, *, least: float, most: float | None = None, files: float = 0, seconds: float, **rest: Any
    ) -> Job:
        """A job that holds ``least`` to ``most`` bytes where the model is, and reads ``files`` into main memory."""
        most = max(least, least if most is None else most)
        reading = START + 2 * files / (self.machine.read * 1e9)
        host = PYTHON[self.gpu] + files + (0 if self.gpu else most)
        if self.gpu:
            least, most = (CONTEXT + FRAGMENTATION * each for each in (least, most))
        return Job(
            rule,
            self.model.name,
            gpu_least=least if self.gpu else 0,
            gpu_most=most if self.gpu else 0,
            host=host,
            seconds=reading + seconds,
            **rest,
        )

    def edited_model(self, layers: int) -> float:
        """The model with its edited layers in float32."""
        return self.folder + layers * (self.sizes.wide - self.sizes.bytes) * self.sizes.weight

    def edit_memory(self, method: Method) -> tuple[float, float]:
        """Bytes that one batch of edits holds on the model's device, with the smallest and the full micro-batches.

        What stands all along is the model, the weights before any edit and before the batch, their float64 copies and
        updates, and what the solver keeps of the keys; the largest of the passing phases comes on top.
        """
        s, n = self.sizes, self.study.batch_size
        layers = method.edited_layers(self.model.layers)
        many, solver = len(layers), method.solver
        copies = 3 if _restrains(method) else 2
        standing: float = self.edited_model(many) + many * s.weight * (copies * s.wide + 2 * 8)
        if isinstance(solver, ClosedFormSolver):
            kept = solver.needs_second_moment + solver.needs_null_space + solver.accumulates_keys
            standing += many * kept * 8 * s.moment
        standing += many * _projected(method) * 8 * s.weight
        targets: list[float]
        if isinstance(solver, FineTuning):
            tokens = min(n, solver.minibatch) * (COUNTERFACT.prompt + COUNTERFACT.target)
            trained = s.weight * s.wide * 4  # gradient, two moments of Adam, the weight before
            logits = tokens * s.shape.vocabulary * 3 * s.bytes
            targets = [trained + tokens * (s.shape.depth - layers[0]) * s.saved + logits] * 2
        else:
            row = self.contexts * (self.model.contexts.length + COUNTERFACT.prompt + COUNTERFACT.target)
            budgets = (row, max(row, min(DEFAULT_TOKEN_BUDGET, (1 if solver.one_at_a_time else n) * row)))
            above = s.shape.depth - 1 - layers[-1]
            scored = self.contexts * COUNTERFACT.target / row * s.shape.vocabulary * (s.bytes + 3 * 4)
            targets = [tokens * (above * s.saved + scored) for tokens in budgets]
        solving: float = many * 8 * s.weight
        if isinstance(solver, ClosedFormSolver) and not isinstance(solver, Rome):
            solving += 3.5 * 8 * s.moment  # two products and their sum, or the system and its factor
        keeping = (many * 8 * s.moment if _accumulates(method) else 0) + many * n * 8 * s.shape.inner
        closing = many * s.weight * (s.wide + 8) + 8 * 8 * s.weight  # new weights, solved updates, a post-process
        least, most = (standing + max(each, solving, keeping, closing) for each in targets)
        return least, most

    # -------------------------------------------------------------------------------------------- time

    def flops(self, *, model: float = 0, single: float = 0, double: float = 0) -> float:
        """Seconds of operations in the model's precision, in float32 and in float64."""
        if not self.gpu:
            return (model + single + double) / (self.machine.cpu_tflops * TERA)
        own = {2: self.machine.tflops, 4: self.machine.tflops_float32, 8: self.machine.tflops_float64}
        return (
            model / own[self.sizes.bytes] + single / self.machine.tflops_float32 + double / self.machine.tflops_float64
        ) / TERA

    def generating(self, rows: float, batch: int, tokens: int) -> float:
        """Seconds of greedy generation: a step waits for the arithmetic or for the weights to be read."""
        steps = ceil(rows / batch) * tokens
        read = 0 if not self.gpu else self.folder / (self.machine.bandwidth * TERA)
        return steps * max(PASS, read, self.flops(model=2 * batch * self.sizes.parameters))

    def batch_seconds(self, method: Method, texts: Texts) -> float:
        """Seconds of one batch of edits, its energy not counted."""
        s, n, values, solver = self.sizes, self.study.batch_size, self.model.values, method.solver
        layers = method.edited_layers(self.model.layers)
        many, last = len(layers), layers[-1]
        d_out, d_in = s.shape.width, s.shape.inner
        row = self.contexts * (self.model.contexts.length + texts.prompt + texts.target)
        above = (s.shape.depth - 1 - last) * s.layer
        if isinstance(solver, FineTuning):
            tokens, steps = n * (texts.prompt + texts.target), solver.epochs
            trained = steps * tokens * (2 * s.parameters + 2 * (s.layer + above + s.head))
            return max(self.flops(model=trained), steps * ceil(n / solver.minibatch) * 2 * PASS)
        micro = ceil(n * row / DEFAULT_TOKEN_BUDGET)
        groups = n if solver.one_at_a_time else micro
        scored = n * (self.contexts * texts.target + 1) * s.head
        work: float = 2 * n * row * s.parameters + values.steps * 4 * (n * self.contexts * texts.tail * above + scored)
        rounds = many + (1 if _accumulates(method) else 0)
        work += rounds * 2 * n * row * (last + 1) * s.layer
        passes = groups * (2 + 2 * values.steps) + rounds * groups
        solved = 0.0
        if isinstance(solver, Rome):
            solved = n * 2 * d_out * d_in
        elif isinstance(solver, ClosedFormSolver):
            solved = d_in**3 / 3 + 2 * d_in**2 * (d_out + n)
            solved += (4 * d_in**3 + 2 * d_in**2 * d_out) if solver.needs_null_space else 0
            solved += 2 * d_in**2 * n if _accumulates(method) else 0
        solved += 4 * d_out**2 * d_in * _projected(method)
        solved += EIGEN * d_out**2 * d_in if _restrains(method) else 0  # the singular values of the whole change
        return max(self.flops(model=work, double=many * solved), passes * PASS)

    def energy_seconds(self, layers: int) -> float:
        """Seconds of measuring the energy before and after one batch."""
        return self.flops(single=layers * 4 * self.sizes.shape.width**2 * self.sizes.shape.inner)

    def evaluation_seconds(self, records: int, texts: Texts) -> float:
        scoring = self.flops(model=2 * records * texts.scored * self.sizes.parameters)
        scoring = max(scoring, ceil(records * texts.scored / DEFAULT_TOKEN_BUDGET) * PASS)
        settings = self.study.generation
        if settings is None:
            return scoring
        some = min(settings.records or records, records)
        batch = max(1, DEFAULT_TOKEN_BUDGET // settings.length)
        free = self.generating(some * texts.generations, batch, settings.length - texts.prompt)
        short = texts.scored // (texts.prompt + texts.target) / 2 * some if settings.family else 0
        return scoring + free + self.generating(short, DEFAULT_TOKEN_BUDGET // 20, 2 * texts.target)

    # -------------------------------------------------------------------------------------------- jobs

    def preparations(self) -> Iterator[Job]:
        """Jobs that a model has once."""
        s, model = self.sizes, self.model
        d_out, d_in, many = s.shape.width, s.shape.inner, len(self.layers)
        if isinstance(model.source, WorldSource):
            training = model.source.training
            tokens = training.steps * training.batch_size * training.length
            seconds = max(self.flops(model=6 * tokens * s.parameters), training.steps * 3 * PASS)
            held = 16 * s.parameters + training.batch_size * training.length * s.shape.depth * s.saved
            yield self._job("train_model", least=held, seconds=seconds, written=self.folder)
        else:
            written = self.folder if isinstance(model.source, HubSource) else 0
            yield Job("fetch_model", model.name, host=PYTHON[False], written=written)
        new = model.contexts.count * model.contexts.length
        yield self._job("contexts", least=self.folder, files=self.folder, seconds=self.generating(new, 1, 1))
        sums = self.folder + 8 * many * s.moment + 4 * many * s.moment
        token = s.passed + many * d_in * (s.bytes + 4)
        statistics = model.statistics
        tokens = statistics.documents * min(DOCUMENT, statistics.max_length)
        work = 2 * tokens * (self.layers[-1] + 1) * s.layer
        yield self._job(
            "statistics",
            least=sums + statistics.max_length * token,
            most=sums + max(statistics.max_length, statistics.token_budget) * token,
            files=self.folder,
            seconds=self.flops(model=work, single=2 * tokens * many * s.moment),
            written=self.statistics_file,
        )
        yield self._job(
            "null_space",
            least=(2 * many + 4) * 8 * s.moment,
            files=self.statistics_file + self.null_space_file,
            seconds=self.flops(double=many * EIGEN * d_in**3),
            written=self.null_space_file,
        )
        short = min(d_out, d_in)
        yield self._job(
            "directions",
            least=self.folder + self.directions_file + 8 * 8 * s.weight + 4 * 8 * short**2,
            files=self.folder + self.directions_file,
            seconds=self.flops(double=many * (4 * short**2 * max(d_out, d_in) * 2 + EIGEN * short**3)),
            written=self.directions_file,
        )

    def edited(self, method: Method, name: str, dataset: str, seeds: int) -> Iterator[Job]:
        """A stream's segments, evaluations and general-ability scores."""
        study, texts = self.study, texts_of(dataset)
        least, most = self.edit_memory(method)
        files = self.folder + self.statistics_file + self.null_space_file + self.directions_file
        state, many = self.state_file(method), len(method.edited_layers(self.model.layers))
        names: dict[str, Any] = {"dataset": dataset, "method": name, "count": seeds}
        once = self.batch_seconds(method, texts) + self.energy_seconds(many) / study.energy_every
        before = 0
        for edits in study.checkpoints:
            yield self._job(
                "edit",
                least=least,
                most=most,
                files=files + 2 * state,
                seconds=once * ceil((edits - before) / study.batch_size),
                written=state,
                temporary=not study.keep_states,
                edits=edits,
                **names,
            )
            before = edits
        held = self.edited_model(many)
        groups = [[edits] for edits in study.checkpoints] if study.evaluate == "checkpoint" else [study.checkpoints]
        for group in groups:
            seconds = sum(self.evaluation_seconds(edits, texts) for edits in group)
            yield self._evaluation(held, seconds, self.folder + state, edits=group[-1], **names)
            if study.tasks is not None:
                yield self._ability(held, len(group), self.folder + state, edits=group[-1], **names)

    def pre_edited(self, dataset: str) -> Job:
        seconds = self.evaluation_seconds(self.study.edits, texts_of(dataset))
        return self._evaluation(self.folder, seconds, self.folder, dataset=dataset, method="pre-edited")

    def ability_pre_edited(self) -> Job:
        return self._ability(self.folder, 1, self.folder, method="pre-edited")

    def tuning(self, method: Method, name: str) -> Iterator[Job]:
        """Settings tried on held-out edits: the search, and the map over eta and alpha."""
        study, (least, most) = self.study, self.edit_memory(method)
        files = self.folder + self.statistics_file + self.null_space_file + self.directions_file
        for rule, tried, edits in (
            ("tune", study.tuning and study.tuning.trials, study.tuning and study.tuning.edits),
            (
                "sensitivity",
                study.sensitivity
                and study.sensitivity.method == name
                and len(study.sensitivity.eta) * len(study.sensitivity.alpha),
                study.sensitivity and study.sensitivity.edits,
            ),
        ):
            if not tried or not edits:
                continue
            batches = ceil(edits / study.batch_size)
            measured = range(study.batch_size, edits + 1, study.batch_size) if rule == "tune" else (edits,)
            once = batches * self.batch_seconds(method, COUNTERFACT)
            once += sum(self.evaluation_seconds(each, COUNTERFACT) for each in measured)
            yield self._job(rule, least=least, most=most, files=files, seconds=tried * once, method=name)

    def _evaluation(self, held: float, seconds: float, files: float, **names: Any) -> Job:
        s = self.sizes
        rule = "evaluate_pre_edited" if names.get("method") == "pre-edited" else "evaluate"
        logits = 512 * s.shape.vocabulary * (s.bytes + 2 * 4)
        token = s.passed + (s.cached if self.study.generation else 0)
        least, most = (held + logits + tokens * token for tokens in (100, DEFAULT_TOKEN_BUDGET))
        return self._job(rule, least=least, most=most, files=files, seconds=seconds, **names)

    def _ability(self, held: float, states: int, files: float, **names: Any) -> Job:
        s, tasks = self.sizes, self.study.tasks
        assert tasks is not None
        rule = "ability_pre_edited" if names.get("method") == "pre-edited" else "ability"
        rows, length = ABILITY["rows"], ABILITY["prompt"] + ABILITY["generated"]
        items = len(tasks.names) * (tasks.limit or 2000)
        scoring = self.flops(model=2 * items * ABILITY["prompt"] * s.parameters)
        seconds = states * (scoring + self.generating(items, rows, ABILITY["generated"]))
        logits = rows * ABILITY["prompt"] * s.shape.vocabulary * (s.bytes + 2 * 4)
        least = held + logits + rows * length * (s.passed + s.cached)
        return self._job(rule, least=least, files=files, seconds=seconds, **names)


def _restrains(method: Method) -> bool:
    """Whether the weights that are evaluated are others than those that the next batch starts from (PRUNE)."""
    return any(process.stage == "evaluated" for process in method.postprocess)


def _accumulates(method: Method) -> bool:
    return isinstance(method.solver, ClosedFormSolver) and method.solver.accumulates_keys


def _projected(method: Method) -> float:
    """Share of the directions that the projection keeps in memory: at most eta, since they come by descending share."""
    return max((float(getattr(process, "eta", 0.0)) for process in method.postprocess), default=0.0)


def shape_of(model: ModelConfig) -> ShapeSettings:
    """A model's dimensions: those in its file, or of the model that the study trains; InputError without them."""
    if isinstance(model.source, WorldSource):
        t = model.source.training
        return ShapeSettings(width=t.width, inner=t.inner, depth=t.depth, heads=t.heads, vocabulary=t.vocabulary)
    if model.shape is None:
        raise InputError(
            f"models/{model.name}.yaml: shape is missing: copy the model's dimensions from its config.json "
            "(config/README.md says which)"
        )
    return model.shape


CONFIG_KEYS: dict[str, tuple[str, ...]] = {
    "width": ("hidden_size", "n_embd"),
    "inner": ("intermediate_size", "n_inner"),
    "depth": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "vocabulary": ("vocab_size",),
    "tied": ("tie_word_embeddings",),
}
"""What config.json calls each key of ``shape``; one that it leaves out, or has as null, is not checked."""


def check_shape(name: str, shape: ShapeSettings, folder: Path) -> None:
    """Hold the ``shape`` of models/NAME.yaml against the config.json in ``folder``; InputError where they differ."""
    there = read_json(folder / "config.json")
    for key, names in CONFIG_KEYS.items():
        said = getattr(shape, key)
        for other in names:
            found = there.get(other)
            if found is not None and said is not None and found != said:
                raise InputError(
                    f"models/{name}.yaml: shape.{key} is {said}, but {other} is {found} in {folder / 'config.json'}: "
                    "correct the shape"
                )


def jobs_of(study: Study, machine: MachineSettings) -> list[Job]:
    """Every job of ``study`` that is worth counting. Raises InputError where a model's file has no shape."""
    whole, found = study.study, list[Job]()
    seeds = len(whole.seeds)
    for name, model in study.models.items():
        costs = Costs(model, study, machine)
        methods = {each: resolve(each, hyperparameters=model.hyperparameters(each)) for each in whole.methods}
        found += costs.preparations()
        for each, method in methods.items():
            found += costs.tuning(method, each)
        for dataset in whole.datasets:
            found.append(costs.pre_edited(dataset))
        if whole.tasks is not None:
            found.append(costs.ability_pre_edited())
        for each, method in methods.items():
            for dataset in whole.datasets:
                found += costs.edited(method, each, dataset, seeds)
        assert name == model.name
    if whole.corpus is not None:
        longest = max(study.models.values(), key=lambda model: model.statistics.documents)
        text = longest.statistics.documents * DOCUMENT * CHARACTERS
        found.append(Job("extract_corpus", "", host=PYTHON[False], written=text))
    found.append(_neurons(found, study, machine))
    return found


def _neurons(jobs: Sequence[Job], study: Study, machine: MachineSettings) -> Job:
    """The comparison of all last states with their models, on one core: bound by reading."""
    last = [job for job in jobs if job.rule == "edit" and job.edits == study.study.edits]
    folders = [costs.folder for model in study.models.values() if (costs := Costs(model, study, machine))]
    read = sum(folders) + 2 * sum(job.written * job.count for job in last)
    host = PYTHON[False] + max(folders) + max(job.written for job in last)
    return Job("neurons", "", host=host, seconds=START + 2 * read / (machine.read * 1e9))


@dataclass(frozen=True)
class Plan:
    """A study's jobs on a machine."""

    study: Study
    machine: MachineSettings
    jobs: list[Job]

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
        one being written. A study that evaluates whole streams needs all their states.
        """
        states = [job for job in self.jobs if job.temporary]
        if not states or self.study.study.evaluate == "stream":
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
        """The jobs of ``rule`` with these wildcards; ``edits`` of an evaluation of a whole stream is its last."""
        wanted = (rule, model, dataset, method, edits)
        for job in self.jobs:
            if (job.rule, job.model, job.dataset, job.method, job.edits) == wanted:
                return job
        raise KeyError(wanted)

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
            if host > model.resources.mem_mb * 2**20:
                lines.append(f"models/{name}.yaml: resources.mem_mb: {ceil(host / 2**20)} expected; it asks for less.")
            if longest.seconds > model.resources.runtime * 60:
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
            method = job.method if job.rule in ("tune", "sensitivity", "edit") else ""
            classes.setdefault((job.rule, job.model, method), []).append(job)
        models = [*self.study.models, ""]
        order = sorted(classes.items(), key=lambda item: (models.index(item[0][1]), RULES.index(item[0][0])))
        for (rule, model, method), jobs in order:
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
                }
            )
        return pd.DataFrame(rows, columns=list(COLUMNS))


RULES = (
    *("extract_corpus", "fetch_model", "train_model", "contexts", "statistics", "null_space", "directions", "tune"),
    *("sensitivity", "edit", "evaluate_pre_edited", "evaluate", "ability_pre_edited", "ability", "neurons"),
)
"""Rules that are counted, in the order of a study."""
COLUMNS = (
    *("rule", "model", "method", "jobs", "gpu_gib_least", "gpu_gib_most", "host_gib"),
    *("longest_hours", "hours", "disk_gib", "temporary"),
)


def plan(study: Study, machine: MachineSettings | None = None) -> Plan:
    """The plan of ``study`` on ``machine``."""
    machine = machine or MachineSettings()
    return Plan(study, machine, jobs_of(study, machine))
