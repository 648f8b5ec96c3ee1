"""config/studies/NAME.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sphere.config.base import Count, Positive, Settings
from sphere.config.dataset import CORPUS_TASKS, CorpusSettings, DatasetConfig
from sphere.config.evaluation import GenerationSettings, NeutralSettings, StrictSettings, TaskSettings
from sphere.config.facts import FACTS_TASKS, FactsSettings
from sphere.config.model import Hyperparameters
from sphere.config.names import (
    DATASET_FOLDERS,
    FILE_ENDINGS,
    IN_CONTEXT,
    METHOD_FOLDERS,
    MODEL_FOLDERS,
    MethodName,
    Name,
)
from sphere.config.tuning import LocateSettings, SensitivitySettings, TuningSettings
from sphere.config.world import WORLD_TASKS, WorldSettings
from sphere.errors import nearest


class StudyConfig(Settings):
    """config/studies/NAME.yaml: models x datasets x methods x seeds, edited to the last checkpoint."""

    name: Name
    """Its folder under results/."""
    description: str = ""
    """A line for people."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Names of config/models/NAME.yaml."""
    datasets: Annotated[dict[Name, DatasetConfig], Field(min_length=1)]
    """By name: where the edit records come from."""
    methods: Annotated[tuple[MethodName, ...], Field(min_length=1)]
    """Rows of sphere/editing/methods.yaml; NAME+sphere adds the projection to any."""
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] = (0,)
    """Each seed is one order of the edit stream."""
    batch_size: Positive = 100
    """Edits made at once."""
    checkpoints: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Edits made when the state is kept and evaluated; the last is the stream's length."""
    jobs: Literal["stream", "checkpoint"] = "checkpoint"
    """Two jobs a stream, one that edits and one that measures, or one for both where no state is kept (small models:
    fewer starts); or some a checkpoint."""
    evaluate_records: Positive | None = None
    """Edits that an evaluation takes, evenly spread over those made so far; null takes all."""
    keep_states: bool = True
    """Keep the edited weights of every checkpoint, or remove each once it was continued from and evaluated."""
    energy_every: Positive = 1
    """Batches between rows of energy.csv; every checkpoint has one."""
    tasks: TaskSettings | None = None
    """General-ability tasks; null runs none."""
    generation: GenerationSettings | None = None
    """Free generations; null makes none, and with them no fluency and consistency."""
    strict: StrictSettings | None = None
    """Whole answers, generated freely, of an exact match: the strict families; null asks for none."""
    in_context: bool = False
    """Evaluate, beside the unedited model, the unedited model with each new fact in its context."""
    portability: bool = True
    """Ask the questions behind an edit that records bring: two hops, the inverse, facts that must stay."""
    belief: bool = True
    """Measure the log-odds of the new object against the true one; it takes no further pass of the model."""
    neutral: NeutralSettings | None = None
    """Bits a byte and drift on text that no edit is about, at every checkpoint; null measures none."""
    locate: LocateSettings | None = None
    """Which layers causal tracing and first batches would choose, beside those that are edited; null asks nothing."""
    tuning: TuningSettings | None = None
    """Hyperparameter search before the streams; null takes the model's ``methods`` as they are."""
    sensitivity: SensitivitySettings | None = None
    """The map of efficacy over eta and alpha; null draws none."""
    world: WorldSettings | None = None
    """The fictional world, for a study that makes its own models or datasets."""
    values: Hyperparameters = {}
    """Settings of target values that go over every model's ``values`` in this study: ``{weights: pretrained}``."""
    facts: FactsSettings | None = None
    """Facts that a model knows, for datasets of ``source: facts`` and for tuning; null takes none."""
    corpus: CorpusSettings | None = None
    """Text for key statistics; null takes it from the world's corpus."""
    threads: Positive = 2
    """Threads of training; part of the result, since the order of sums depends on it."""

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        for key in ("models", "methods", "seeds", "checkpoints"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: {list(values)} repeats a value")
        for key, names, taken in (
            ("name", (self.name,), ("downloads",)),
            ("models", self.models, MODEL_FOLDERS),
            ("datasets", self.datasets, DATASET_FOLDERS),
            ("methods", self.methods, METHOD_FOLDERS),
        ):
            if clash := set(names) & set(taken):
                raise ValueError(f"{key}: {clash.pop()!r} is the name of a folder of the results: choose another")
            for name in names:
                if name.endswith(FILE_ENDINGS):
                    raise ValueError(f"{key}: {name!r} looks like a file of the results: leave its ending out")
        if list(self.checkpoints) != sorted(self.checkpoints):
            raise ValueError(f"checkpoints must ascend: {list(self.checkpoints)}")
        for edits in self.checkpoints:
            if edits % self.batch_size:
                raise ValueError(f"checkpoints: {edits} is not a multiple of batch_size {self.batch_size}")
        for dataset, settings in self.datasets.items():
            if settings.source == "world" and self.world is None:
                raise ValueError(f"datasets.{dataset}: source: world needs the study to have a world")
            if settings.source == "facts" and self.facts is None:
                raise ValueError(f"datasets.{dataset}: source: facts needs the study to have facts (facts: {{}})")
            if settings.source in ("world", "facts") and dataset not in ("counterfact", "zsre"):
                what = "a world has" if settings.source == "world" else "facts have"
                raise ValueError(f"datasets: {what} no {dataset!r}{nearest(dataset, ('counterfact', 'zsre'))}")
        for task in self.tasks.names if self.tasks else ():
            if task in WORLD_TASKS and self.world is None:
                raise ValueError(f"tasks.names: {task!r} needs the study to have a world")
            if task in FACTS_TASKS and self.facts is None:
                raise ValueError(f"tasks.names: {task!r} needs the study to have facts (facts: {{}})")
            if task in CORPUS_TASKS and self.corpus is None:
                raise ValueError(f"tasks.names: {task!r} needs the study to have a corpus (corpus: {{item: NAME}})")
        for key, edits in self._held_out().items():
            if self.world is None and self.facts is None:
                section = key.partition(".")[0]
                raise ValueError(f"{section} needs a world or facts, whose held-out records it edits")
            if self.world is None and self.facts and edits > self.facts.held_out:
                raise ValueError(f"{key}: {edits} edits, but facts.held_out is {self.facts.held_out}")
        if self.facts is not None and self.facts.model is not None and self.facts.model not in self.models:
            known = nearest(self.facts.model, self.models)
            raise ValueError(f"facts.model: {self.facts.model!r} is no model of this study{known}")
        if self.world is not None:
            self._within(self.world)
        return self

    def _held_out(self) -> dict[str, int]:
        """Key -> the held-out records that it has edited."""
        return {
            **({"locate.records": self.locate.records} if self.locate else {}),
            **({"tuning.edits": self.tuning.edits} if self.tuning else {}),
            **({"sensitivity.edits": self.sensitivity.edits} if self.sensitivity else {}),
        }

    def _within(self, world: WorldSettings) -> None:
        """The world holds as many edits as are asked of it."""
        streamed = self.edits if any(each.source == "world" for each in self.datasets.values()) else 0
        for what, wanted, people in (
            ("checkpoints", streamed, "people"),
            *((key, edits, "tuning_people") for key, edits in self._held_out().items()),
        ):
            there = getattr(world, people) * world.edits_per_person
            if wanted > there:
                raise ValueError(f"{what}: {wanted} edits, but world.{people} x edits_per_person is {there}")

    def scope(self, models: Iterable[str]) -> dict[str, list[Any]]:
        """What the gathering of results has to know of the study and its models."""
        return {
            "models": list(models),
            "datasets": list(self.datasets),
            "methods": list(self.methods),
            "seeds": list(self.seeds),
            "checkpoints": list(self.checkpoints),
            "tasks": list(self.tasks.names) if self.tasks else [],
            "in_context": [IN_CONTEXT] if self.in_context else [],
            "neutral": [self.neutral.plain()] if self.neutral else [],
        }

    @property
    def asked(self) -> str:
        """The model that is asked which facts it knows."""
        return self.models[0] if self.facts is None or self.facts.model is None else self.facts.model

    @property
    def edits(self) -> int:
        """Length of the edit stream."""
        return self.checkpoints[-1]
