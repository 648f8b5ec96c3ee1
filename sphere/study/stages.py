"""What the workflow's heavier jobs do: files in, one piece of the library on a loaded model, files out."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sphere.config.evaluation import NeutralSettings, StrictSettings, TaskSettings
from sphere.config.model import EditSettings
from sphere.data.records import EditRequest, load_requests
from sphere.editing.contexts import Contexts
from sphere.editing.frozen import FrozenTargets
from sphere.editing.loop import Editor
from sphere.editing.measurement import Record
from sphere.editing.methods import resolve
from sphere.editing.spectra import Spectra
from sphere.editing.state import EditState
from sphere.editing.stats import Statistics
from sphere.errors import NumericalError
from sphere.evaluation import general_ability, metrics, neutral
from sphere.evaluation.general_ability import TaskData, evaluate_tasks
from sphere.evaluation.generation import GenerationSettings, evenly, fit_tfidf, read_tfidf
from sphere.evaluation.metrics import evaluate_requests
from sphere.evaluation.neurons import gather_neurons
from sphere.files import write_csv
from sphere.models.adapters import adapter
from sphere.models.loading import LoadedModel, load
from sphere.models.precision import diverged_may_miss
from sphere.progress import track
from sphere.study.unfinished import Unfinished

Incident = tuple[int, int, str, str]
"""A row of incidents.csv."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a stream's state after so many ``edits`` goes, and the rows of what was measured since the one before."""

    edits: int
    state: Path
    energy: Path
    """One row a measured batch, the last among them, and layer; batch 0 is the unedited model."""
    timing: Path
    """One row a batch and phase, in wall seconds."""
    incidents: Path
    cost: Path

    def write(self, state: EditState, records: Sequence[Record], incidents: Sequence[Incident]) -> None:
        state.save(self.state)
        energy = [row for record in records for row in record.energy]
        write_csv(pd.DataFrame(energy, columns=list(ENERGY_COLUMNS)), self.energy)
        timing = [(r.edits, r.batch, phase, seconds) for r in records for phase, seconds in r.seconds.items()]
        write_csv(pd.DataFrame(timing, columns=["edits", "batch", "phase", "seconds"]), self.timing)
        write_csv(pd.DataFrame(incidents, columns=list(INCIDENT_COLUMNS)), self.incidents)
        counted = [record.operations for record in records if not math.isnan(record.operations)]
        cost = state.position, counted[0] if counted else None, *_peaks(), *state.sizes()
        write_csv(pd.DataFrame([cost], columns=list(COST_COLUMNS)), self.cost)


CHECKPOINT_FILES = tuple(each.name for each in fields(Checkpoint) if each.name != "edits")
"""What a checkpoint's files are called."""


def checkpoints_left(
    files: Sequence[Sequence[Path]], unfinished: Unfinished, previous: Path | None, *, goes_on: bool = False
) -> tuple[list[Checkpoint], Callable[[Checkpoint], None], Path | None]:
    """The checkpoints that no earlier start of the job finished, what to call with each, and the state before them.

    ``files`` are the job's outputs, for each of ``CHECKPOINT_FILES`` those of all checkpoints (``.../editsN/...``).
    ``goes_on``: the job does not end behind the last checkpoint.
    """
    places = {int(each[0].parent.name.removeprefix("edits")): each for each in zip(*files, strict=True)}
    left = dict(places)
    for edits, place in places.items():
        if not unfinished.has(place):
            break
        previous = unfinished.path(place[0])
        print(f"{previous}: finished before", flush=True)
        del left[edits]
    todo = [Checkpoint(edits, *map(unfinished.path, place)) for edits, place in left.items()]

    def written(checkpoint: Checkpoint) -> None:
        if goes_on or checkpoint is not todo[-1]:  # a job that ends takes the digest of every output itself
            unfinished.finish(places[checkpoint.edits])

    return todo, written, previous


def edit_stream(
    model: Path,
    stream: Path,
    checkpoints: Sequence[Checkpoint],
    on_written: Callable[[Checkpoint], None] = lambda _: None,
    *,
    method: str,
    hyperparameters: Mapping[str, Any],
    editing: EditSettings,
    contexts: Path,
    statistics: Path,
    spectra: Sequence[Path],
    targets: Sequence[Path] = (),
    previous: Path | None,
    batch_size: int,
    energy_every: int,
    seed: int,
) -> None:
    """Edit the stream from where ``previous`` stands (its start without one) to each checkpoint in turn, and write it.

    A stream whose numbers stay unusable in higher precision stops there: its state says so, and every later checkpoint
    passes that state on.
    """
    if not checkpoints:
        return
    state = None if previous is None else EditState.load(previous)
    if state is not None and state.stopped:
        print(f"the stream stopped after {state.position} edits: {state.stopped}", flush=True)
        for checkpoint in checkpoints:
            checkpoint.write(state, [], [])
            on_written(checkpoint)
        return
    chosen = resolve(method, hyperparameters=hyperparameters)
    for remark in chosen.remarks:
        print(remark, flush=True)
    loaded = load(model, **editing.load_settings())
    requests = load_requests(stream).requests
    editor = Editor(
        loaded.model,
        loaded.tokenizer,
        chosen,
        layers=editing.layers,
        values=editing.values,
        contexts=Contexts.read(contexts),
        statistics=Statistics.load(statistics),
        spectra=Spectra.load(spectra),
        targets=FrozenTargets.load(targets),
        seed=seed,
        state=state,
        energy_every=energy_every,
        energy_at=tuple(checkpoint.edits for checkpoint in checkpoints),
    )
    records = [editor.first_record()] if state is None else []
    position, stopped = state.position if state else 0, ""
    for checkpoint in checkpoints:
        incidents: list[Incident] = []
        todo = range(position, position if stopped else checkpoint.edits, batch_size)
        for start in track(todo, f"{method}: batches to {checkpoint.edits} edits"):
            batch = requests[start : min(start + batch_size, checkpoint.edits)]
            try:
                editor.run(batch, batch_size=batch_size, on_batch=records.append)
            except NumericalError as error:
                stopped = str(error)
            failure = stopped or records[-1].retried
            if failure:
                incidents.append((start, start // batch_size + 1, "stopped" if stopped else "retried", failure))
                print(f"{incidents[-1][2]} after {start} edits: {failure}", flush=True)
            if not stopped and records[-1].skipped:
                incidents.append((start, start // batch_size + 1, "skipped", records[-1].skipped))
            if stopped:
                break
        checkpoint.write(replace(editor.state, stopped=stopped), records, incidents)
        on_written(checkpoint)
        records, position = [], checkpoint.edits


ENERGY_COLUMNS = (
    *("edits", "batch", "layer", "he_sum", "he_mean", "delta_he", "theorem_k", "perturbation"),
    *("unit_perturbation", "bound"),
    *("update_norm", "weight_norm", "editable_share"),
)
INCIDENT_COLUMNS = ("edits", "batch", "event", "reason")
COST_COLUMNS = ("edits", "operations", "peak_memory", "peak_device_memory", "weights", "kept")


def _peaks() -> tuple[int, int | None]:
    """The most main memory that this process has held, and the most that tensors have held of its GPU, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    main = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return main, torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None


def evaluate_states(
    model: Path,
    stream: Path,
    states: Sequence[Path],
    outs: Sequence[Path],
    on_written: Callable[[Path], None] = lambda _: None,
    *,
    load_settings: Mapping[str, Any],
    references: Path | None,
    generation: GenerationSettings | None,
    word_weights: tuple[Path, Path] | None = None,
    records: int | None = None,
    strict: StrictSettings | None = None,
    belief: bool = True,
    portability: bool = True,
    in_context: bool = False,
) -> None:
    """Evaluate each state on all edits made up to it, one CSV a state; without states, the unedited model on them all.

    With ``records``, on so many of them, evenly spread; ``in_context``, with each one's new fact before its prompts.

    A state of a stream that stopped before its checkpoint gets a CSV without rows; where its logits are not finite,
    as a diverged edit's can be, it misses. The word weights of consistency come from ``word_weights`` (vocabulary and
    frequencies), or else from the whole stream's reference texts, so that checkpoints compare.
    """
    if not outs:
        return
    loaded = load(model, **load_settings)
    requests = load_requests(stream, references=references).requests
    tfidf = None
    if generation is not None:
        tfidf = read_tfidf(*word_weights) if word_weights else _word_weights(requests)
    for state, out in zip(states or (None,), outs, strict=True):
        upto = len(requests) if state is None else _put(loaded, state)
        frame = pd.DataFrame(columns=list(metrics.COLUMNS))
        if upto is not None:
            some = [requests[i].in_context() if in_context else requests[i] for i in evenly(upto, records)]
            with diverged_may_miss(state is not None):
                frame = evaluate_requests(
                    loaded.model,
                    loaded.tokenizer,
                    some,
                    generation=generation,
                    tfidf=tfidf,
                    strict=strict,
                    belief=belief,
                    portability=portability,
                )
        write_csv(frame, out)
        on_written(out)
        print(f"{out}: {len(frame)} records", flush=True)


def _word_weights(requests: Sequence[EditRequest]) -> Any:
    """TF-IDF weights over the distinct reference texts, or None where there are none."""
    texts = sorted({text for request in requests for text in request.references})
    return fit_tfidf(texts) if texts else None


def score_states(
    model: Path,
    states: Sequence[Path],
    outs: Sequence[Path],
    on_written: Callable[[Path], None] = lambda _: None,
    *,
    load_settings: Mapping[str, Any],
    tasks: TaskSettings,
    include_paths: Iterable[Path] = (),
    data: Mapping[str, TaskData] | None = None,
) -> None:
    """General ability of each state, one CSV a state (without rows, where the stream stopped before its checkpoint).

    Without states, of the unedited model.
    """
    if not outs:
        return
    loaded = load(model, **load_settings)
    for state, out in zip(states or (None,), outs, strict=True):
        frame = pd.DataFrame(columns=list(general_ability.COLUMNS))
        if state is None or _put(loaded, state) is not None:
            frame = evaluate_tasks(
                loaded.model,
                loaded.tokenizer,
                list(tasks.names),
                include_paths=include_paths,
                data=data,
                limit=tasks.limit,
                num_fewshot=tasks.fewshot,
            )
        write_csv(frame, out)
        on_written(out)
        print(f"{out}: {len(frame)} tasks", flush=True)


def measure_drift(
    model: Path,
    texts: Path,
    states: Sequence[Path],
    outs: Sequence[Path],
    on_written: Callable[[Path], None] = lambda _: None,
    *,
    load_settings: Mapping[str, Any],
    settings: NeutralSettings,
    skip: int,
) -> None:
    """Bits a byte and drift of each state on ``texts``, one CSV a state (without rows, where the stream stopped before
    its checkpoint); without states, of the unedited model. The first ``skip`` texts are left out."""
    if not outs:
        return
    loaded = load(model, **load_settings)
    parts = adapter(loaded.model)
    read = neutral.read_texts(texts, skip=skip, count=settings.passages)
    taken = neutral.passages(loaded.tokenizer, read, length=settings.length)
    unedited = neutral.states_of(parts, loaded.tokenizer, taken)
    for state, out in zip(states or (None,), outs, strict=True):
        frame = pd.DataFrame(columns=list(neutral.COLUMNS))
        if state is None:
            frame = neutral.compare(parts, taken, unedited)
        elif _put(loaded, state) is not None:
            frame = neutral.compare(parts, taken, neutral.states_of(parts, loaded.tokenizer, taken), unedited)
        write_csv(frame, out)
        on_written(out)
        print(f"{out}: {len(frame)} metrics on {len(taken)} texts", flush=True)


def _put(loaded: LoadedModel, path: Path) -> int | None:
    """Put a state's evaluated weights into the model, in the precision they were edited in.

    Returns the edits it holds, None if its stream stopped.
    """
    state = EditState.load(path, continued=False)
    if state.stopped:
        return None
    parts = adapter(loaded.model)
    parts.widen(state.weights)
    for layer, weight in state.weights.items():
        parts.set_weight(layer, weight)
    return state.position


def compare_neurons(
    models: Mapping[str, tuple[Path, Mapping[str, Any]]],
    states: Sequence[tuple[Mapping[str, Any], Path]],
    tables: Path,
) -> None:
    """Write neuron_cosine.csv and neurons.safetensors into ``tables`` (``sphere.report.tables.neurons``).

    ``models`` maps a name to its folder and how it is loaded; ``states`` are (names of the stream, path of its state).
    Streams that stopped early are left out: they have no state of the last checkpoint.
    """
    layers: dict[str, set[int]] = {name: set() for name in models}
    for names, path in states:
        layers[names["model"]] |= EditState.load(path, continued=False).weights.keys()
    originals = {}
    for name, (folder, load_settings) in models.items():
        parts = adapter(load(folder, **{**load_settings, "device": "cpu"}).model)  # nothing is computed with it
        originals[name] = {layer: parts.weight(layer).float().cpu().numpy() for layer in sorted(layers[name])}

    def edited() -> Iterator[tuple[Mapping[str, Any], dict[int, Any]]]:
        for names, path in states:
            state = EditState.load(path, continued=False)
            if not state.stopped:
                yield names, {layer: weight.numpy() for layer, weight in state.weights.items()}

    gather_neurons(tables, originals, edited())
