"""A study's whole configuration: read from YAML, merged, validated, frozen. No torch import.

``load_study`` reads ``studies/NAME.yaml`` and the ``models/*.yaml`` it names and returns one ``Study``. Every mistake
is an ``InputError`` of one line: the file, the key, and the nearest valid name. config/README.md documents every key,
and workflow/schemas/ holds the same as JSON Schema; ``python -m sphere.config_reference`` writes both from this file.
"""

from __future__ import annotations

import csv
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil
from os.path import expanduser, isfile  # unlike Path.is_file, False for a name too long for the file system
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from jinja2 import Environment, TemplateSyntaxError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sphere.errors import InputError
from sphere.methods import LONGEST_NAME, NAME, nearest, resolve, split_name
from sphere.plain_yaml import read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]
"""A name that is also a folder's."""
MethodName = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
MODEL_FOLDERS = ("world", "streams", "tables", "figures", "claims", "logs", "benchmarks", "provenance")
"""Folders of results/STUDY beside those of its models."""
DOWNLOAD_FOLDERS = ("logs", "benchmarks", "provenance")
"""Folders of results/downloads beside those of datasets."""
DATASET_FOLDERS = ("model", "tuning", "sensitivity", "pre-edited", "provenance")
"""Folders of results/STUDY/MODEL beside those of its datasets."""
METHOD_FOLDERS = ("pre-edited",)
"""Folders of results/STUDY/MODEL/DATASET beside those of its methods."""
FILE_ENDINGS = (".json", ".csv", ".safetensors", ".txt", ".html")
"""Endings of the files beside those folders."""
WORLD_TASKS = ("world_reasoning", "world_nli", "world_open_qa", "world_closed_qa")
"""The general-ability tasks that a world comes with."""
Hyperparameters = dict[str, float | int | bool | str | None]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is answered with the nearest valid one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}")
        return data

    def plain(self) -> dict[str, Any]:
        """The settings as JSON-able values, as they travel through Snakemake's ``params``."""
        return self.model_dump(mode="json")


class WorldSettings(Settings):
    """The embedded fictional world."""

    seed: int = 0
    """Seed of people, facts, corpus and task items."""
    people: Positive = 400
    """People whose facts the edit streams change."""
    edits_per_person: Annotated[int, Field(ge=1, le=4)] = 1
    """Facts of a person that may be edited; times ``people``, the longest possible stream."""
    tuning_people: Count = 60
    """Held-out people whose facts only tuning changes."""
    qa_people: Positive = 40
    """People whose facts nobody changes; they carry the open-domain questions."""
    documents: Positive = 120_000
    """Documents in the training corpus."""
    corpus_shares: tuple[float, float, float, float, float] = (0.43, 0.25, 0.07, 0.08, 0.17)
    """Parts of biographies, questions, reasoning, NLI and closed-domain QA among the documents."""
    curriculum: Share = 0.3
    """Share of the corpus over which people are introduced, from a tenth of them to all; 0 starts with all."""
    task_items: Positive = 200
    """Test items of each general-ability task."""

    @property
    def longest_stream(self) -> int:
        """Edits that the test people allow."""
        return self.people * self.edits_per_person

    @property
    def longest_tuning(self) -> int:
        """Edits that the tuning people allow."""
        return self.tuning_people * self.edits_per_person


class TrainingSettings(Settings):
    """The small Llama-architecture model and how it is trained on the world's corpus."""

    vocabulary: Positive = 2048
    """Tokens of the byte-level BPE vocabulary."""
    width: Positive = 128
    """Hidden size."""
    inner: Positive = 768
    """Size of the MLP's inner layer: the length of a key."""
    depth: Positive = 6
    """Layers."""
    heads: Positive = 4
    """Attention heads."""
    embedding_std: Rate = 1.0
    """Standard deviation of the (untied) token embeddings at the start."""
    output_scale: Rate = 0.1
    """Factor on the initial output projections."""
    length: Positive = 80
    """Tokens in a training row."""
    batch_size: Positive = 32
    """Rows in a step."""
    steps: Positive = 1500
    """Optimiser steps."""
    lr: Rate = 2e-3
    """AdamW's peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay, on matrices only."""
    warmup: Count = 20
    """Steps of linear warm-up."""
    decay_share: Share = 0.5
    """Share of the steps, at the end, over which the rate falls to zero."""
    report_every: Positive = 100
    """Steps between rows of training.csv."""
    seed: int = 0
    """Seed of initialisation and of the order of the rows."""


class WorldSource(Settings):
    """A model that the study trains on its own world."""

    kind: Literal["world"]
    """Trained by the workflow on the study's world."""
    training: TrainingSettings = TrainingSettings()
    """The model's sizes and its training."""


class HubSource(Settings):
    """A model of the Hugging Face hub."""

    kind: Literal["hub"]
    """Downloaded from the Hugging Face hub."""
    id: str
    """Such as meta-llama/Meta-Llama-3-8B-Instruct: the url of a model in config/sources.tsv, which has its revision."""


class PathSource(Settings):
    """A model folder of your own in Hugging Face's layout."""

    kind: Literal["path"]
    """Taken from a folder."""
    path: Path
    """The folder; it must hold config.json, a tokenizer and safetensors."""


class ValueSettings(Settings):
    """Optimisation of the target values z (MEMIT, section 4.3.1)."""

    lr: Rate = 0.5
    """Adam's learning rate."""
    steps: Positive = 25
    """Gradient steps at most."""
    clamp_norm_factor: Rate = 0.75
    """Longest step away from the clean hidden state, as a factor of its norm."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the step's length in the loss."""
    kl_factor: Annotated[float, Field(ge=0)] = 0.0625
    """Weight of the divergence on "{subject} is a"."""
    stop_loss: Annotated[float, Field(ge=0)] = 0.05
    """A request whose loss is below this is finished."""


class ContextSettings(Settings):
    """Prefixes sampled once from the unedited model, before which a fact is optimised to hold."""

    count: Count = 5
    """Sampled prefixes beside the empty one."""
    length: Positive = 10
    """Tokens in a prefix."""
    seed: int = 0
    """Seed of the sampling."""


class StatisticsSettings(Settings):
    """Key second moments C = E[k k^T] over a corpus."""

    documents: Positive = 100_000
    """Documents of the corpus that are read, from its start."""
    max_length: Positive = 512
    """Tokens of a document that are read."""
    probe_keys: Count = 256
    """Keys of the last documents that are kept out of C, to measure perturbations of the output on."""
    token_budget: Positive = 8192
    """Tokens in a forward pass; changes speed and memory only."""


class ComputeSettings(Settings):
    """What the jobs on this model ask of a machine, at the first attempt; each retry asks for that much more."""

    gpu: Count = 0
    """GPUs a job takes."""
    mem_mb: Positive | None = None
    """Memory in MiB of every job; null: of each job what the plan expects, times ``machine.memory_margin``."""
    runtime: Positive | None = None
    """Minutes of every job; null: of each job what the plan expects, times ``machine.time_margin``."""


class ShapeSettings(Settings):
    """A model's dimensions, as its config.json has them: what the plan counts with before the model is there."""

    width: Positive
    """Hidden size (hidden_size, n_embd)."""
    inner: Positive
    """Size of the MLP's inner layer, the length of a key (intermediate_size; GPT-2 and GPT-J: 4 x width)."""
    depth: Positive
    """Layers (num_hidden_layers, n_layer)."""
    heads: Positive
    """Attention heads (num_attention_heads, n_head)."""
    kv_heads: Positive | None = None
    """Heads of keys and values (num_key_value_heads); null: as many as ``heads``."""
    head_dim: Positive | None = None
    """Width of a head (head_dim); null: ``width`` / ``heads``."""
    vocabulary: Positive
    """Tokens (vocab_size)."""
    tied: bool = False
    """Whether the head is the embedding (tie_word_embeddings)."""
    gated: bool = True
    """Whether the MLP has a gate beside its two projections (Llama, Mistral, Qwen: yes; GPT: no)."""


class MachineSettings(Settings):
    """The machine that jobs run on."""

    gpu_memory: Rate = 80
    """GiB of one GPU."""
    disk: Rate = 2000
    """GiB free where results go."""
    tflops: Rate = 120
    """10^12 operations a second of a GPU in bfloat16 and float16; 120 is about 40 % of an A100's peak."""
    tflops_float32: Rate = 14
    """The same in float32 (no TF32: it would change results)."""
    tflops_float64: Rate = 8
    """The same in float64, in which edits are solved."""
    bandwidth: Rate = 1.2
    """10^12 bytes a second that a GPU reads from its memory: free generation waits for it."""
    cpu_tflops: Rate = 0.03
    """10^12 operations a second of the CPU cores of one job, for models without a GPU."""
    read: Rate = 1.0
    """10^9 bytes a second read from disk; every job reads its inputs twice, once to check them."""
    memory_margin: Annotated[float, Field(ge=1)] = 1.25
    """Memory that a job asks of a cluster, over what the plan expects."""
    time_margin: Annotated[float, Field(ge=1)] = 2
    """Run time that a job asks of a cluster, over what the plan expects."""


class RunSettings(Settings):
    """config.yaml: which study, and where its files come from and go."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    study: Annotated[str, Field(min_length=1)]
    """A file in studies/, or the path of a study file of your own."""
    results: Annotated[str, Field(min_length=1)] = "results"
    """Everything is made under here."""
    sources: dict[str, str] = {}
    """Files and folders of yours that are taken instead of downloads, by their name in sources.tsv."""
    machine: MachineSettings = MachineSettings()
    """What the plan reckons with, and so what jobs ask of a cluster. Rates are sustained ones."""


class EditSettings(Settings):
    """The part of a model's settings that an edit depends on."""

    layers: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Edited layers, ascending; the values are optimised at the last."""
    dtype: str | None = None
    """Precision of the model in memory (float32, bfloat16, ...); null keeps the checkpoint's own."""
    device: Annotated[str, Field(pattern="^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    """auto, cpu, cuda or cuda:N."""
    trust_remote_code: bool = False
    """Run the Python that a model folder of your own (``source.kind: path``) brings with it; a warning says so."""
    values: ValueSettings = ValueSettings()
    """How target values are found."""

    def load_settings(self) -> dict[str, Any]:
        """How the model is loaded: keyword arguments of ``sphere.models.load``."""
        return {"device": self.device, "dtype": self.dtype, "trust_remote_code": self.trust_remote_code}


class ModelConfig(EditSettings):
    """config/models/NAME.yaml: a base model, where to edit it, and hyperparameters that belong to it."""

    name: Name
    """Its folder under results/, and the name in tables."""
    source: Annotated[WorldSource | HubSource | PathSource, Field(discriminator="kind")]
    """Where the model comes from."""
    contexts: ContextSettings = ContextSettings()
    """Its context templates."""
    statistics: StatisticsSettings = StatisticsSettings()
    """Its key statistics."""
    methods: dict[str, Hyperparameters] = {}
    """Hyperparameters by method, over the method's own defaults."""
    tuning_grid: dict[str, dict[str, tuple[float | int | bool | str, ...]]] = {}
    """By method: the values that tuning tries of each hyperparameter."""
    resources: ComputeSettings = ComputeSettings()
    """What its jobs ask of a machine."""
    shape: ShapeSettings | None = None
    """Its dimensions, for the plan; held against config.json once the model is there. A model of the hub needs it."""

    @model_validator(mode="after")
    def _ascending(self) -> ModelConfig:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must ascend without repeats: {list(self.layers)}")
        sized = self.source.training if isinstance(self.source, WorldSource) else self.shape
        if sized is not None and self.layers[-1] >= sized.depth:
            raise ValueError(f"layers: {self.layers[-1]} is beyond the last layer, {sized.depth - 1}")
        return self

    @model_validator(mode="after")
    def _own_code(self) -> ModelConfig:
        if self.trust_remote_code and not isinstance(self.source, PathSource):
            raise ValueError("trust_remote_code is for a folder of your own: give it by source.kind: path")
        return self

    def hyperparameters(self, method: str) -> Hyperparameters:
        """What ``methods`` says of ``method``: ``ft+sphere`` and ``ft@lr=0.1`` have what ``ft`` has, then their own."""
        base, _ = split_name(method)
        parts = base.split("+")
        found: Hyperparameters = {}
        for name in dict.fromkeys([*("+".join(parts[: i + 1]) for i in range(len(parts))), method]):
            found |= self.methods.get(name, {})
        return found

    def edit_settings(self) -> EditSettings:
        """The slice of these settings that an edit depends on."""
        return EditSettings(**{key: getattr(self, key) for key in EditSettings.model_fields})


class DatasetConfig(Settings):
    """Where a dataset's edit records come from; their schema is told from the records."""

    source: Literal["world", "download", "path"]
    """The study's own world, a row of config/sources.tsv, or a file of yours."""
    path: Path | None = None
    """The file (source: path)."""
    item: str | None = None
    """The row of config/sources.tsv (source: download)."""
    references: str | None = None
    """Reference texts for consistency: a row of sources.tsv or a file, as the source is; a world has its own."""
    word_weights: tuple[str, str] | None = None
    """Vocabulary (JSON) and inverse document frequencies (.npy) for consistency, named as ``references`` is; null takes
    them from the reference texts of the stream."""

    @model_validator(mode="after")
    def _complete(self) -> DatasetConfig:
        needed = {"world": None, "download": "item", "path": "path"}[self.source]
        for key in ("item", "path"):
            if (getattr(self, key) is not None) != (key == needed):
                raise ValueError(f"source: {self.source} " + (f"needs {key}" if key == needed else f"takes no {key}"))
        if self.word_weights is not None and (self.source == "world" or self.references is None):
            raise ValueError("word_weights need references of a download or a file")
        return self

    @property
    def files(self) -> dict[str, str]:
        """Key -> row of sources.tsv, or path, of everything the dataset is made of."""
        named = {"item": self.item, "path": self.path, "references": self.references}
        named |= {f"word_weights.{i}": name for i, name in enumerate(self.word_weights or ())}
        return {key: str(name) for key, name in named.items() if name is not None}


class TaskSettings(Settings):
    """General ability, scored by lm-evaluation-harness."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """The world's own (world_reasoning, ...), ours (a file of config/tasks/), or the harness's, whose data are the row
    of config/sources.tsv of the same name (gsm8k, rte, nq_open, boolq, ...)."""
    limit: Positive | None = None
    """Items of each task, from its start; null takes all."""
    fewshot: Count = 0
    """Solved examples before an item."""


class GenerationSettings(Settings):
    """Free generations, for fluency and consistency."""

    records: Positive | None = 50
    """Records that get generations, evenly spread over the stream; null gives all of them some."""
    length: Positive = 100
    """Tokens of prompt and continuation together."""
    family: bool = True
    """Whether the generation family of editing metrics is measured too."""


class TuningSettings(Settings):
    """Hyperparameter search on held-out records, the same budget for every method."""

    trials: Positive = 6
    """Settings tried of each method."""
    edits: Positive = 60
    """Held-out edits in a trial; too few choose settings that collapse later."""
    evaluations: Positive = 3
    """Evaluations in a trial, evenly spread over its batches at most; the score is their mean."""
    seed: int = 0
    """Seed of the draw of settings where the grid has more than ``trials``."""

    def evaluated_every(self, batch_size: int) -> int:
        """Edits from one evaluation of a trial to the next: whole batches."""
        return batch_size * ceil(self.edits / self.evaluations / batch_size)


class SensitivitySettings(Settings):
    """The projection's two settings on held-out records, every pair of them, at the method's tuned settings else."""

    method: str = "sphere"
    """A method of the study that has the projection."""
    eta: Annotated[tuple[Share, ...], Field(min_length=1)] = (0, 0.3, 0.5, 0.7)
    """Cumulative ratios; these are the paper's, and 0 protects nothing."""
    alpha: Annotated[tuple[Share, ...], Field(min_length=1)] = (0, 0.3, 0.5, 0.7)
    """Suppression strengths; these are the paper's, and 0 takes nothing away."""
    edits: Positive = 60
    """Held-out edits made with each pair."""


class CorpusSettings(Settings):
    """Natural text for the key statistics of models that are not the world's."""

    item: str
    """The row of config/sources.tsv: a parquet file, or text in which blank lines separate documents."""
    column: str = "text"
    """The column of a parquet file that holds the text."""


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
    """Rows of sphere/methods.yaml; NAME+sphere adds the projection to any."""
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)] = (0,)
    """Each seed is one order of the edit stream."""
    batch_size: Positive = 100
    """Edits made at once."""
    checkpoints: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Edits made when the state is kept and evaluated; the last is the stream's length."""
    evaluate: Literal["stream", "checkpoint"] = "checkpoint"
    """One evaluation job for a whole stream (small models: fewer starts) or one for each checkpoint."""
    keep_states: bool = True
    """Keep the edited weights of every checkpoint, or remove each once it was continued from and evaluated."""
    energy_every: Positive = 1
    """Batches between rows of energy.csv; every checkpoint has one."""
    tasks: TaskSettings | None = None
    """General-ability tasks; null runs none."""
    generation: GenerationSettings | None = None
    """Free generations; null makes none, and with them no fluency and consistency."""
    tuning: TuningSettings | None = None
    """Hyperparameter search before the streams; null takes the model's ``methods`` as they are."""
    sensitivity: SensitivitySettings | None = None
    """The map of efficacy over eta and alpha; null draws none."""
    world: WorldSettings | None = None
    """The fictional world, for a study that makes its own models or datasets."""
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
            if settings.source == "world" and dataset not in ("counterfact", "zsre"):
                raise ValueError(f"datasets: a world has no {dataset!r}{nearest(dataset, ('counterfact', 'zsre'))}")
        for task in self.tasks.names if self.tasks else ():
            if task in WORLD_TASKS and self.world is None:
                raise ValueError(f"tasks.names: {task!r} needs the study to have a world")
        if self.tuning is not None and self.world is None:
            raise ValueError("tuning needs a world, whose held-out records it edits")
        if self.sensitivity is not None and self.world is None:
            raise ValueError("sensitivity needs a world, whose held-out records it edits")
        if self.world is not None:
            self._within(self.world)
        return self

    def _within(self, world: WorldSettings) -> None:
        """The world holds as many edits as are asked of it."""
        streamed = self.edits if any(each.source == "world" for each in self.datasets.values()) else 0
        for what, wanted, people in (
            ("checkpoints", streamed, "people"),
            ("tuning.edits", self.tuning.edits if self.tuning else 0, "tuning_people"),
            ("sensitivity.edits", self.sensitivity.edits if self.sensitivity else 0, "tuning_people"),
        ):
            there = getattr(world, people) * world.edits_per_person
            if wanted > there:
                raise ValueError(f"{what}: {wanted} edits, but world.{people} x edits_per_person is {there}")

    @property
    def edits(self) -> int:
        """Length of the edit stream."""
        return self.checkpoints[-1]


class Source(Settings):
    """One row of config/sources.tsv: something that is downloaded, or taken from a place of yours."""

    name: Name
    """What studies, and ``sources`` of config.yaml, call it."""
    kind: Literal["file", "model", "dataset"]
    """A file by its address, or a model or dataset of the Hugging Face hub."""
    url: str
    """Address of the file, or id on the hub."""
    subset: Name | None = None
    """The part of a hub dataset, which is also the folder its files are in."""
    revision: str
    """Commit, tag or branch on the hub; the year of a file."""
    bytes: Count | None = None
    """Length of the file; empty where nobody has published it."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Checksum of the file; likewise."""
    licence: str
    """As its publisher states it."""
    note: str | None = None
    """What it replaces, or where the revision and checksum were found."""
    path: Path | None = None
    """The file or folder of yours that is taken instead."""

    @model_validator(mode="after")
    def _fitting(self) -> Source:
        if self.kind == "file" and not self.url.startswith(("https://", "http://")):
            raise ValueError(f"url: {self.url!r} is not an address: begin it with https://")
        if self.kind != "file" and (self.bytes, self.sha256) != (None, None):
            raise ValueError("bytes and sha256 are a file's: a commit as revision pins what the hub has")
        if self.subset is not None and self.kind != "dataset":
            raise ValueError("subset is a dataset's")
        if self.file_name in DOWNLOAD_FOLDERS:
            raise ValueError(f"name: {self.name!r} is the name of a folder of results/downloads: choose another")
        return self

    @property
    def file_name(self) -> str:
        """Its name under results/downloads/: that of its row, and the ending of its address."""
        return self.name + (Path(self.url).suffix if self.kind == "file" else "")


class TaskMetric(Settings):
    """A metric of a task, as lm-evaluation-harness has it."""

    metric: Literal["acc", "exact_match"]
    aggregation: Literal["mean"] = "mean"
    higher_is_better: Literal[True] = True
    ignore_case: bool = False
    ignore_punctuation: bool = False
    regexes_to_ignore: tuple[str, ...] = ()


class TaskFile(Settings):
    """config/tasks/NAME.yaml: a task over a dataset of sources.tsv, in lm-evaluation-harness's own keys."""

    task: Name
    dataset_path: str
    """The url of a dataset in sources.tsv."""
    dataset_name: str | None = None
    """Its subset."""
    output_type: Literal["multiple_choice", "generate_until"]
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    doc_to_text: str
    doc_to_target: str | int
    doc_to_choice: tuple[str, ...] | str | None = None
    target_delimiter: str = " "
    generation_kwargs: dict[str, Any] | None = None
    metric_list: Annotated[tuple[TaskMetric, ...], Field(min_length=1)]
    num_fewshot: Count = 0
    metadata: dict[str, Any] = {}

    @model_validator(mode="after")
    def _scorable(self) -> TaskFile:
        if self.test_split is None and self.validation_split is None:
            raise ValueError("give the split to score as test_split or validation_split")
        if (self.output_type == "multiple_choice") != (self.doc_to_choice is not None):
            raise ValueError("multiple_choice goes with doc_to_choice, generate_until without")
        for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            if isinstance(text := getattr(self, key), str):
                try:
                    Environment().parse(text)
                except TemplateSyntaxError as error:
                    raise ValueError(f"{key} is no Jinja template ({error.message})") from None
        return self


class Study(Settings):
    """A study with everything it names, merged and validated."""

    study: StudyConfig
    models: dict[str, ModelConfig]
    sources: dict[str, Source]
    task_files: dict[str, TaskFile] = {}
    """The study's tasks that are files of config/tasks/."""
    root: Path = Path("config")
    """The folder that all of it was read from."""

    @property
    def locks(self) -> Path:
        """The folder that keeps what first downloads brought (``sphere.download``)."""
        return self.root / "sources.lock"

    def layers_with_statistics(self, model: ModelConfig) -> list[int]:
        """Layers whose key statistics the study needs: the edited ones, and those a method chooses for itself."""
        chosen = (
            resolve(method, hyperparameters=model.hyperparameters(method)).hyperparameters.get("layer")
            for method in self.study.methods
        )
        return sorted({*model.layers, *(layer for layer in chosen if layer is not None)})

    def model_source(self, model: ModelConfig) -> Source | None:
        """Where a model that is not trained here comes from: its folder, or the row with its hub id."""
        if isinstance(model.source, PathSource):
            place = model.source.path
            return Source(name=model.name, kind="model", url=str(place), revision="", licence="", path=place)
        known = (row for row in self.sources.values() if row.kind == "model")
        return next((row for row in known if getattr(model.source, "id", None) == row.url), None)

    def task_data(self) -> dict[str, Source]:
        """Task -> the dataset it asks from, of every task of the study that is not the world's."""
        found = {}
        for task in self.study.tasks.names if self.study.tasks else ():
            own = self.task_files.get(task)
            wanted = None if own is None else (own.dataset_path, own.dataset_name)
            for row in self.sources.values():
                if row.kind == "dataset" and (row.name == task if wanted is None else (row.url, row.subset) == wanted):
                    found[task] = row
        return found


Model = TypeVar("Model", bound=Settings)

_SHORTLY = reprlib.Repr()
_SHORTLY.maxstring = _SHORTLY.maxother = 100
"""Says what was given in one line, however long or deep that is."""


def load_study(study: str | Path, *, root: Path = Path("config"), places: Mapping[str, str] | None = None) -> Study:
    """The study called ``study`` under ``root``/studies, or the one in the YAML file ``study``.

    A file's models, tasks and sources are looked up beside its own folder: ``X/studies/mine.yaml`` uses ``X/models``.
    ``places`` maps names of sources to files and folders that are taken instead of a download.
    Raises InputError on anything wrong anywhere in it.
    """
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        root = path.parent.parent
    else:
        path = _named(root / "studies", str(study), "study")
    config = _parse(StudyConfig, path)
    files = {name: _named(root / "models", name, f"{path}: models") for name in config.models}
    models = {name: _parse(ModelConfig, file) for name, file in files.items()}
    for name, model in models.items():
        if model.name != name:
            raise InputError(f"{files[name]}: name is {model.name!r}: make it {name!r}, as the file is called")
        _check_model(files[name], model, config)
    sources = load_sources(root / "sources.tsv", places=places)
    whole = Study(study=config, models=models, sources=sources, task_files=_tasks(config, root), root=root)
    _check_methods(path, whole)
    _check_sources(path, whole)
    return whole


def load_run(settings: Mapping[str, Any]) -> RunSettings:
    """config.yaml and ``--config`` together; a key without value has its default."""
    given = {key: value for key, value in settings.items() if value is not None}
    return validated(RunSettings, given, "config.yaml or --config")


def load_machine(settings: Any) -> MachineSettings:
    """The settings of config.yaml's ``machine``, from a mapping."""
    return validated(MachineSettings, {} if settings is None else settings, "config.yaml: machine")


def load_sources(path: Path, *, places: Mapping[str, str] | None = None) -> dict[str, Source]:
    """The rows of sources.tsv by name, with the ``places`` that replace a download checked to be there."""
    if not isfile(path):
        raise InputError(f"{path} is not there: it lists every download")
    rows = [{key: value for key, value in row.items() if value} for row in read_table(path, delimiter="\t")]
    sources: dict[str, Source] = {}
    for row in rows:
        source = validated(Source, row, f"{path}: {row.get('name', 'a row without name')}")
        if source.name in sources:
            raise InputError(f"{path}: two rows are called {source.name!r}: rename one")
        if twin := next((each.name for each in sources.values() if each.file_name == source.file_name), None):
            raise InputError(f"{path}: {twin!r} and {source.name!r} are both kept as {source.file_name!r}: rename one")
        sources[source.name] = source
    for name, place in (places or {}).items():
        if name not in sources:
            raise InputError(f"config: sources: {name!r} is not a row of {path}{nearest(name, sources)}")
        sources[name] = sources[name].model_copy(update={"path": _place(sources[name], Path(expanduser(place)))})
    return sources


def _place(source: Source, place: Path) -> Path:
    """``place`` if it can stand for the download, or InputError."""
    wanted = {"file": place, "model": place / "config.json", "dataset": place / "README.md"}[source.kind]
    if not isfile(wanted):
        what = "" if source.kind == "file" else f" in {place}, the {source.kind}'s folder as the hub has it"
        raise InputError(f"config: sources.{source.name}: {wanted if not what else wanted.name} is not there{what}")
    return place


def _tasks(study: StudyConfig, root: Path) -> dict[str, TaskFile]:
    """The files of ``root``/tasks that the study names."""
    found = {}
    for name in study.tasks.names if study.tasks else ():
        path = root / "tasks" / f"{name}.yaml"
        if isfile(path):
            found[name] = _parse(TaskFile, path)
            if found[name].task != name:
                raise InputError(f"{path}: task is {found[name].task!r}: make it {name!r}, as the file is called")
    return found


def _named(folder: Path, name: str, what: str) -> Path:
    """``folder``/name.yaml, or InputError with the nearest name there is."""
    path = folder / f"{name}.yaml"
    if not isfile(path):
        known = [each.stem for each in folder.glob("*.yaml")]
        raise InputError(f"{what} {name!r} is not in {folder}{nearest(name, known)}")
    return path


def read_table(path: Path, *, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table with a header; InputError in one line if it cannot be read, or a cell is in no column."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file, delimiter=delimiter, strict=True)) or [[]]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a table in UTF-8 ({error})") from None
    for column in header:
        if header.count(column) > 1:
            raise InputError(f"{path}: column {column!r} stands twice")
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise InputError(f"{path}: row {number} has {len(line)} cells, the header {len(header)}")
    return [dict(zip(header, line, strict=True)) for line in lines]


def _parse(kind: type[Model], path: Path) -> Model:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no settings: see config/README.md")
    return validated(kind, data, str(path))


def validated(kind: type[Model], data: Any, where: str) -> Model:
    """``data`` as settings; pydantic's first complaint becomes one line."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] in ("value_error", "missing") else f" (got {_SHORTLY.repr(problem['input'])})"
        raise InputError(f"{where}: {f'{key}: ' if key else ''}{text[0].lower()}{text[1:]}{given}") from None


def _check_model(path: Path, model: ModelConfig, study: StudyConfig) -> None:
    if isinstance(model.source, WorldSource) and study.world is None:
        raise InputError(f"{path}: source.kind: world needs study {study.name!r} to have a world")
    if not isinstance(model.source, WorldSource) and study.corpus is None and study.world is None:
        raise InputError(
            f"study {study.name!r}: model {model.name!r} needs a corpus for its statistics: add the key corpus"
        )
    if isinstance(model.source, PathSource) and not isfile(model.source.path / "config.json"):
        raise InputError(f"{path}: source.path: {model.source.path} is not a model folder (no config.json)")
    if model.dtype is not None and not re.fullmatch(r"float(16|32|64)|bfloat16", model.dtype):
        raise InputError(
            f"{path}: dtype: {model.dtype!r}{nearest(model.dtype, ('float32', 'bfloat16', 'float16', 'float64'))}"
        )


def _check_methods(path: Path, whole: Study) -> None:
    """Every method of every model resolves under its settings, and tuning has a grid big enough."""
    for method in whole.study.methods:
        with _naming(f"{path}: methods"):
            resolve(method)
    if tried := whole.study.sensitivity:
        with _naming(f"{path}: sensitivity"):
            resolve(tried.method, hyperparameters={"eta": tried.eta[0], "alpha": tried.alpha[0]})
        if tried.method not in whole.study.methods:
            raise InputError(f"{path}: sensitivity.method: {tried.method!r} is not one of the study's methods: add it")
    for name, model in whole.models.items():
        with _naming(f"models/{name}.yaml: methods"):
            for method in (*model.methods, *whole.study.methods):
                resolve(method, hyperparameters=model.hyperparameters(method))
        with _naming(f"models/{name}.yaml: tuning_grid"):
            for method, grid in model.tuning_grid.items():
                resolve(method)
                for key, values in grid.items():
                    for value in values:
                        resolve(method, hyperparameters={key: value})
        if whole.study.tuning is None:
            continue
        for method in whole.study.methods:
            size = 1
            for values in model.tuning_grid.get(method, {}).values():
                size *= len(values)
            if size < whole.study.tuning.trials:
                raise InputError(
                    f"models/{name}.yaml: tuning_grid of {method!r} has {size} settings, but {path} tries "
                    f"{whole.study.tuning.trials} of every method: add values"
                )


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """An InputError inside begins with ``where``."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check_sources(path: Path, whole: Study) -> None:
    """Everything the study takes from outside is a row of sources.tsv of the right kind, or there."""
    rows = {kind: [row.name for row in whole.sources.values() if row.kind == kind] for kind in ("file", "dataset")}
    for name, dataset in whole.study.datasets.items():
        if dataset.source == "world" and dataset.references is not None:
            raise InputError(f"{path}: datasets.{name}.references: a world has its own: leave the key out")
        for key, value in dataset.files.items():
            if dataset.source == "download":
                _known(f"{path}: datasets.{name}.{key}", value, rows["file"])
            elif not isfile(value):
                raise InputError(f"{path}: datasets.{name}.{key}: {value} is not there")
    if whole.study.corpus is not None:
        _known(f"{path}: corpus.item", whole.study.corpus.item, rows["file"])
    for name, model in whole.models.items():
        if isinstance(model.source, HubSource) and whole.model_source(model) is None:
            ids = [row.url for row in whole.sources.values() if row.kind == "model"]
            where = f"models/{name}.yaml: source.id: {model.source.id!r} is no model of sources.tsv"
            raise InputError(f"{where}{nearest(model.source.id, ids)} (or add a row for it)")
    found = whole.task_data()
    for task in whole.study.tasks.names if whole.study.tasks else ():
        if task in whole.task_files and task not in found:
            own = whole.task_files[task]
            wanted = f"{own.dataset_path} {own.dataset_name or 'without subset'}"
            raise InputError(f"{whole.root}/tasks/{task}.yaml: no dataset of sources.tsv is {wanted}: add a row for it")
        if task not in found and task not in WORLD_TASKS:
            ours = [file.stem for file in (whole.root / "tasks").glob("*.yaml")]
            hint = nearest(task, [*WORLD_TASKS, *ours, *rows["dataset"]])
            raise InputError(f"{path}: tasks.names: unknown task {task!r}{hint} (or add its data to sources.tsv)")


def _known(where: str, name: str, rows: list[str]) -> None:
    if name not in rows:
        raise InputError(f"{where}: {name!r} is not a file of sources.tsv{nearest(name, rows)}")


Study.model_rebuild()
