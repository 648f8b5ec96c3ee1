"""The batch loop of sequential editing: an ``EditState`` in, an ``EditState`` out, nothing kept anywhere else.

A stream edited in two segments, through a saved state, gives the same bits as the stream edited in one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.artifacts import write_atomically
from sphere.batching import DEFAULT_TOKEN_BUDGET, run_in_batches
from sphere.config import ValueSettings
from sphere.contexts import Contexts, sample_contexts
from sphere.data import EditRequest, validate_batch, validate_case_ids
from sphere.directions import PrincipalSpectrum, principal_spectrum
from sphere.energy import Energy, measure_energy, perturbation, theorem_bound, unit_perturbation
from sphere.errors import InputError, NumericalError, out_of_memory
from sphere.hooks import capture_inputs, capture_output, forward
from sphere.linalg import require_finite
from sphere.methods import Method, resolve
from sphere.models import Adapter, adapter
from sphere.postprocess.base import PostContext, PostProcess
from sphere.postprocess.sphere import Sphere
from sphere.solvers.alphaedit import AlphaEdit
from sphere.solvers.base import ClosedFormSolver, GradientSolver, LayerProblem
from sphere.solvers.null_space import KeySpectrum, key_spectrum
from sphere.spectra import Spectra
from sphere.stats import Statistics, collect_statistics
from sphere.tokens import encode_many, pad_id, right_pad
from sphere.values import encode_in_contexts, target_values

Matrices = dict[int, Tensor]
"""Layer -> matrix."""


@dataclass(frozen=True)
class EditState:
    """Everything a later segment of the stream needs, and what is evaluated."""

    method: str
    seed: int
    position: int
    """Edits made."""
    batch: int
    """Batches made."""
    weights: Matrices
    """Layer -> (d_out, d_in): the edited weights, as they are evaluated."""
    carried: Matrices = field(default_factory=dict)
    """Layer -> the weight the next batch starts from, where that is another one (PRUNE)."""
    past: Matrices = field(default_factory=dict)
    """Layer -> M (d_in, d_in) float64, the sum of K K^T over all batches, for solvers that use it."""
    pretrained: Matrices = field(default_factory=dict, repr=False)
    """Layer -> the weight before any edit. Not saved: it is the model's own; ``base`` tells whether it is."""
    base: str = ""
    """Digest of the pretrained weights of the edited layers."""
    contexts: Contexts = field(default_factory=Contexts)
    """The context templates of all its edits."""
    stopped: str = ""
    """Why the stream ended at ``position``, before all its edits were made; empty while it goes on."""

    def save(self, path: str | Path) -> None:
        """Write the state as one safetensors file; written whole or not at all."""
        tensors = {
            f"{kind}.{layer}": tensor.cpu().contiguous()
            for kind, matrices in (("weights", self.weights), ("carried", self.carried), ("past", self.past))
            for layer, tensor in matrices.items()
        }
        note = {key: getattr(self, key) for key in ("method", "seed", "position", "batch", "base", "stopped")}
        note["contexts"] = self.contexts.types
        with write_atomically(path) as temporary:
            save_file(tensors, str(temporary), metadata={"sphere_state": json.dumps(note, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu", continued: bool = True) -> EditState:
        """Read a saved state; InputError if the file is none.

        Without ``continued`` it comes without what only a later segment needs, which can be most of it.
        """
        try:
            with safe_open(str(path), framework="pt", device=str(device)) as file:
                note = (file.metadata() or {}).get("sphere_state")
                names = [name for name in file.keys() if continued or name.startswith("weights.")]  # noqa: SIM118
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is not an edit state: {error}") from error
        if note is None:
            raise InputError(f"{path} is not an edit state: it was not written by sphere")
        matrices: dict[str, Any] = {"weights": {}, "carried": {}, "past": {}}
        for name, tensor in tensors.items():
            kind, layer = name.split(".")
            matrices[kind][int(layer)] = tensor
        fields = json.loads(note)
        return cls(**fields | {"contexts": Contexts.of(fields.get("contexts", ()))}, **matrices)


@dataclass(frozen=True)
class Record:
    """What one batch did; ``energy`` is reproducible to the bit, ``seconds`` is not."""

    edits: int
    batch: int
    energy: list[dict[str, float]]
    """One row a layer: the columns of energy.csv."""
    seconds: dict[str, float]
    """Wall seconds by phase: targets, keys, solve, post-process, projection, energy."""
    retried: str = ""
    """What was not finite at the first attempt, where the batch was made in higher precision."""


def weights_digest(weights: Mapping[int, Tensor]) -> str:
    """sha256 over the layers' numbers and contents."""
    sha = hashlib.sha256()
    for layer in sorted(weights):
        sha.update(f"{layer}:{tuple(weights[layer].shape)}".encode())
        sha.update(weights[layer].detach().cpu().float().contiguous().numpy().tobytes())
    return sha.hexdigest()


class Editor:
    """One model, one method, and what they need; ``run`` carries a state along a stream of requests.

    The model must be unedited when an Editor is made, unless ``state`` says what it was. Edited layers are kept in
    float32 (or wider) whatever the model's dtype, in the state and in the model itself (``Adapter.widen``), so that
    thousands of small updates do not drown in rounding. Energy is measured every ``energy_every`` batches, and after
    the numbers of edits in ``energy_at``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        method: Method,
        *,
        layers: Sequence[int],
        values: ValueSettings,
        contexts: Contexts,
        statistics: Statistics | None = None,
        spectra: Spectra | None = None,
        seed: int = 0,
        state: EditState | None = None,
        energy_every: int = 1,
        energy_at: Collection[int] = (),
        token_budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> None:
        self.adapter, self.tokenizer, self.method = adapter(model), tokenizer, method
        self.layers = method.edited_layers(layers)
        for i in self.layers:
            self.adapter.layer(i)  # InputError if the model has no such layer
        self.values, self.contexts, self.seed = values, contexts, seed
        self.energy_every, self.energy_at, self.token_budget = energy_every, energy_at, token_budget
        self.statistics = statistics
        self.dtype = torch.promote_types(self.adapter.dtype, torch.float32)
        if state is not None and state.pretrained.keys() >= set(self.layers):
            self.pretrained = {i: state.pretrained[i].to(self.adapter.device) for i in self.layers}
        else:
            self.pretrained = {i: self.adapter.weight(i).to(self.dtype).clone() for i in self.layers}
        self.base = weights_digest(self.pretrained)
        self.state = self._start(state)
        self.adapter.widen(self.layers)
        self.second_moments = self._second_moments()
        spectra = spectra or Spectra({}, {})
        self.bases = self._null_spaces(spectra.keys)
        self.directions = self._principal_directions(spectra.principal)
        self.kept: dict[int, dict[PostProcess, Any]] = {i: {} for i in self.layers}
        self.measured: tuple[Matrices, dict[int, Energy]] = ({}, {})
        self._show(self.state.carried or self.state.weights)

    # ------------------------------------------------------------------------------------------ preparation

    def _start(self, state: EditState | None) -> EditState:
        if state is None:
            fresh = {i: w.clone() for i, w in self.pretrained.items()}
            known: dict[str, Any] = {"pretrained": self.pretrained, "base": self.base, "contexts": self.contexts}
            return EditState(self.method.name, self.seed, 0, 0, fresh, **known)
        if state.method != self.method.name or state.seed != self.seed:
            raise InputError(
                f"the state was made by {state.method} with seed {state.seed}, not by {self.method.name} with seed "
                f"{self.seed}: continue it with its own method and seed"
            )
        if state.base != self.base:
            raise InputError(
                f"the state was edited from weights {state.base[:12]}, this model has {self.base[:12]}: "
                "continue it on its own pretrained model and layers"
            )
        if state.contexts != self.contexts:
            raise InputError("the state was made with other context templates: continue it with its own")
        place = self.adapter.device
        moved: dict[str, Any] = {
            kind: {i: t.to(place) for i, t in getattr(state, kind).items()} for kind in ("weights", "carried", "past")
        }
        return replace(state, **moved, pretrained=self.pretrained)

    def _moments(self) -> Mapping[int, Tensor]:
        """C of every edited layer, where ``statistics`` have it; none if the method needs none."""
        if not self.method.needs_statistics:
            return {}
        if self.statistics is None:
            raise InputError(f"{self.method.name} needs key second moments: give statistics")
        missing = [i for i in self.layers if i not in self.statistics.second_moments]
        if missing:
            raise InputError(f"the key statistics lack layer {missing[0]}: collect them for layers {list(self.layers)}")
        return {i: self.statistics.second_moments[i] for i in self.layers}

    def _second_moments(self) -> Matrices:
        """C on the model's device, for a solver that reads it; AlphaEdit reads its null space alone."""
        moments, solver = self._moments(), self.method.solver
        if not (isinstance(solver, ClosedFormSolver) and solver.needs_second_moment):
            return {}
        return {i: c.to(self.adapter.device) for i, c in moments.items()}

    def _null_spaces(self, known: Mapping[int, KeySpectrum]) -> Matrices:
        solver = self.method.solver
        if not isinstance(solver, AlphaEdit):
            return {}
        place = self.adapter.device
        return {
            i: solver.editable(known[i] if i in known else key_spectrum(c.to(place))).to(place)
            for i, c in self._moments().items()
        }

    def _principal_directions(self, known: Mapping[int, PrincipalSpectrum]) -> Matrices:
        """The pretrained principal directions, if the method projects on them."""
        wanted = [p for p in self.method.postprocess if isinstance(p, Sphere) and p.directions == "pretrained"]
        if not wanted or wanted[0].eta == 0 or wanted[0].alpha == 0:
            return {}
        place, eta = self.adapter.device, wanted[0].eta
        return {
            i: (known[i] if i in known else principal_spectrum(self.pretrained[i])).up_to(eta).to(place)
            for i in self.layers
        }

    # ------------------------------------------------------------------------------------------------- loop

    def run(
        self, requests: Sequence[EditRequest], *, batch_size: int, on_batch: Callable[[Record], None] | None = None
    ) -> EditState:
        """Edit ``requests`` in order in batches; the model is left with the state's evaluated weights.

        A batch with a result that is not finite is made again with the model in higher precision. Raises InputError,
        before the first batch, on requests that cannot be edited (together), NumericalError where higher precision did
        not help: state and model are then those after the last whole batch.
        """
        batches = list(_batches(requests, batch_size, self.adapter, self.tokenizer, self.contexts))
        try:
            for batch in batches:
                record = self._batch_or_again(batch)
                if on_batch is not None:
                    on_batch(record)
        finally:
            self._show(self.state.weights)
        return self.state

    def first_record(self) -> Record:
        """The energies before any edit, as the row of batch 0."""
        energies = self._energies(self.state.weights)
        return Record(0, 0, self._rows(energies, energies, self.state.weights, 0, 0), {})

    def _batch_or_again(self, requests: Sequence[EditRequest]) -> Record:
        """One batch, made again in higher precision if a result is not finite."""
        self._show(self.state.carried or self.state.weights)
        narrow = self.adapter.dtype
        try:
            return self._batch(requests)
        except NumericalError as error:
            if narrow == torch.float64:
                raise
            failure = f"batch {self.state.batch + 1} in {_name(narrow)}: {error}"
        try:
            with self._widened() as wide:
                self._show(self.state.carried or self.state.weights)
                return replace(self._batch(requests), retried=failure)
        except NumericalError as error:
            raise NumericalError(f"{failure}; in {_name(wide)}: {error}") from None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise NumericalError(f"{failure}; there is no memory to try higher precision") from None

    @contextmanager
    def _widened(self) -> Iterator[torch.dtype]:
        """The model's parameters in float32 if they were narrower, else in float64, and back; yields the dtype.

        Buffers stay as they are: rotary frequencies are kept wider than the parameters, and would come back rounded.
        """
        wide = torch.float32 if self.adapter.dtype.itemsize < 4 else torch.float64
        model = self.adapter.model
        before = [(parameter, parameter.dtype) for parameter in model.parameters()]
        try:
            for parameter, _ in before:
                parameter.data = parameter.data.to(wide)
            self.adapter = adapter(model)
            yield wide
        finally:
            for parameter, dtype in before:
                parameter.data = parameter.data.to(dtype)
            self.adapter = adapter(model)

    @torch.no_grad()
    def _batch(self, requests: Sequence[EditRequest]) -> Record:
        clock = _Clock(self.adapter.device)
        state = self.state
        before = state.carried or state.weights
        updates = {i: torch.zeros_like(w, dtype=torch.float64) for i, w in before.items()}
        solver = self.method.solver
        groups = [[request] for request in requests] if solver.one_at_a_time else [list(requests)]
        current = {i: w.double() for i, w in before.items()}
        for group in groups:
            if isinstance(solver, GradientSolver):
                solved = self._trained(solver, group, current, clock)
            else:
                assert isinstance(solver, ClosedFormSolver)
                solved = self._solved(solver, group, current, clock)
            for i in self.layers:
                updates[i] += solved[i]
        for i in self.layers:
            updates[i] = self._passed(self._processes("batch"), updates[i], i, before[i], clock)
        after = {i: (before[i].double() + updates[i]).to(self.dtype) for i in self.layers}
        for i, weight in after.items():
            if not torch.isfinite(weight).all():
                name = f"{self.method.name}'s weight of layer {i}"
                raise NumericalError(f"{name} is not finite after batch {state.batch + 1}: regularise more strongly")
        self._show(after)
        past = state.past
        if isinstance(solver, ClosedFormSolver) and solver.accumulates_keys:
            with clock("keys"):
                past = self._accumulated(requests, past)
        evaluated = self._evaluated(after, clock)
        number, edits = state.batch + 1, state.position + len(requests)
        rows: list[dict[str, float]] = []
        if number % self.energy_every == 0 or edits in self.energy_at:
            with clock("energy"):
                old, new = self._energies(state.weights), self._energies(evaluated)
                rows = self._rows(old, new, evaluated, edits, number)
        self.state = replace(
            state,
            position=edits,
            batch=number,
            weights=evaluated,
            carried=after if evaluated is not after else {},
            past=past,
        )
        return Record(edits, number, rows, clock.seconds)

    def _solved(
        self, solver: ClosedFormSolver, requests: Sequence[EditRequest], current: Matrices, clock: _Clock
    ) -> Matrices:
        """One closed-form solve a layer, in order, each seeing the earlier layers' updates; ``current`` is updated."""
        last = self.layers[-1]
        with clock("targets"):
            targets = target_values(
                self.adapter,
                self.tokenizer,
                requests,
                self.contexts,
                layer=last,
                settings=self.values,
                token_budget=self.token_budget,
            ).values  # (d, n)
        solved: Matrices = {}
        for number, i in enumerate(self.layers):
            with clock("keys"):
                keys, outputs = self._keys_and_outputs(requests, [i], last)
            with clock("solve"):
                problem = LayerProblem(
                    weight=current[i],
                    keys=keys[i],
                    residuals=(targets - outputs) / (len(self.layers) - number),
                    second_moment=self.second_moments.get(i) if solver.needs_second_moment else None,
                    past=self.state.past.get(i),
                    basis=self.bases.get(i),
                )
                update = solver.solve(problem)
            update = self._passed(self._processes("layer"), update, i, current[i], clock)
            solved[i] = update
            current[i] = current[i] + update
            self.adapter.set_weight(i, current[i])
        return solved

    def _trained(
        self, solver: GradientSolver, requests: Sequence[EditRequest], current: Matrices, clock: _Clock
    ) -> Matrices:
        """One layer fine-tuned in place; its change is the update."""
        (i,) = self.layers
        batch = encode_many(self.tokenizer, [(r.prompt, r.target_new, r.subject_end) for r in requests])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.state.batch)
        start = self.adapter.weight(i).double().clone()
        with clock("solve"), torch.enable_grad():
            solver.fit(
                self.adapter.model,
                self.adapter.parameter(i),
                batch,
                pad_id=pad_id(self.tokenizer),
                device=self.adapter.device,
                generator=generator,
            )
        update = self.adapter.weight(i).double() - start
        update = self._passed(self._processes("layer"), update, i, current[i], clock)
        current[i] = current[i] + update
        return {i: update}

    def _accumulated(self, requests: Sequence[EditRequest], past: Matrices) -> Matrices:
        """M + K K^T with the keys as they are after the batch."""
        keys, _ = self._keys_and_outputs(requests, self.layers, self.layers[-1])
        found: Matrices = {}
        for i, k in keys.items():  # one product at a time
            product = k @ k.T
            require_finite(product, f"layer {i}'s key products after the batch")
            found[i] = past[i] + product if past else product
        return found

    def _keys_and_outputs(
        self, requests: Sequence[EditRequest], layers: Sequence[int], last: int
    ) -> tuple[Matrices, Tensor]:
        """Keys (d_in, n) at ``layers``, averaged over contexts, and the bare prompt's output (d, n) of layer ``last``.

        Both at the subject's last token under the weights as they stand, float64. Nothing behind that token is run.
        """
        contexts = self.contexts
        rows: list[tuple[int, ...]] = []
        for request in requests:
            for encoded in encode_in_contexts(self.tokenizer, request, contexts, target=False):
                assert encoded.subject_last is not None
                rows.append(encoded.ids[: encoded.subject_last + 1])
        place, each = self.adapter.device, len(contexts.prefixes)
        modules = {i: self.adapter.projection(i) for i in layers}
        exact: Any = {"dtype": torch.float64, "device": place}
        found = {i: torch.empty(len(rows), self.adapter.weight(i).shape[1], **exact) for i in layers}
        outputs = torch.empty(len(rows), self.adapter.model.config.hidden_size, **exact)
        pad = pad_id(self.tokenizer)

        def run(batch: list[int]) -> None:
            ids, mask = right_pad([rows[i] for i in batch], pad, place)
            with capture_inputs(modules) as inputs, capture_output(self.adapter.layer(last), stop=True) as states:
                forward(self.adapter.backbone, input_ids=ids, attention_mask=mask, use_cache=False)
            at = torch.arange(len(batch), device=place), mask.sum(1) - 1
            for i in layers:
                found[i][batch] = inputs[i][at].double()
            outputs[batch] = states[0][at].double()

        run_in_batches([len(row) for row in rows], run, token_budget=self.token_budget)
        weights = torch.tensor(contexts.weights, dtype=torch.float64, device=place)
        keys = {i: torch.einsum("ncd,c->dn", k.view(len(requests), each, -1), weights) for i, k in found.items()}
        return keys, outputs[::each].T

    # -------------------------------------------------------------------------------------------- post-processes

    def _processes(self, scope: str) -> list[PostProcess]:
        """Those of one scope that every update passes: what stands in front of the first for evaluation."""
        each = takewhile(lambda p: p.stage == "update", self.method.postprocess)
        return [p for p in each if p.scope == scope]

    def _passed(
        self, processes: Sequence[PostProcess], update: Tensor, layer: int, weight: Tensor, clock: _Clock
    ) -> Tensor:
        """The update of a layer's ``weight`` after these post-processes, each timed under its own phase."""
        context = PostContext(weight, self.pretrained[layer], self.directions.get(layer), self.kept[layer])
        for process in processes:
            with clock(process.phase):
                update = process.apply(update, context)
        return update

    def _evaluated(self, after: Matrices, clock: _Clock) -> Matrices:
        """The weights to evaluate: ``after`` itself unless the method restrains the accumulated update."""
        processes = list(dropwhile(lambda p: p.stage == "update", self.method.postprocess))
        if not processes:
            return after
        evaluated = {}
        for i, weight in after.items():
            change = weight.double() - self.pretrained[i].double()
            change = self._passed(processes, change, i, weight, clock)
            evaluated[i] = (self.pretrained[i].double() + change).to(self.dtype)
        return evaluated

    def _show(self, weights: Matrices) -> None:
        """Put these weights into the model."""
        for i, weight in weights.items():
            self.adapter.set_weight(i, weight)

    def _energies(self, weights: Matrices) -> dict[int, Energy]:
        """Layer -> energy. The last weights' are remembered, since what a batch ends with the next one starts from."""
        if self.measured[0] is not weights:
            self.measured = weights, {i: measure_energy(weights[i]) for i in self.layers}
        return self.measured[1]

    def _rows(
        self, old: dict[int, Energy], new: dict[int, Energy], weights: Matrices, edits: int, batch: int
    ) -> list[dict[str, float]]:
        """The rows of energy.csv for one batch, which made ``weights`` of the state's.

        Theorem 1 is about an update: its quantities are NaN for batch 0, which is none. The perturbation is measured
        twice: on keys that no edit used (text), and in the theorem's own setting, unit rows and orthonormal inputs.
        """
        rows = []
        for i in self.layers:
            delta = new[i].sum - old[i].sum
            change = weights[i] - self.state.weights[i]
            probe = self.statistics.probe_keys.get(i) if self.statistics is not None else None
            bound = measured = turned = float("nan")
            basis = self.bases.get(i)
            if batch:
                bound = theorem_bound(delta, old[i].theorem_constant)
                turned = unit_perturbation(self.state.weights[i], weights[i])
                if probe is not None and probe.numel():
                    measured = perturbation(change, probe.to(change.device))
            rows.append(
                {
                    "edits": edits,
                    "batch": batch,
                    "layer": i,
                    "he_sum": new[i].sum,
                    "he_mean": new[i].mean,
                    "delta_he": delta,
                    "theorem_k": old[i].theorem_constant,
                    "perturbation": measured,
                    "unit_perturbation": turned,
                    "bound": bound,
                    "update_norm": float(change.double().norm()),
                    "weight_norm": float(self.state.weights[i].double().norm()),
                    "editable_share": basis.shape[1] / basis.shape[0] if basis is not None else float("nan"),
                }
            )
        return rows


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _batches(
    requests: Sequence[EditRequest],
    size: int,
    parts: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Contexts,
) -> Iterator[Sequence[EditRequest]]:
    """The batches of a stream; InputError on a request, or a batch, that cannot be edited."""
    if size < 1:
        raise InputError(f"batch_size is {size}: give at least 1")
    for r in requests:
        if not r.subject.strip() or r.prompt[r.subject_start : r.subject_end] != r.subject:
            raise InputError(
                f"case {r.case_id}: subject {r.subject!r} is not at character {r.subject_start} of {r.prompt!r}: "
                "give a subject of its prompt and where it starts"
            )
    longest = max(len(tokenizer(prefix)["input_ids"]) for prefix in contexts.prefixes)
    encoded = encode_many(tokenizer, [(r.prompt, r.target_new, r.subject_end) for r in requests])
    for r, item in zip(requests, encoded, strict=True):
        parts.check_length(len(item.ids) + longest, r.prompt)
    validate_case_ids(requests)
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        validate_batch(batch)
        yield batch


class _Clock:
    """Wall seconds by phase, synchronised with the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def __call__(self, phase: str) -> _Phase:
        return _Phase(self, phase)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class _Phase:
    def __init__(self, clock: _Clock, phase: str) -> None:
        self.clock, self.phase = clock, phase

    def __enter__(self) -> None:
        self.start = self.clock.now()

    def __exit__(self, *_: object) -> None:
        seconds = self.clock.seconds
        seconds[self.phase] = seconds.get(self.phase, 0.0) + self.clock.now() - self.start


def edit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    *,
    method: str = "sphere",
    layers: Sequence[int] | None = None,
    values: ValueSettings | None = None,
    contexts: Contexts | None = None,
    corpus: Sequence[str] | None = None,
    statistics: Statistics | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    state: EditState | None = None,
    batch_size: int = 100,
    seed: int = 0,
    on_batch: Callable[[Record], None] | None = None,
) -> EditState:
    """Edit ``model`` in place and return the state, which a later call can continue.

    ``statistics`` are the key second moments, or ``corpus`` the documents to take them from (of the unedited model).
    ``layers`` defaults to MEMIT's choice scaled to the model's depth (``default_layers``), ``contexts`` to the state's,
    or to five prefixes sampled from the unedited model with ``seed``. A state is continued on the model it was returned
    with, or, read from a file, on the unedited one. Raises InputError on bad input, before anything is computed.
    """
    chosen = resolve(method, hyperparameters=hyperparameters)
    if not requests:
        raise InputError("there is nothing to edit: give at least one request")
    parts = adapter(model)
    where = tuple(layers) if layers is not None else default_layers(parts.n_layers)
    for i in chosen.edited_layers(where):
        parts.layer(i)
    list(_batches(requests, batch_size, parts, tokenizer, contexts or Contexts()))
    needs = chosen.needs_statistics
    if needs and statistics is None and corpus is None:
        raise InputError(f"{method} needs key second moments: give statistics, or a corpus to take them from")
    if state is not None and contexts is None:
        contexts = state.contexts
    training = model.training
    model.eval()
    try:
        if needs and statistics is None:
            with _unedited(parts, state):
                statistics = collect_statistics(parts, tokenizer, corpus or (), chosen.edited_layers(where))
        if contexts is None:
            generator = torch.Generator().manual_seed(seed)
            contexts = sample_contexts(parts, tokenizer, count=5, length=10, generator=generator)
        editor = Editor(
            model,
            tokenizer,
            chosen,
            layers=where,
            values=values or ValueSettings(),
            contexts=contexts,
            statistics=statistics,
            seed=seed,
            state=state,
        )
        return editor.run(requests, batch_size=batch_size, on_batch=on_batch)
    finally:
        parts.narrow(chosen.edited_layers(where))
        model.train(training)


@contextmanager
def _unedited(parts: Adapter, state: EditState | None) -> Iterator[None]:
    """The model without ``state``'s edits, where the state knows the weights from before them."""
    before = state.pretrained if state is not None else {}
    edited = {i: parts.weight(i).clone() for i in before}
    try:
        for i, weight in before.items():
            parts.set_weight(i, weight)
        yield
    finally:
        for i, weight in edited.items():
            parts.set_weight(i, weight)


def default_layers(depth: int) -> tuple[int, ...]:
    """Layers 4 to 8 of 32, as MEMIT edits on Llama-sized models, scaled to ``depth`` and at least one."""
    first, last = round(depth * 4 / 32), round(depth * 8 / 32)
    return tuple(range(first, max(first + 1, last + 1)))
