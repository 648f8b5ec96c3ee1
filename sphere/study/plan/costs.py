"""What every kind of job on one model takes: memory of GPU and host, time, disk. No torch import.

``footprint`` counts bytes, to which an allowance for the CUDA context and for fragmentation comes here; ``durations``
estimates seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Any

from sphere.config.machine import MachineSettings
from sphere.config.model import GgufSource, HubSource, ModelConfig, WorldSource
from sphere.config.names import IN_CONTEXT, PRE_EDITED
from sphere.config.study import StudyConfig
from sphere.editing.methods import Method
from sphere.models.batching import CHUNK, DEFAULT_TOKEN_BUDGET, KEPT_SHARE
from sphere.study.configuration import MADE_TASKS, Study
from sphere.study.plan.durations import EIGEN, PASS, Durations
from sphere.study.plan.footprint import Footprint
from sphere.study.plan.jobs import COUNTERFACT, START, Job, Texts, one_after_the_other, texts_of
from sphere.study.plan.traits import tokens_of

GIB = 2**30
CONTEXT = 1.0 * GIB
"""GPU memory of the CUDA context and of the linear-algebra libraries' workspaces."""
FRAGMENTATION = 1.05
"""GPU memory that the allocator keeps, over what is in use."""
PYTHON = {True: 4.0 * GIB, False: 0.7 * GIB}
"""Host memory of the process with its libraries, with a GPU and without."""
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


class Costs:
    """What every kind of job on one model takes."""

    def __init__(self, model: ModelConfig, study: Study, machine: MachineSettings) -> None:
        self.model, self.study, self.machine = model, study.study, machine
        self.bytes = Footprint(model, study)
        self.time = Durations(self.bytes, machine)
        self.sizes, self.layers = self.bytes.sizes, self.bytes.layers
        self.gpu = model.resources.gpu > 0
        self.spectra = study.spectra(model)

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

    def preparations(self) -> Iterator[Job]:
        """Jobs that a model has once."""
        s, model = self.sizes, self.model
        d_out, d_in, many = s.shape.width, s.shape.inner, len(self.layers)
        if isinstance(model.source, WorldSource):
            training = model.source.training
            tokens = training.steps * training.batch_size * training.length
            seconds = max(self.time.flops(model=6 * tokens * s.parameters), training.steps * 3 * PASS)
            row = s.shape.depth * s.saved + 3 * 4 * s.shape.vocabulary  # of a token: the layers', the logits'
            held = 16 * s.parameters + training.batch_size * training.length * row + CORPUS * tokens
            yield self._job("train_model", least=held, seconds=seconds, written=self.bytes.folder)
        elif isinstance(model.source, GgufSource):
            whole = 4 * s.parameters
            yield self._job("convert_gguf", least=2 * whole, seconds=whole / (self.machine.read * 1e9), written=whole)
        else:
            written = self.bytes.folder if isinstance(model.source, HubSource) else 0
            yield Job("fetch_model", model.name, host=PYTHON[False], written=written)
        if self.study.facts is not None and self.study.asked == model.name:
            facts = FACTS if self.study.facts.asked is None else min(FACTS, FEW_FACTS + 2 * self.study.facts.asked)
            asked = facts // ASKED_PARTS * (COUNTERFACT.prompt + COUNTERFACT.target)
            yield self._job(
                "known_facts",
                least=self.bytes.folder + s.shape.vocabulary * 512 * 4,
                files=self.bytes.folder,
                seconds=self.time.flops(model=2 * asked * s.parameters),
                count=ASKED_PARTS,
            )
        if model.values.weights == "pretrained":
            yield self._targets()
        new = model.contexts.count * model.contexts.length
        yield self._job(
            "contexts",
            least=self.bytes.folder,
            files=self.bytes.folder,
            seconds=self.time.generating(new, 1, 1),
        )
        sums = self.bytes.folder + 8 * many * s.moment + 4 * many * s.moment
        token = s.passed + many * d_in * (s.bytes + 4)
        statistics = model.statistics
        tokens = statistics.documents * DOCUMENT
        work, budget = 2 * tokens * (self.layers[-1] + 1) * s.layer, statistics.token_budget
        if self.bytes.gradients:  # a pass through the whole model beside, and back to the first of the layers
            above = (s.shape.depth - self.layers[0]) * s.layer + s.head
            work += 2 * tokens * (s.parameters + 2 * above)
            budget //= KEPT_SHARE
            sums += 2 * many * 8 * d_out**2 + CHUNK * s.shape.vocabulary * (s.bytes + 3 * 4)
            token += (s.shape.depth - self.layers[0]) * s.saved
        yield self._job(
            "statistics",
            least=sums + statistics.max_length * token,
            most=sums + max(statistics.max_length, budget) * token,
            files=self.bytes.folder,
            seconds=self.time.flops(model=work, single=2 * tokens * many * s.moment),
            written=self.bytes.statistics_file,
        )
        if "null_space" in self.spectra:
            yield self._null_space()
        if "directions" in self.spectra:
            yield self._directions()

    def _null_space(self) -> Job:
        """The decomposition of the key statistics of every layer."""
        s, d_in, many = self.sizes, self.sizes.shape.inner, len(self.layers)
        return self._job(
            "null_space",
            least=(2 * many + 4) * 8 * s.moment,
            files=self.bytes.statistics_file + self.bytes.null_space_file,
            seconds=self.time.flops(double=many * EIGEN * d_in**3),
            written=self.bytes.null_space_file,
        )

    def _directions(self) -> Job:
        """The principal directions of every layer's weight."""
        s, d_out, d_in, many = self.sizes, self.sizes.shape.width, self.sizes.shape.inner, len(self.layers)
        short = min(d_out, d_in)
        return self._job(
            "directions",
            least=self.bytes.folder + self.bytes.directions_file + 8 * 8 * s.weight + 4 * 8 * short**2,
            files=self.bytes.folder + self.bytes.directions_file,
            seconds=self.time.flops(double=many * (4 * short**2 * max(d_out, d_in) * 2 + EIGEN * short**3)),
            written=self.bytes.directions_file,
        )

    def _targets(self) -> Job:
        """The target values of one part of the requests, on the unedited model."""
        last = self.model.layers[-1]
        least = (
            self.bytes.folder
            + tokens_of(self.model, COUNTERFACT) * (self.sizes.shape.depth - 1 - last) * self.sizes.saved
        )
        most = min(TARGETS, max(requests_of(self.study).values()))
        each = self.time.flops(model=self.time.target_work(most, COUNTERFACT, self.model.values, last))
        jobs = sum(target_parts(self.study).values())
        return self._job("targets", least=least, files=self.bytes.folder, seconds=each, count=jobs)

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
        once = alone.time.batch_seconds(method, COUNTERFACT) + alone.time.evaluation_seconds(how.records, COUNTERFACT)
        once += sum(job.seconds - START for job in before)
        traced = how.records * TRACED["draws"] * (1 + s.shape.depth) * COUNTERFACT.prompt
        seconds = max(self.time.flops(model=2 * traced * s.parameters), how.records * PASS) + TRACED["sets"] * once
        least, most = alone.bytes.edit_memory(method)
        job = self._job("locate", least=least, most=most, files=self.bytes.folder, seconds=seconds)
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
        least, most = self.bytes.edit_memory(method)
        state = self.bytes.state_file(method, edits)
        once = self.time.batch_seconds(method, texts, (before + edits - self.study.batch_size) / 2)
        once += self.time.energy_seconds(self.bytes.edited_layers(method)) / self.study.energy_every
        return self._job(
            "edit",
            least=least,
            most=most,
            files=self.bytes.editing_files(method) + 2 * state,
            seconds=once * ceil((edits - before) / self.study.batch_size),
            written=state,
            temporary=not self.study.keep_states,
            edits=edits,
            **names,
        )

    def _measurements(self, method: Method, texts: Texts, edits: int, names: dict[str, Any]) -> Iterator[Job]:
        """Everything that is measured of the state after ``edits`` edits."""
        held, weights = (
            self.bytes.edited_model(self.bytes.edited_layers(method)),
            self.bytes.evaluated_weights(method),
        )
        read = {
            "files": self.bytes.folder + weights,
            "checked": self.bytes.state_file(method, edits) - weights,
            "edits": edits,
        }
        yield self._evaluation(held, self.time.evaluation_seconds(self.time.taken(edits), texts), **read, **names)
        if self.study.tasks is not None:
            yield self._ability(held, 1, **read, **names)
        if self.study.neutral is not None:
            yield self._neutral(held, 1, **read, **names)

    def pre_edited(self, dataset: str) -> Job:
        seconds = self.time.evaluation_seconds(self.time.taken(self.study.edits), texts_of(dataset))
        return self._evaluation(self.bytes.folder, seconds, files=self.bytes.folder, dataset=dataset, method=PRE_EDITED)

    def in_context(self, dataset: str) -> Job:
        """The unedited model, told each new fact: each prompt is about twice as long."""
        texts = texts_of(dataset)
        texts = replace(texts, scored=2 * texts.scored, generations=0)
        seconds = self.time.evaluation_seconds(self.time.taken(self.study.edits), texts)
        return self._evaluation(self.bytes.folder, seconds, files=self.bytes.folder, dataset=dataset, method=IN_CONTEXT)

    def ability_pre_edited(self) -> Job:
        return self._ability(self.bytes.folder, 1, files=self.bytes.folder, method=PRE_EDITED)

    def neutral_pre_edited(self) -> Job:
        return self._neutral(self.bytes.folder, 0, files=self.bytes.folder, method=PRE_EDITED)

    def tuning(self, method: Method, name: str) -> Iterator[Job]:
        """Settings tried on held-out edits: the search, and the map over eta and alpha."""
        study, (least, most) = self.study, self.bytes.edit_memory(method)
        files = self.bytes.editing_files(method)
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
            once = batches * self.time.batch_seconds(method, COUNTERFACT, (edits - study.batch_size) / 2)
            once += sum(self.time.evaluation_seconds(each, COUNTERFACT) for each in measured)
            yield self._job(rule, least=least, most=most, files=files, seconds=tried * once, method=name)

    def _evaluation(self, held: float, seconds: float, **names: Any) -> Job:
        s = self.sizes
        anchors = {PRE_EDITED: "evaluate_pre_edited", IN_CONTEXT: "evaluate_in_context"}
        rule = anchors.get(str(names.get("method")), "evaluate")
        logits = 512 * s.shape.vocabulary * (s.bytes + 2 * 4)
        token = s.passed + (s.cached if self.study.generation or self.study.strict else 0)
        least, most = (held + logits + tokens * token for tokens in (100, DEFAULT_TOKEN_BUDGET))
        return self._job(rule, least=least, most=most, seconds=seconds, **names)

    def _ability(self, held: float, states: int, **names: Any) -> Job:
        s, tasks = self.sizes, self.study.tasks
        assert tasks is not None
        rule = "ability_pre_edited" if names.get("method") == PRE_EDITED else "ability"
        rows, length = ABILITY["rows"], ABILITY["prompt"] + ABILITY["generated"]
        limit = tasks.limit or 2000
        made = limit * sum(name in MADE_TASKS for name in tasks.names)
        items = limit * len(tasks.names) - made
        scoring = self.time.flops(model=2 * (items * ABILITY["prompt"] + made * CHOICES) * s.parameters)
        seconds = states * (scoring + self.time.generating(items, rows, ABILITY["generated"]))
        prompt = ABILITY["prompt"] if items else CHOICES
        logits = rows * prompt * s.shape.vocabulary * (s.bytes + 2 * 4)
        least = held + logits + rows * (length if items else CHOICES) * (s.passed + s.cached)
        return self._job(rule, least=least, seconds=seconds, **names)

    def _neutral(self, held: float, states: int, **names: Any) -> Job:
        """Drift of so many states, each beside the unedited model."""
        s, settings = self.sizes, self.study.neutral
        assert settings is not None
        tokens = settings.passages * settings.length
        seconds = (1 + states) * self.time.flops(model=2 * tokens * s.parameters) + states * self.time.flops(
            model=4 * tokens * s.head
        )
        rule = "neutral_pre_edited" if names.get("method") == PRE_EDITED else "neutral"
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
