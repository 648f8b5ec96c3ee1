"""What a method and a request are to the plan: the few properties that memory and time both follow from."""

from __future__ import annotations

from sphere.config.model import ModelConfig
from sphere.editing.methods import Method
from sphere.editing.solvers.base import ClosedFormSolver
from sphere.study.plan.jobs import Texts


def tokens_of(model: ModelConfig, texts: Texts) -> int:
    """Tokens of one request in all its contexts."""
    return (model.contexts.count + 1) * (model.contexts.length + texts.prompt + texts.target)


def restrains(method: Method) -> bool:
    """Whether the weights that are evaluated are others than those that the next batch starts from (PRUNE)."""
    return any(process.stage == "evaluated" for process in method.postprocess)


def one_at_a_time(method: Method) -> bool:
    return isinstance(method.solver, ClosedFormSolver) and method.solver.one_at_a_time


def accumulates(method: Method) -> bool:
    return isinstance(method.solver, ClosedFormSolver) and method.solver.needs_keys_after


def projected(method: Method) -> float:
    """Share of the directions that the projection keeps in memory: at most eta, since they come by descending share."""
    return max((float(getattr(process, "eta", 0.0)) for process in method.postprocess), default=0.0)
