"""What every kind of job on one model takes: memory of GPU and host, time, disk. No torch import.

Memory and disk follow from the shapes of what the code holds and writes, so they are counts, with an allowance for the
CUDA context and for fragmentation. Time is an estimate: operations and bytes over the rates of ``MachineSettings``,
with texts as long as CounterFact's and zsRE's are on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Any

from sphere.config.machine import MachineSettings
from sphere.config.model import GgufSource, HubSource, ModelConfig, WorldSource
from sphere.config.study import StudyConfig
from sphere.config.values import ValueSettings
from sphere.editing.methods import Method
from sphere.editing.solvers.base import ClosedFormSolver, GradientSolver
from sphere.models.batching import CHUNK, DEFAULT_TOKEN_BUDGET, KEPT_SHARE
from sphere.study.configuration import MADE_TASKS, Study
from sphere.study.plan.jobs import COUNTERFACT, START, Job, Texts, one_after_the_other, texts_of
from sphere.study.plan.shapes import Sizes, shape_of

GIB = 2**30
TERA = 1e12
CONTEXT = 1.0 * GIB
"""GPU memory of the CUDA context and of the linear-algebra libraries' workspaces."""
FRAGMENTATION = 1.05
"""GPU memory that the allocator keeps, over what is in use."""
PYTHON = {True: 4.0 * GIB, False: 0.7 * GIB}
"""Host memory of the process with its libraries, with a GPU and without."""
PASS = 0.02
"""Seconds a forward pass takes at least, however small: launching its kernels."""
EIGEN = 40
"""Operations of a symmetric eigendecomposition over n^3: about 9, at a fifth or so of a matrix product's speed."""
DOCUMENT = 1000
"""Tokens of a document of the corpus (an English Wikipedia article)."""
CORPUS = 32
"""Bytes that a token of the training corpus takes while the corpus is read and packed into rows."""
ABILITY = {"rows": 16, "prompt": 500, "generated": 256}
"""Rows in a batch, and tokens of an item, of the general-ability tasks."""
CHOICES = 100
"""Tokens of an item, all choices together, of the tasks that a study makes itself: nothing is generated."""
FACTS = 6000
"""Texts that are asked to find which facts a model knows."""
FEW_FACTS = 1800
"""Of them, those of the relations with a few dozen facts each, whatever ``facts.asked`` is."""
HELD_OUT = "held-out"
"""What stands for a dataset's name in the requests that tuning edits."""
ASKED_PARTS = 2
"""Jobs that ask a model which facts it knows: everything else waits for them."""
TARGETS = 50
"""Requests whose target values one job finds, where they are those of the unedited model."""
TRACED = {"draws": 3, "sets": 7}
"""Corruptions of a fact in causal tracing, and sets of layers that get a first batch, at most (``study.locate``)."""
EPOCHS = 25
"""Passes over a batch of a gradient solver that does not say how many it makes."""


class Costs:
    """What every kind of job on one model takes."""

    def __init__(self, model: ModelConfig, study: Study, machine: MachineSettings) -> None:
        self.model, self.study, self.machine = model, study.study, machine
        self.sizes = Sizes(shape_of(model), model.dtype or "float32")
        self.layers = study.layers_with_statistics(model)
        self.gradients = study.takes_gradients(model)
        self.gpu = model.resources.gpu > 0
        self.contexts = model.contexts.count + 1

    # -------------------------------------------------------------------------------------------- disk

    @property
    def folder(self) -> float:
        """The model folder; what the hub has is taken to be in the model's precision."""
        return self.sizes.parameters * self.sizes.bytes

    @property
    def statistics_file(self) -> float:
        own = self.sizes.moment + self.model.statistics.probe_keys * self.sizes.shape.inner
        return len(self.layers) * 8 * (own + (self.sizes.shape.width**2 if self.gradients else 0))

    @property
    def null_space_file(self) -> float:
        return len(self.layers) * 8 * self.sizes.moment

    @property
    def directions_file(self) -> float:
        return len(self.layers) * 8 * self.sizes.shape.inner * min(self.sizes.shape.width, self.sizes.shape.inner)

    def state_file(self, method: Method, edits: int | None = None) -> float:
        """Edited weights, for PRUNE those the next batch starts from too, and what the solver remembers.

        After ``edits``, or at the stream's end.
        """
        copies = 2 if _restrains(method) else 1
        return self._edited(method) * (copies * self.sizes.wide * self.sizes.weight + 8 * self._kept(method, edits))

    def _kept(self, method: Method, edits: int | None = None) -> int:
        """Numbers of eight bytes that the solver remembers of a layer."""
        shape = self.sizes.shape
        return sum(method.solver.remembers(shape.width, shape.inner, edits or self.study.edits).values())

    def _edited(self, method: Method) -> int:
        """How many layers it edits."""
        return len(method.edited_layers(self.model.layers, self.model.values))

    def evaluated_weights(self, method: Method) -> float:
        """The part of a state that is evaluated."""
        return self._edited(method) * self.sizes.wide * self.sizes.weight

    def editing_files(self, method: Method) -> float:
        """What a job that edits reads beside a state."""
        spectra = {"null_space": self.null_space_file, "directions": self.directions_file}
        return self.folder + self.statistics_file + sum(spectra[name] for name in method.spectra)

    # ------------------------------------------------------------------------------------------ memory

    def _job(
        self,
        rule: str,
        *,
        least: float,
        most: float | None = None,
        files: float = 0,
        checked: float = 0,
        seconds: float,
        **rest: Any,
    ) -> Job:
        """A job that holds ``least`` to ``most`` bytes where the model is, and reads ``files`` into main memory.

        Of its input files it leaves ``checked`` bytes aside once they are verified.
        """
        most = max(least, least if most is None else most)
        reading = START + (2 * files + checked) / (self.machine.read * 1e9)
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
        layers = method.edited_layers(self.model.layers, self.model.values)
        many, solver = len(layers), method.solver
        copies = 3 if _restrains(method) else 2
        standing: float = self.edited_model(many) + many * s.weight * (copies * s.wide + 2 * 8)
        held = {"second_moment": s.moment, "key_spectrum": s.moment, "output_moment": s.shape.width**2}
        read = sum(held.get(need, 0) for part in (solver, *method.postprocess) for need in part.needs)
        standing += many * 8 * (read + self._kept(method))
        standing += many * _projected(method) * 8 * s.weight
        targets: list[float]
        if isinstance(solver, GradientSolver):
            tokens = min(n, getattr(solver, "minibatch", n)) * (COUNTERFACT.prompt + COUNTERFACT.target)
            trained = s.weight * s.wide * 4  # gradient, two moments of Adam, the weight before
            logits = tokens * s.shape.vocabulary * 3 * s.bytes
            targets = [trained + tokens * (s.shape.depth - layers[0]) * s.saved + logits] * 2
        else:
            row = self.contexts * (self.model.contexts.length + COUNTERFACT.prompt + COUNTERFACT.target)
            budgets = (row, max(row, min(DEFAULT_TOKEN_BUDGET, (1 if _one_at_a_time(method) else n) * row)))
            above = s.shape.depth - 1 - layers[-1]
            scored = self.contexts * COUNTERFACT.target / row * s.shape.vocabulary * (s.bytes + 3 * 4)
            targets = [tokens * (above * s.saved + scored) for tokens in budgets]
        solving: float = many * 8 * s.weight
        if isinstance(solver, ClosedFormSolver) and not solver.one_at_a_time:
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

    def batch_seconds(self, method: Method, texts: Texts, earlier: float = 0) -> float:
        """Seconds of one batch of edits, its energy not counted; ``earlier`` edits were made before it, on average."""
        s, n, solver = self.sizes, self.study.batch_size, method.solver
        values = method.value_settings(self.model.values)
        layers = method.edited_layers(self.model.layers, self.model.values)
        many, last = len(layers), layers[-1]
        d_out, d_in = s.shape.width, s.shape.inner
        row = self._row(texts)
        if isinstance(solver, GradientSolver):
            n += round(earlier) if solver.joint else 0
            tokens, steps = n * (texts.prompt + texts.target), getattr(solver, "epochs", EPOCHS)
            trained = steps * tokens * (2 * s.parameters + 2 * ((s.shape.depth - last) * s.layer + s.head))
            return max(self.flops(model=trained), steps * ceil(n / getattr(solver, "minibatch", n)) * 2 * PASS)
        micro = ceil(n * row / DEFAULT_TOKEN_BUDGET)
        groups = n if _one_at_a_time(method) else micro
        frozen = method.shares_targets(self.model.values)  # found once, by jobs of their own
        found_at = {"spread": [last], "ends": list(layers), "replay": [layers[0]]}[values.residual]
        work = 0.0 if frozen else sum(self._target_work(n, texts, values, layer) for layer in found_at)
        rounds = many + (1 if _accumulates(method) else 0)
        work += rounds * 2 * n * row * (last + 1) * s.layer
        passes = (0 if frozen else len(found_at) * groups * (2 + 2 * values.steps)) + rounds * groups
        solved = 0.0
        if _one_at_a_time(method):
            solved = n * 2 * d_out * d_in
        elif isinstance(solver, ClosedFormSolver):
            solved = d_in**3 / 3 + 2 * d_in**2 * (d_out + n)
            solved += (4 * d_in**3 + 2 * d_in**2 * d_out) if "key_spectrum" in solver.needs else 0
            solved += 2 * d_in**2 * n if _accumulates(method) else 0
        solved += 4 * d_out**2 * d_in * _projected(method)
        solved += EIGEN * d_out**2 * d_in if _restrains(method) else 0  # the singular values of the whole change
        return max(self.flops(model=work, double=many * solved), passes * PASS)

    def _row(self, texts: Texts) -> int:
        """Tokens of one request in all its contexts."""
        return self.contexts * (self.model.contexts.length + texts.prompt + texts.target)

    def _target_work(self, n: int, texts: Texts, values: ValueSettings, last: int) -> float:
        """Operations of finding the target values of ``n`` requests at layer ``last``."""
        s = self.sizes
        above = (s.shape.depth - 1 - last) * s.layer
        scored = n * (self.contexts * texts.target + 1) * s.head
        steps = values.steps * 4 * (n * self.contexts * texts.tail * above + scored)
        return 2 * n * self._row(texts) * s.parameters + steps

    def energy_seconds(self, layers: int) -> float:
        """Seconds of measuring the energy before and after one batch."""
        return self.flops(single=layers * 4 * self.sizes.shape.width**2 * self.sizes.shape.inner)

    def _taken(self, edits: int) -> int:
        """Of so many edits, those that an evaluation takes."""
        return min(edits, self.study.evaluate_records or edits)

    def evaluation_seconds(self, records: int, texts: Texts) -> float:
        scoring = self.flops(model=2 * records * texts.scored * self.sizes.parameters)
        scoring = max(scoring, ceil(records * texts.scored / DEFAULT_TOKEN_BUDGET) * PASS)
        scoring += self._strict_seconds(records, texts)
        settings = self.study.generation
        if settings is None:
            return scoring
        some = min(settings.records or records, records)
        batch = max(1, DEFAULT_TOKEN_BUDGET // settings.length)
        free = self.generating(some * texts.generations, batch, settings.length - texts.prompt)
        short = texts.scored // (texts.prompt + texts.target) / 2 * some if settings.family else 0
        return scoring + free + self.generating(short, DEFAULT_TOKEN_BUDGET // 20, 2 * texts.target)

    def _strict_seconds(self, records: int, texts: Texts) -> float:
        """Seconds of whole free answers; one that ends early is not counted as shorter."""
        settings = self.study.strict
        if settings is None:
            return 0.0
        asked = min(settings.records or records, records) * texts.scored // (texts.prompt + texts.target) / 2
        once = self.generating(asked, DEFAULT_TOKEN_BUDGET // (texts.prompt + settings.tokens), settings.tokens)
        return len(settings.forms) * once

    # -------------------------------------------------------------------------------------------- jobs

    def preparations(self) -> Iterator[Job]:
        """Jobs that a model has once."""
        s, model = self.sizes, self.model
        d_out, d_in, many = s.shape.width, s.shape.inner, len(self.layers)
        if isinstance(model.source, WorldSource):
            training = model.source.training
            tokens = training.steps * training.batch_size * training.length
            seconds = max(self.flops(model=6 * tokens * s.parameters), training.steps * 3 * PASS)
            row = s.shape.depth * s.saved + 3 * 4 * s.shape.vocabulary  # of a token: the layers', the logits'
            held = 16 * s.parameters + training.batch_size * training.length * row + CORPUS * tokens
            yield self._job("train_model", least=held, seconds=seconds, written=self.folder)
        elif isinstance(model.source, GgufSource):
            whole = 4 * s.parameters
            yield self._job("convert_gguf", least=2 * whole, seconds=whole / (self.machine.read * 1e9), written=whole)
        else:
            written = self.folder if isinstance(model.source, HubSource) else 0
            yield Job("fetch_model", model.name, host=PYTHON[False], written=written)
        if self.study.facts is not None and self.study.asked == model.name:
            facts = FACTS if self.study.facts.asked is None else min(FACTS, FEW_FACTS + 2 * self.study.facts.asked)
            asked = facts // ASKED_PARTS * (COUNTERFACT.prompt + COUNTERFACT.target)
            yield self._job(
                "known_facts",
                least=self.folder + s.shape.vocabulary * 512 * 4,
                files=self.folder,
                seconds=self.flops(model=2 * asked * s.parameters),
                count=ASKED_PARTS,
            )
        if model.values.weights == "pretrained":
            yield self._targets()
        new = model.contexts.count * model.contexts.length
        yield self._job("contexts", least=self.folder, files=self.folder, seconds=self.generating(new, 1, 1))
        sums = self.folder + 8 * many * s.moment + 4 * many * s.moment
        token = s.passed + many * d_in * (s.bytes + 4)
        statistics = model.statistics
        tokens = statistics.documents * DOCUMENT
        work, budget = 2 * tokens * (self.layers[-1] + 1) * s.layer, statistics.token_budget
        if self.gradients:  # a pass through the whole model beside, and back to the first of the layers
            above = (s.shape.depth - self.layers[0]) * s.layer + s.head
            work += 2 * tokens * (s.parameters + 2 * above)
            budget //= KEPT_SHARE
            sums += 2 * many * 8 * d_out**2 + CHUNK * s.shape.vocabulary * (s.bytes + 3 * 4)
            token += (s.shape.depth - self.layers[0]) * s.saved
        yield self._job(
            "statistics",
            least=sums + statistics.max_length * token,
            most=sums + max(statistics.max_length, budget) * token,
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

    def _targets(self) -> Job:
        """The target values of one part of the requests, on the unedited model."""
        last = self.model.layers[-1]
        least = self.folder + self._row(COUNTERFACT) * (self.sizes.shape.depth - 1 - last) * self.sizes.saved
        most = min(TARGETS, max(requests_of(self.study).values()))
        each = self.flops(model=self._target_work(most, COUNTERFACT, self.model.values, last))
        jobs = sum(target_parts(self.study).values())
        return self._job("targets", least=least, files=self.folder, seconds=each, count=jobs)

    def locating(self, whole: Study) -> Iterator[Job]:
        """Causal tracing, then in every set of layers a first batch with statistics and decompositions of its own."""
        how, s = self.study.locate, self.sizes
        if how is None:
            return
        changed = {"batch_size": how.records, "methods": (how.method,), "generation": None, "strict": None}
        values = self.model.values.model_copy(update={"weights": "current"})
        contexts = self.model.contexts.model_copy(update={"count": 0})
        model = self.model.model_copy(update={"contexts": contexts, "values": values})
        study = whole.model_copy(update={"study": self.study.model_copy(update=changed)})
        alone = Costs(model, study, self.machine)
        method = whole.method(self.model.name, how.method)
        read = [*(["statistics"] if method.needs_statistics else []), *method.spectra]
        before = [job for job in alone.preparations() if job.rule in read]
        once = alone.batch_seconds(method, COUNTERFACT) + alone.evaluation_seconds(how.records, COUNTERFACT)
        once += sum(job.seconds - START for job in before)
        traced = how.records * TRACED["draws"] * (1 + s.shape.depth) * COUNTERFACT.prompt
        seconds = max(self.flops(model=2 * traced * s.parameters), how.records * PASS) + TRACED["sets"] * once
        least, most = alone.edit_memory(method)
        job = self._job("locate", least=least, most=most, files=self.folder, seconds=seconds)
        jobs = [job, *before]
        yield replace(
            job,
            gpu_least=max(each.gpu_least for each in jobs),
            gpu_most=max(each.gpu_most for each in jobs),
            host=max(each.host for each in jobs),
        )

    def edited(self, method: Method, name: str, dataset: str, seeds: int) -> Iterator[Job]:
        """The jobs that edit a stream, and those that measure it."""
        study, texts = self.study, texts_of(dataset)
        names: dict[str, Any] = {"dataset": dataset, "method": name, "count": seeds}
        starts = (0, *study.checkpoints[:-1])
        ends = zip(starts, study.checkpoints, strict=True)
        segments = [self._segment(method, texts, *each, names) for each in ends]
        if study.jobs == "checkpoint":
            yield from segments
            for edits in study.checkpoints:
                yield from self._measurements(method, texts, edits, names)
            return
        measured = [job for edits in study.checkpoints for job in self._measurements(method, texts, edits, names)]
        if not study.keep_states:
            yield one_after_the_other([*segments, *measured], rule="edit_and_measure")
            return
        yield one_after_the_other(segments, rule="edit")
        yield one_after_the_other(measured, rule="measure")

    def _segment(self, method: Method, texts: Texts, before: int, edits: int, names: dict[str, Any]) -> Job:
        """Editing from ``before`` to ``edits`` edits."""
        least, most = self.edit_memory(method)
        state = self.state_file(method, edits)
        once = self.batch_seconds(method, texts, (before + edits - self.study.batch_size) / 2)
        once += self.energy_seconds(self._edited(method)) / self.study.energy_every
        return self._job(
            "edit",
            least=least,
            most=most,
            files=self.editing_files(method) + 2 * state,
            seconds=once * ceil((edits - before) / self.study.batch_size),
            written=state,
            temporary=not self.study.keep_states,
            edits=edits,
            **names,
        )

    def _measurements(self, method: Method, texts: Texts, edits: int, names: dict[str, Any]) -> Iterator[Job]:
        """Everything that is measured of the state after ``edits`` edits."""
        held, weights = self.edited_model(self._edited(method)), self.evaluated_weights(method)
        read = {"files": self.folder + weights, "checked": self.state_file(method, edits) - weights, "edits": edits}
        yield self._evaluation(held, self.evaluation_seconds(self._taken(edits), texts), **read, **names)
        if self.study.tasks is not None:
            yield self._ability(held, 1, **read, **names)
        if self.study.neutral is not None:
            yield self._neutral(held, 1, **read, **names)

    def pre_edited(self, dataset: str) -> Job:
        seconds = self.evaluation_seconds(self._taken(self.study.edits), texts_of(dataset))
        return self._evaluation(self.folder, seconds, files=self.folder, dataset=dataset, method="pre-edited")

    def in_context(self, dataset: str) -> Job:
        """The unedited model, told each new fact: each prompt is about twice as long."""
        texts = texts_of(dataset)
        texts = replace(texts, scored=2 * texts.scored, generations=0)
        seconds = self.evaluation_seconds(self._taken(self.study.edits), texts)
        return self._evaluation(self.folder, seconds, files=self.folder, dataset=dataset, method="in-context")

    def ability_pre_edited(self) -> Job:
        return self._ability(self.folder, 1, files=self.folder, method="pre-edited")

    def neutral_pre_edited(self) -> Job:
        return self._neutral(self.folder, 0, files=self.folder, method="pre-edited")

    def tuning(self, method: Method, name: str) -> Iterator[Job]:
        """Settings tried on held-out edits: the search, and the map over eta and alpha."""
        study, (least, most) = self.study, self.edit_memory(method)
        files = self.editing_files(method)
        for rule, tried, edits in (
            ("tune", study.tuning and study.tuning.trials, study.tuning and study.tuning.edits),
            (
                "sensitivity",
                study.sensitivity
                and study.sensitivity.method == name
                and 1 + sum(map(bool, study.sensitivity.eta)) * sum(map(bool, study.sensitivity.alpha)),
                study.sensitivity and study.sensitivity.edits,
            ),
        ):
            if not tried or not edits:
                continue
            batches = ceil(edits / study.batch_size)
            every = study.tuning.evaluated_every(study.batch_size) if study.tuning and rule == "tune" else edits
            measured = range(every, edits + every, every)
            once = batches * self.batch_seconds(method, COUNTERFACT, (edits - study.batch_size) / 2)
            once += sum(self.evaluation_seconds(each, COUNTERFACT) for each in measured)
            yield self._job(rule, least=least, most=most, files=files, seconds=tried * once, method=name)

    def _evaluation(self, held: float, seconds: float, **names: Any) -> Job:
        s = self.sizes
        anchors = {"pre-edited": "evaluate_pre_edited", "in-context": "evaluate_in_context"}
        rule = anchors.get(str(names.get("method")), "evaluate")
        logits = 512 * s.shape.vocabulary * (s.bytes + 2 * 4)
        token = s.passed + (s.cached if self.study.generation or self.study.strict else 0)
        least, most = (held + logits + tokens * token for tokens in (100, DEFAULT_TOKEN_BUDGET))
        return self._job(rule, least=least, most=most, seconds=seconds, **names)

    def _ability(self, held: float, states: int, **names: Any) -> Job:
        s, tasks = self.sizes, self.study.tasks
        assert tasks is not None
        rule = "ability_pre_edited" if names.get("method") == "pre-edited" else "ability"
        rows, length = ABILITY["rows"], ABILITY["prompt"] + ABILITY["generated"]
        limit = tasks.limit or 2000
        made = limit * sum(name in MADE_TASKS for name in tasks.names)
        items = limit * len(tasks.names) - made
        scoring = self.flops(model=2 * (items * ABILITY["prompt"] + made * CHOICES) * s.parameters)
        seconds = states * (scoring + self.generating(items, rows, ABILITY["generated"]))
        prompt = ABILITY["prompt"] if items else CHOICES
        logits = rows * prompt * s.shape.vocabulary * (s.bytes + 2 * 4)
        least = held + logits + rows * (length if items else CHOICES) * (s.passed + s.cached)
        return self._job(rule, least=least, seconds=seconds, **names)

    def _neutral(self, held: float, states: int, **names: Any) -> Job:
        """Drift of so many states, each beside the unedited model."""
        s, settings = self.sizes, self.study.neutral
        assert settings is not None
        tokens = settings.passages * settings.length
        seconds = (1 + states) * self.flops(model=2 * tokens * s.parameters) + states * self.flops(
            model=4 * tokens * s.head
        )
        rule = "neutral_pre_edited" if names.get("method") == "pre-edited" else "neutral"
        least = held + 2 * tokens * s.shape.width * s.bytes + 128 * s.shape.vocabulary * 5 * 4
        most = least + min(DEFAULT_TOKEN_BUDGET, tokens) * s.passed
        return self._job(rule, least=least + settings.length * s.passed, most=most, seconds=seconds, **names)


def requests_of(study: StudyConfig) -> dict[str, int]:
    """Dataset, and ``HELD_OUT`` where a study tunes -> the requests that its streams edit in all, at most."""
    orders = {"facts": 1}  # every order is one of the same records
    found = {
        name: study.edits * orders.get(dataset.source, len(study.seeds)) for name, dataset in study.datasets.items()
    }
    if tried := [each.edits for each in (study.tuning, study.sensitivity) if each is not None]:
        found[HELD_OUT] = max(tried) if study.facts is None else study.facts.held_out
    return found


def target_parts(study: StudyConfig) -> dict[str, int]:
    """For each of ``requests_of``, the jobs that find its target values under ``values.weights: pretrained``."""
    return {name: ceil(number / TARGETS) for name, number in requests_of(study).items()}


def _restrains(method: Method) -> bool:
    """Whether the weights that are evaluated are others than those that the next batch starts from (PRUNE)."""
    return any(process.stage == "evaluated" for process in method.postprocess)


def _one_at_a_time(method: Method) -> bool:
    return isinstance(method.solver, ClosedFormSolver) and method.solver.one_at_a_time


def _accumulates(method: Method) -> bool:
    return isinstance(method.solver, ClosedFormSolver) and method.solver.needs_keys_after


def _projected(method: Method) -> float:
    """Share of the directions that the projection keeps in memory: at most eta, since they come by descending share."""
    return max((float(getattr(process, "eta", 0.0)) for process in method.postprocess), default=0.0)
