"""A study's whole configuration: its file and everything that names, merged, held against the methods there are.

``load_study`` reads ``studies/NAME.yaml`` and the ``models/*.yaml`` it names and returns one ``Study``. Every mistake
is an ``InputError`` of one line: the file, the key, and the nearest valid name. No torch import.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os.path import isfile  # unlike Path.is_file, False for a name too long for the file system
from pathlib import Path
from typing import Any

from sphere.config.base import Settings, read_settings
from sphere.config.dataset import CORPUS_TASKS
from sphere.config.evaluation import NeutralSettings
from sphere.config.facts import FACTS_TASKS
from sphere.config.model import GgufSource, HubSource, ModelConfig, PathSource, WorldSource
from sphere.config.sources import Source, load_sources
from sphere.config.study import StudyConfig
from sphere.config.tasks import TaskFile
from sphere.config.world import WORLD_TASKS
from sphere.editing.methods import Method, resolve
from sphere.errors import InputError, nearest
from sphere.plugins import added, names

MADE_TASKS = (*WORLD_TASKS, *FACTS_TASKS, *CORPUS_TASKS)
"""General-ability tasks that a study makes itself."""


class Study(Settings):
    """A study with everything it names, merged and validated."""

    study: StudyConfig
    models: dict[str, ModelConfig]
    sources: dict[str, Source]
    task_files: dict[str, TaskFile] = {}
    """The study's tasks that are files of config/tasks/."""
    outside_tasks: dict[str, Path] = {}
    """The harness's YAML of those that another installed package adds, by their entry points."""
    root: Path = Path("config")
    """The folder that all of it was read from."""

    @property
    def locks(self) -> Path:
        """The folder that keeps what first downloads brought (``sphere.data.download``)."""
        return self.root / "sources.lock"

    def layers_with_statistics(self, model: ModelConfig) -> list[int]:
        """Layers whose key statistics the study needs: the edited ones, and those a method chooses for itself."""
        chosen = (
            resolve(method, hyperparameters=model.hyperparameters(method)).hyperparameters.get("layer")
            for method in self.study.methods
        )
        return sorted({*model.layers, *(layer for layer in chosen if layer is not None)})

    def takes_gradients(self, model: ModelConfig) -> bool:
        """Whether a method of the study needs the text's gradients beside its keys."""
        return any(self.method(model.name, method).needs_gradients for method in self.study.methods)

    def method(self, model: str, name: str) -> Method:
        """A method under the settings that its model's file has for it."""
        return resolve(name, hyperparameters=self.models[model].hyperparameters(name))

    def spectra(self, model: ModelConfig) -> set[str]:
        """The decompositions of the unedited model that a method of the study reads."""
        methods = {*self.study.methods, *([self.study.sensitivity.method] if self.study.sensitivity else [])}
        return {name for method in methods for name in self.method(model.name, method).spectra}

    def methods_used(self) -> list[dict[str, Any]]:
        """Every method of every model: what it is made of, whose package that is, and its settings before tuning."""
        found = []
        for name in self.models:
            for method in self.study.methods:
                made = self.method(name, method)
                parts = [made.solver.name, *(process.name for process in made.postprocess)]
                settings = ", ".join(f"{key}={value}" for key, value in made.hyperparameters.items())
                row = {"model": name, "method": method, "parts": " + ".join(parts), "settings": settings}
                found.append(row | {"packages": ", ".join(sorted(set(made.packages.values()))) or "sphere"})
        return found

    def packages(self, model: str, method: str) -> list[str]:
        """The outside packages, with their versions, that a method of a model comes from."""
        return sorted(set(self.method(model, method).packages.values()))

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
    config = read_settings(StudyConfig, path)
    files = {name: _named(root / "models", name, f"{path}: models") for name in config.models}
    models = {name: read_settings(ModelConfig, file) for name, file in files.items()}
    for name, model in list(models.items()):
        if model.name != name:
            raise InputError(f"{files[name]}: name is {model.name!r}: make it {name!r}, as the file is called")
        models[name] = model.model_copy(update={"values": model.values.changed(config.values, f"{path}: values")})
        _check_model(files[name], model, config)
    sources = load_sources(root / "sources.tsv", places=places)
    own, outside = _tasks(config, root), _outside_tasks(config, root)
    whole = Study(study=config, models=models, sources=sources, task_files=own, outside_tasks=outside, root=root)
    _check_methods(path, whole)
    _check_sources(path, whole)
    return whole


def _tasks(study: StudyConfig, root: Path) -> dict[str, TaskFile]:
    """The files of ``root``/tasks that the study names."""
    found = {}
    for name in study.tasks.names if study.tasks else ():
        path = root / "tasks" / f"{name}.yaml"
        if isfile(path):
            found[name] = read_settings(TaskFile, path)
            if found[name].task != name:
                raise InputError(f"{path}: task is {found[name].task!r}: make it {name!r}, as the file is called")
    return found


def _outside_tasks(study: StudyConfig, root: Path) -> dict[str, Path]:
    """The tasks that other packages add, as far as the study names them."""
    found = {}
    for name in study.tasks.names if study.tasks else ():
        own = MADE_TASKS if not isfile(root / "tasks" / f"{name}.yaml") else (name,)
        task = added("sphere.tasks", name, known=own)
        if task is not None:
            path = Path(task.of_kind((str, Path), "the path of a task's YAML"))
            if not isfile(path):
                raise InputError(f"{task.where}: {path} is not there: mend or uninstall the package")
            found[name] = path
    return found


def _named(folder: Path, name: str, what: str) -> Path:
    """``folder``/name.yaml, or InputError with the nearest name there is."""
    path = folder / f"{name}.yaml"
    if not isfile(path):
        known = [each.stem for each in folder.glob("*.yaml")]
        raise InputError(f"{what} {name!r} is not in {folder}{nearest(name, known)}")
    return path


def _check_model(path: Path, model: ModelConfig, study: StudyConfig) -> None:
    if isinstance(model.source, WorldSource) and study.world is None:
        raise InputError(f"{path}: source.kind: world needs study {study.name!r} to have a world")
    if not isinstance(model.source, WorldSource) and study.corpus is None and study.world is None:
        raise InputError(
            f"study {study.name!r}: model {model.name!r} needs a corpus for its statistics: add the key corpus"
        )
    if isinstance(model.source, GgufSource) and model.source.path is not None and not isfile(model.source.path):
        raise InputError(f"{path}: source.path: {model.source.path} is not there")
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
    if whole.study.locate:
        with _naming(f"{path}: locate"):
            resolve(whole.study.locate.method)
    if tried := whole.study.sensitivity:
        with _naming(f"{path}: sensitivity"):
            resolve(tried.method, hyperparameters={"eta": tried.eta[0], "alpha": tried.alpha[0]})
        if tried.method not in whole.study.methods:
            raise InputError(f"{path}: sensitivity.method: {tried.method!r} is not one of the study's methods: add it")
    for name, model in whole.models.items():
        with _naming(f"models/{name}.yaml: methods"):
            located = [whole.study.locate.method] if whole.study.locate else []
            for method in (*model.methods, *whole.study.methods, *located):
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
    sources = whole.sources.values()
    rows = {
        "file": [row.name for row in sources if row.is_file],
        "dataset": [row.name for row in sources if row.kind == "dataset"],
    }
    for name, dataset in whole.study.datasets.items():
        if dataset.source == "world" and dataset.references is not None:
            raise InputError(f"{path}: datasets.{name}.references: a world has its own: leave the key out")
        for key, value in dataset.files.items():
            if dataset.source == "download":
                _known(f"{path}: datasets.{name}.{key}", value, rows["file"])
            elif not isfile(value):
                raise InputError(f"{path}: datasets.{name}.{key}: {value} is not there")
    if whole.study.neutral is not None:
        _check_neutral(path, whole, whole.study.neutral)
    if whole.study.corpus is not None:
        item, own_text = whole.study.corpus.item, whole.study.corpus.path
        if item is not None:
            _known(f"{path}: corpus.item", item, rows["file"])
        if own_text is not None and not isfile(own_text):
            raise InputError(f"{path}: corpus.path: {own_text} is not there")
    for name, model in whole.models.items():
        if isinstance(model.source, HubSource) and whole.model_source(model) is None:
            ids = [row.url for row in whole.sources.values() if row.kind == "model"]
            where = f"models/{name}.yaml: source.id: {model.source.id!r} is no model of sources.tsv"
            raise InputError(f"{where}{nearest(model.source.id, ids)} (or add a row for it)")
        if isinstance(model.source, GgufSource) and model.source.item is not None:
            _known(f"models/{name}.yaml: source.item", model.source.item, rows["file"])
    found = whole.task_data()
    for task in whole.study.tasks.names if whole.study.tasks else ():
        if task in whole.task_files and task not in found:
            own = whole.task_files[task]
            wanted = f"{own.dataset_path} {own.dataset_name or 'without subset'}"
            raise InputError(f"{whole.root}/tasks/{task}.yaml: no dataset of sources.tsv is {wanted}: add a row for it")
        if task not in found and task not in MADE_TASKS and task not in whole.outside_tasks:
            ours = [file.stem for file in (whole.root / "tasks").glob("*.yaml")]
            hint = nearest(task, [*MADE_TASKS, *ours, *rows["dataset"], *names("sphere.tasks")])
            raise InputError(f"{path}: tasks.names: unknown task {task!r}{hint} (or add its data to sources.tsv)")


def _check_neutral(path: Path, whole: Study, neutral: NeutralSettings) -> None:
    """The texts are there: the user's, or, as far as can be told before it is made, those of the corpus."""
    if neutral.file is not None:
        if not isfile(neutral.file):
            raise InputError(f"{path}: neutral.file: {neutral.file} is not there")
    elif whole.study.corpus is None and whole.study.world is not None:
        taken = max(model.statistics.documents for model in whole.models.values())
        if taken + neutral.passages > whole.study.world.documents:
            raise InputError(
                f"{path}: neutral.passages: {neutral.passages} texts behind the {taken} of key statistics, but "
                f"world.documents is {whole.study.world.documents}: lower it, or raise that"
            )


def _known(where: str, name: str, rows: list[str]) -> None:
    if name not in rows:
        raise InputError(f"{where}: {name!r} is not a file of sources.tsv{nearest(name, rows)}")
