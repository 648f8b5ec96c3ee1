"""Calling solvers and post-processes, which can be another package's: where one breaks, one line says whose."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from sphere.editing.solvers.base import LayerProblem, Solution
from sphere.errors import InputError, NumericalError, out_of_memory


@contextmanager
def calling(name: str, package: str | None) -> Iterator[None]:
    """Run code of the component ``name``; an unexpected error of an outside ``package`` becomes one line, InputError.

    The traceback goes to stderr (in a study: the job's log), for whoever mends the package.
    """
    try:
        yield
    except (InputError, NumericalError):
        raise
    except Exception as error:
        if package is None or out_of_memory(error):
            raise
        traceback.print_exc()
        reason = next(iter(str(error).strip().splitlines()), "no message")
        raise InputError(
            f"{name!r} of {package} failed ({type(error).__name__}: {reason}): mend or uninstall the package"
        ) from error


def checked(solution: Solution, problem: LayerProblem) -> Solution:
    """``solution`` if it is one of ``problem``; TypeError if a solver gave back something else."""
    if not isinstance(solution, Solution):
        raise TypeError(f"solve returned {type(solution).__name__}, not a Solution")
    of_shape(solution.update, problem.weight)
    return solution


def of_shape(update: Tensor, like: Tensor) -> Tensor:
    """``update`` if it is a tensor of ``like``'s shape; TypeError if not."""
    if not isinstance(update, Tensor) or update.shape != like.shape:
        shown = tuple(update.shape) if isinstance(update, Tensor) else type(update).__name__
        raise TypeError(f"the update is {shown}, the weight {tuple(like.shape)}")
    return update
