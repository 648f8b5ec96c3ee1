"""General ability through lm-evaluation-harness, on a model that is already in memory."""

from __future__ import annotations

import contextlib
import copy
import difflib
import io
import logging
import math
import random
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.config.dataset import CORPUS_TASKS
from sphere.data.facts.tasks import TASK_FAMILIES as FACTS_FAMILIES
from sphere.data.world.tasks import TASK_FAMILIES as WORLD_FAMILIES
from sphere.errors import InputError
from sphere.evaluation.neutral import ratio
from sphere.models.adapters import adapter

TASK_FAMILIES = {
    **WORLD_FAMILIES,
    **FACTS_FAMILIES,
    **dict.fromkeys(CORPUS_TASKS, "perplexity"),
    "gsm8k": "reasoning",
    "rte": "nli",
    "nq_open": "open_domain_qa",
    "boolq": "closed_domain_qa",
    "sphere_gsm8k_zeroshot": "reasoning_zeroshot",
    "sphere_rte_zeroshot": "nli_zeroshot",
    "sphere_nq_zeroshot": "open_domain_qa_zeroshot",
    "sphere_boolq_zeroshot": "closed_domain_qa_zeroshot",
}
"""The four abilities of the paper, and apart from them those asked with our zero-shot prompts after the paper's; a task
that is not here is a family of its own."""

TaskData = tuple[Path, str | None]
"""A dataset's folder, as the hub has it, and its subset."""
COLUMNS = ("task", "family", "metric", "value", "stderr", "n")
BITS = "bits_per_byte"
"""-log2 P of passages over their bytes: unlike a perplexity, it does not overflow where a model has collapsed."""
METRICS = ("acc", "exact_match", BITS)
"""The metrics reported, the first that a task has."""


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    include_paths: Iterable[Path] = (),
    data: Mapping[str, TaskData] | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    num_fewshot: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Run ``tasks`` and return one row a task with the columns ``COLUMNS``.

    A task is looked for first in ``include_paths`` (folders of the harness's task YAMLs; relative ``data_files`` are
    taken from the YAML's folder), then among the harness's own. ``data`` maps tasks to the dataset they ask from, where
    it lies on this disk. ``value`` is in [0, 1], of passages in bits a byte; ``stderr`` is its standard error (NaN for
    a single item), ``n`` the items scored, at most ``limit``. ``num_fewshot`` replaces the task's own number; passages
    have none at all; ``seed`` draws the few-shot examples.
    Tasks over local files or ``data`` touch no network and leave nothing in a user's cache; neither ``tokenizer`` nor
    the global random state is changed. Raises InputError for an unknown or unusable task.
    """
    if not tasks:
        raise InputError("no general-ability task is named: give at least one, such as boolq")
    folders = sorted(include_paths)
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder of task YAMLs: check the path")
    with _isolated(), tempfile.TemporaryDirectory(prefix="sphere-tasks-") as cache:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        loaded = _load_tasks(tasks, folders, data or {}, cache)
        for task in loaded.values():
            if num_fewshot is not None or task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=num_fewshot or 0)
            task.set_fewshot_seed(seed=seed)
        harness_model = HFLM(pretrained=model, tokenizer=_complete(tokenizer, model), batch_size=batch_size)
        outcome = evaluate(
            lm=harness_model, task_dict={"tasks": loaded}, limit=limit, bootstrap_iters=_BOOTSTRAP, log_samples=False
        )
    return pd.DataFrame([_row(name, task, outcome) for name, task in loaded.items()], columns=list(COLUMNS))


def _complete(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """A copy with an end and a padding token that the model has, for the harness needs both.

    Where there is no end token, or it is beyond the embedding, the model's own or else token 0 stands for it.
    """
    own, known = copy.deepcopy(tokenizer), adapter(model).vocabulary
    if own.eos_token_id is None or own.eos_token_id >= known:
        ends = model.config.eos_token_id
        end = ends[0] if isinstance(ends, list) and ends else ends
        own.eos_token = own.convert_ids_to_tokens(end if isinstance(end, int) and end < known else 0)
    if own.pad_token_id is None or own.pad_token_id >= known:
        own.pad_token = own.eos_token
    return own


_BOOTSTRAP = 100
"""Above 0, so that the harness gives the closed-form standard error of a mean; only other metrics are bootstrapped."""


def _load_tasks(tasks: Sequence[str], folders: list[Path], data: Mapping[str, TaskData], cache: str) -> dict[str, Any]:
    """The harness's task objects by name; its own tasks are indexed only if some name is not local."""
    from lm_eval.tasks import TaskManager

    local = TaskManager(include_path=folders, include_defaults=False).task_index if folders else {}
    foreign = [task for task in tasks if task not in local]
    manager = TaskManager(include_path=folders, include_defaults=bool(foreign))
    found: dict[str, Any] = {}
    for name in tasks:
        if name not in manager.all_subtasks:
            near = difflib.get_close_matches(name, [*TASK_FAMILIES, *manager.all_subtasks], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"local ones are {', '.join(sorted(local)) or 'none'}"
            raise InputError(f"unknown general-ability task {name!r}: {hint}")
        spec: str | dict[str, Any] = name
        if name in data or name in local:
            entry = manager.task_index[name]
            spec = _local_spec({**entry.cfg, **_from_disk(name, entry.cfg, data)}, entry.yaml_path.parent, cache)
        try:
            found.update(manager.load([spec])["tasks"])
        except Exception as error:  # whatever the harness and its data sets raise, down to a missing network
            reason = str(error).strip().splitlines() or [type(error).__name__]
            message = f"task {name!r} cannot be loaded ({reason[0]}): check its YAML and that its data are here"
            raise InputError(message) from error
    return found


def _from_disk(name: str, config: Mapping[str, Any], data: Mapping[str, TaskData]) -> dict[str, Any]:
    """What a task's settings become when its dataset is taken from ``data``."""
    if name not in data:
        return {}
    folder, subset = data[name]
    if config.get("dataset_name") not in (None, subset):
        raise InputError(f"task {name!r} is of subset {config['dataset_name']!r}, sources.tsv has {subset!r}: set it")
    return {"dataset_path": str(folder), "dataset_name": subset}


def _local_spec(config: dict[str, Any], folder: Path, cache: str) -> dict[str, Any]:
    """A local task's own settings, with its data files found and its data cache in ``cache``."""

    def place(file: str) -> str:
        return str(folder / file) if (folder / file).is_file() else file

    options = dict(config.get("dataset_kwargs") or {})
    files = options.get("data_files")
    if isinstance(files, dict):
        options["data_files"] = {
            split: [place(file) for file in listed] if isinstance(listed, list) else place(listed)
            for split, listed in files.items()
        }
    elif isinstance(files, str):
        options["data_files"] = place(files)
    return {**config, "dataset_kwargs": {**options, "cache_dir": cache}}


def _row(name: str, task: Any, outcome: dict[str, Any]) -> dict[str, Any]:
    results = outcome["results"][name]
    for wanted in METRICS:
        for key, value in results.items():  # "acc,none"; where filters differ (gsm8k), the task's first
            metric, _, chosen = key.partition(",")
            if metric == wanted:
                stderr = _bits_stderr(task) if metric == BITS else results.get(f"{metric}_stderr,{chosen}")
                return {
                    "task": name,
                    "family": TASK_FAMILIES.get(name, name),
                    "metric": metric,
                    "value": float(value),
                    "stderr": float(stderr) if isinstance(stderr, (int, float)) else math.nan,
                    "n": int(outcome["n-samples"][name]["effective"]),
                }
    raise InputError(f"task {name!r} reports none of {', '.join(METRICS)}: give it such a metric in its metric_list")


def _bits_stderr(task: Any) -> float:
    """Standard error of bits a byte over passages, as of a ratio; the harness has none of it."""
    bits = [-each.resps[0] / math.log(2) for each in task.instances]
    return ratio(bits, [task.count_bytes(each.args[0]) for each in task.instances])[1]


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Keep the harness's progress bars, logging and warnings off the terminal, and put back the global random state."""
    state = random.getstate()
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(state)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
