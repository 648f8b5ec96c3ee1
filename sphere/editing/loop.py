"""The batch loop of sequential editing: an ``EditState`` in, an ``EditState`` out, nothing kept anywhere else.

A stream edited in two segments, through a saved state, gives the same bits as the stream edited in one. The loop knows
no method: solvers and post-processes prepare what they need of a layer themselves, and what a solver remembers from
batch to batch lies in the state under names of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import dropwhile, takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.batches import batches_of
from sphere.editing.calling import calling, checked, of_shape
from sphere.editing.component import Component, Layer
from sphere.editing.construction import anchored, anchors_of, wanted_targets
from sphere.editing.contexts import Contexts
from sphere.editing.frozen import FrozenTargets, maker
from sphere.editing.keys import Ascent, Seen, keys_and_outputs
from sphere.editing.measurement import Clock, Record, energy_row
from sphere.editing.methods import Method
from sphere.editing.postprocess.base import PostContext, PostProcess
from sphere.editing.solvers.base import ClosedFormSolver, GradientSolver, LayerProblem, Solution
from sphere.editing.spectra import Spectra
from sphere.editing.state import EditState, Matrices, Memories, weights_digest
from sphere.editing.stats import Statistics
from sphere.errors import InputError, NumericalError, out_of_memory
from sphere.geometry.energy import Energy, measure_energy
from sphere.models.adapters import adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET
from sphere.models.precision import dtype_name, widened
from sphere.models.tokens import PAD, encode_many

Made = dict[int, tuple[LayerProblem, Solution]]
"""Layer -> what a closed-form solver was given and gave back, until the batch is applied."""


class Editor:
    """One model, one method, and what they need; ``run`` carries a state along a stream of requests.

    The model must be unedited when an Editor is made, unless ``state`` says what it was. Edited layers are kept in
    float32 (or wider) whatever the model's dtype, in the state and in the model itself (``Adapter.widen``), so that
    thousands of small updates do not drown in rounding. Energy is measured every ``energy_every`` batches, and after
    the numbers of edits in ``energy_at``; operations are counted in the first batch alone, since a look at each of them
    takes its time.
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
        targets: FrozenTargets | None = None,
        seed: int = 0,
        state: EditState | None = None,
        energy_every: int = 1,
        energy_at: Collection[int] = (),
        token_budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> None:
        self.adapter, self.tokenizer, self.method = adapter(model), tokenizer, method
        self.layers = method.edited_layers(layers, values)
        for i in self.layers:
            self.adapter.layer(i)  # InputError if the model has no such layer
        self.values, self.contexts, self.seed = method.value_settings(values), contexts, seed
        self.energy_every, self.energy_at, self.token_budget = energy_every, energy_at, token_budget
        self.statistics = statistics
        self.dtype = torch.promote_types(self.adapter.dtype, torch.float32)
        if state is not None and state.pretrained.keys() >= set(self.layers):
            self.pretrained = {i: state.pretrained[i].to(self.adapter.device) for i in self.layers}
        else:
            self.pretrained = {i: self.adapter.weight(i).to(self.dtype).clone() for i in self.layers}
        self.base = weights_digest(self.pretrained)
        self.targets = targets or FrozenTargets()
        self.made_with = maker(self.values, contexts, self.layers, self.pretrained[self.layers[-1]])
        self.state = self._start(state)
        self.adapter.widen(self.layers)
        self.prepared: dict[int, Any] = {}
        self.kept: dict[tuple[PostProcess, int], Any] = {}
        self._prepare(spectra or Spectra({}, {}))
        self.count = True
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
            kind: {i: t.to(place) for i, t in getattr(state, kind).items()} for kind in ("weights", "carried")
        }
        memory = {  # copies: a file's tensors lie at odd addresses, from where a product rounds in another way
            i: {name: t.to(place, copy=True) for name, t in known.items()} for i, known in state.memory.items()
        }
        return replace(state, **moved, memory=memory, pretrained=self.pretrained)

    def _calling(self, component: Component) -> AbstractContextManager[None]:
        return calling(component.name, self.method.packages.get(component.name))

    def _prepare(self, spectra: Spectra) -> None:
        """Let the solver and every post-process take what they need of the unedited layers, one layer at a time."""
        moments: Mapping[int, Tensor] = {}
        gradients: Mapping[int, Tensor] = {} if self.statistics is None else self.statistics.output_moments
        if self.method.needs_statistics:
            if self.statistics is None:
                raise InputError(f"{self.method.name} needs key second moments: give statistics")
            moments = self.statistics.second_moments
            if missing := [i for i in self.layers if i not in moments]:
                raise InputError(
                    f"the key statistics lack layer {missing[0]}: collect them for layers {list(self.layers)}"
                )
        for i in self.layers:
            known = spectra.keys.get(i), spectra.principal.get(i), gradients.get(i)
            layer = Layer(self.pretrained[i], i, moments.get(i), *known)
            with self._calling(self.method.solver):
                self.prepared[i] = self.method.solver.prepare(layer)
            for process in self.method.postprocess:
                with self._calling(process):
                    self.kept[process, i] = process.prepare(layer)

    # ------------------------------------------------------------------------------------------------- loop

    def run(
        self, requests: Sequence[EditRequest], *, batch_size: int, on_batch: Callable[[Record], None] | None = None
    ) -> EditState:
        """Edit ``requests`` in order in batches; the model is left with the state's evaluated weights.

        A batch with a result that is not finite is made again with the model in higher precision. Raises InputError,
        before the first batch, on requests that cannot be edited (together), NumericalError where higher precision did
        not help: state and model are then those after the last whole batch.
        """
        batches = list(batches_of(requests, batch_size, self.adapter, self.tokenizer, self.contexts))
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
        return Record(0, 0, self._rows(energies, energies, self.state, 0, 0), {})

    def _batch_or_again(self, requests: Sequence[EditRequest]) -> Record:
        """One batch, made again in higher precision if a result is not finite."""
        self._show(self.state.carried or self.state.weights)
        narrow = self.adapter.dtype
        try:
            return self._batch(requests)
        except NumericalError as error:
            if narrow == torch.float64:
                raise
            failure = f"batch {self.state.batch + 1} in {dtype_name(narrow)}: {error}"
        try:
            with self._widened() as wide:
                self._show(self.state.carried or self.state.weights)
                return replace(self._batch(requests), retried=failure)
        except NumericalError as error:
            raise NumericalError(f"{failure}; in {dtype_name(wide)}: {error}") from None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise NumericalError(f"{failure}; there is no memory to try higher precision") from None

    @contextmanager
    def _widened(self) -> Iterator[torch.dtype]:
        """``widened``, seen through an adapter of its own; yields the dtype."""
        model = self.adapter.model
        try:
            with widened(model) as wide:
                self.adapter = adapter(model)
                yield wide
        finally:
            self.adapter = adapter(model)

    @torch.no_grad()
    def _batch(self, requests: Sequence[EditRequest]) -> Record:
        clock = Clock(self.adapter.device, count=self.count)
        state, solver = self.state, self.method.solver
        # joint training starts anew: its update, and what post-processes see, is against the unedited weights
        joint = isinstance(solver, GradientSolver) and solver.joint
        before = self.pretrained if joint else state.carried or state.weights
        updates = {i: torch.zeros_like(w, dtype=torch.float64) for i, w in before.items()}
        current = {i: w.double() for i, w in before.items()}
        memory: Memories = {}
        made: Made = {}
        edited, skipped, self.anchors = list[EditRequest](), list[int](), dict(state.anchors)
        if isinstance(solver, GradientSolver):
            memory = self._trained(solver, requests, current, updates, clock)
        else:
            assert isinstance(solver, ClosedFormSolver)
            for group in [[r] for r in requests] if solver.one_at_a_time else [requests]:
                kept, made = self._solved(solver, group, current, updates, clock)
                edited += kept
                skipped += [r.case_id for r in group if r not in kept]
            if not edited:
                raise NumericalError(
                    f"batch {state.batch + 1}: all target values are too long for their anchor: lower clamp_norm_factor"
                )
        known = {} if getattr(solver, "one_at_a_time", False) else made
        for i in self.layers:
            updates[i] = self._passed(self._processes("batch"), updates[i], i, before[i], clock, known.get(i))
        after = {i: (before[i].double() + updates[i]).to(self.dtype) for i in self.layers}
        for i, weight in after.items():
            if not torch.isfinite(weight).all():
                name = f"{self.method.name}'s weight of layer {i}"
                raise NumericalError(f"{name} is not finite after batch {state.batch + 1}: regularise more strongly")
        self._show(after)
        if isinstance(solver, ClosedFormSolver) and not solver.one_at_a_time:
            memory = self._settled(solver, edited, made, updates, clock)
        evaluated = self._evaluated(after, clock)
        number, edits = state.batch + 1, state.position + len(requests)
        following = replace(
            state,
            position=edits,
            batch=number,
            weights=evaluated,
            carried=after if evaluated is not after else {},
            memory={i: remembered for i, remembered in memory.items() if remembered},
            anchors=self.anchors,
        )
        rows: list[dict[str, float]] = []
        if number % self.energy_every == 0 or edits in self.energy_at:
            with clock("energy"):
                old, new = self._energies(state.weights), self._energies(evaluated)
                rows = self._rows(old, new, following, edits, number)
        self.state = following
        self.count = False
        cases = ", ".join(map(str, skipped))
        note = f"target values longer than twice the anchor, of cases {cases}" if skipped else ""
        return Record(edits, number, rows, clock.seconds, clock.operations / len(requests), skipped=note)

    def _solved(
        self,
        solver: ClosedFormSolver,
        requests: Sequence[EditRequest],
        current: Matrices,
        updates: Matrices,
        clock: Clock,
    ) -> tuple[Sequence[EditRequest], Made]:
        """One closed-form solve a layer, in order, each seeing the earlier layers' updates.

        ``current`` has the weights in float64; ``updates`` gets what was added to them. Returns the requests that
        were edited too: all, but for those that ``values.anchor`` skips.
        """
        with clock("targets"):
            targets = self._targets(requests)  # layer -> (d, n)
        if self.values.anchor:
            self.anchors = self.anchors or anchors_of(targets)
            requests, targets = anchored(requests, targets, self.anchors)
        made: Made = {}
        if not requests:
            return requests, made
        spread, ascent = self.values.residual == "spread", self._ascent(requests)
        for number, i in enumerate(self.layers):
            at = self.layers[-1] if spread else i
            with clock("keys"):
                seen = ascent.at(i) if spread else self._keys_and_outputs(requests, [i], i)
            with clock("solve"), self._calling(solver):
                left = len(self.layers) - number if spread else 1
                wanted = (targets[at] - seen.outputs) / left  # (d, n) of the residual stream
                outputs = self.adapter.output(i, seen.bare_keys[i])
                problem = LayerProblem(
                    weight=current[i],
                    keys=seen.keys[i],
                    bare_keys=seen.bare_keys[i],
                    residuals=self.adapter.sent(i, outputs.T, wanted.T).T,
                    pretrained=self.pretrained[i],
                    prepared=self.prepared[i],
                    memory=self.state.memory.get(i, {}),
                )
                solution = checked(solver.solve(problem), problem)
            made[i] = problem, solution
            update = self._passed(self._processes("layer"), solution.update, i, current[i], clock, made[i])
            updates[i] += update
            moved = current[i] + update
            self.adapter.set_weight(i, moved)
            if solver.one_at_a_time:  # otherwise the layer's turn is over
                current[i] = moved
        return requests, made

    def _targets(self, requests: Sequence[EditRequest]) -> dict[int, Tensor]:
        """Layer -> target values (d, n)."""
        return wanted_targets(
            self.adapter,
            self.tokenizer,
            requests,
            self.contexts,
            layers=self.layers,
            settings=self.values,
            pretrained=self.pretrained,
            known=self.targets.of(requests, self.made_with),
            token_budget=self.token_budget,
        )

    def _trained(
        self,
        solver: GradientSolver,
        requests: Sequence[EditRequest],
        current: Matrices,
        updates: Matrices,
        clock: Clock,
    ) -> Memories:
        """One layer fine-tuned in place: its change is the update."""
        (i,) = self.layers
        batch = encode_many(self.tokenizer, [(r.prompt, r.target_new, r.subject_end) for r in requests])
        if solver.ends_targets:
            if self.tokenizer.eos_token_id is None:
                raise InputError(f"{solver.name} learns the end of a text, but the tokenizer has no eos_token: set one")
            batch = [replace(item, ids=(*item.ids, self.tokenizer.eos_token_id)) for item in batch]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.state.batch)
        if solver.joint:
            self.adapter.set_weight(i, self.pretrained[i])
        start = self.adapter.weight(i).double().clone()
        with clock("solve"), self._calling(solver), torch.enable_grad():
            remembered = solver.fit(
                self.adapter.model,
                self.adapter.parameter(i),
                batch,
                prepared=self.prepared[i],
                memory=self.state.memory.get(i, {}),
                pad_id=PAD,
                device=self.adapter.device,
                generator=generator,
            )
        update = self.adapter.weight(i).double() - start
        update = self._passed(self._processes("layer"), update, i, current[i], clock)
        updates[i] += update
        return {i: dict(remembered)}

    def _settled(
        self,
        solver: ClosedFormSolver,
        requests: Sequence[EditRequest],
        made: Made,
        applied: Matrices,
        clock: Clock,
    ) -> Memories:
        """What the solver remembers of the batch, now that the model has its updates as they were ``applied``."""
        with clock("keys"), self._calling(solver):
            keys: Mapping[int, Tensor] = {}
            if solver.needs_keys_after and self._processes("batch"):
                keys = self._keys_and_outputs(requests, self.layers).keys
            elif solver.needs_keys_after:  # a layer was solved with those below it edited: its keys are still the same
                keys = {i: problem.keys for i, (problem, _) in made.items()}
            found = {}
            for i, (problem, solution) in made.items():
                try:
                    memory = solver.settle(problem, solution, applied[i], keys.get(i))
                except NumericalError as error:
                    raise NumericalError(f"layer {i}: {error}") from None
                found[i] = {name: t.contiguous() for name, t in memory.items()}  # as a file gives them back
        return found

    def _ascent(self, requests: Sequence[EditRequest]) -> Ascent:
        return Ascent(
            self.adapter,
            self.tokenizer,
            requests,
            self.contexts,
            last=self.layers[-1],
            token_budget=self.token_budget,
        )

    def _keys_and_outputs(
        self, requests: Sequence[EditRequest], layers: Sequence[int], last: int | None = None
    ) -> Seen:
        """Keys of ``layers``, and what the layer ``last``, or the last edited one, puts out."""
        return keys_and_outputs(
            self.adapter,
            self.tokenizer,
            requests,
            self.contexts,
            layers=layers,
            last=self.layers[-1] if last is None else last,
            token_budget=self.token_budget,
        )

    # -------------------------------------------------------------------------------------------- post-processes

    def _processes(self, scope: str) -> list[PostProcess]:
        """Those of one scope that every update passes: what stands in front of the first for evaluation."""
        each = takewhile(lambda p: p.stage == "update", self.method.postprocess)
        return [p for p in each if p.scope == scope]

    def _passed(
        self,
        processes: Sequence[PostProcess],
        update: Tensor,
        layer: int,
        weight: Tensor,
        clock: Clock,
        made: tuple[LayerProblem, Solution] | None = None,
    ) -> Tensor:
        """The update of a layer's ``weight`` after these post-processes, each timed under its own phase.

        ``made`` is the problem that it solves, where there is one.
        """
        keys, memory = (None, self.state.memory.get(layer, {})) if made is None else (made[0].keys, made[0].memory)
        for process in processes:
            with clock(process.phase), self._calling(process):
                context = PostContext(weight, self.pretrained[layer], self.kept[process, layer], keys, memory)
                update = of_shape(process.apply(update, context), update)
        return update

    def _evaluated(self, after: Matrices, clock: Clock) -> Matrices:
        """The weights to evaluate: ``after`` itself unless the method restrains the accumulated update."""
        processes = list(dropwhile(lambda p: p.stage == "update", self.method.postprocess))
        if not processes:
            return after
        evaluated = {}
        for i, weight in after.items():
            before = self.pretrained[i].double()
            change = self._passed(processes, weight.double() - before, i, before, clock)
            evaluated[i] = (before + change).to(self.dtype)
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
        self, old: dict[int, Energy], new: dict[int, Energy], made: EditState, edits: int, batch: int
    ) -> list[dict[str, float]]:
        """The rows of energy.csv for one batch, which made the state ``made``."""
        probes = self.statistics.probe_keys if self.statistics is not None else {}
        solver = self.method.solver
        return [
            energy_row(
                i,
                edits=edits,
                batch=batch,
                energies=(old[i], new[i]),
                weights=(self.state.weights[i], made.weights[i]),
                probe_keys=probes.get(i),
                editable_share=solver.editable_share(self.prepared[i], made.memory.get(i, {})),
            )
            for i in self.layers
        ]
