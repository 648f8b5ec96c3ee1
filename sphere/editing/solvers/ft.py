"""FT: fine-tuning of one layer's weight with Adam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sphere.editing.component import Search
from sphere.editing.solvers.base import GradientSolver, register
from sphere.errors import InputError, NumericalError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sphere.editing.solvers.base import Memory
    from sphere.models.tokens import Encoded


@register
class FineTuning(GradientSolver):
    """FT, with the optional L-infinity constraint of FT-L (Zhu et al., arXiv 2012.00363).

    The loss of a request is the mean negative log-likelihood of its target's tokens, in nats; a step takes
    the mean over a minibatch.
    """

    name: ClassVar[str] = "ft"
    search: ClassVar[Search] = {"lr": (1e-4, 2e-4, 5e-4, 1e-3), "epochs": (10, 25)}

    lr: PositiveFloat = 5e-4
    """Adam's learning rate."""
    epochs: PositiveInt = 25
    """At most this many passes over the batch."""
    stop_loss: NonNegativeFloat = 1e-2
    """Stop after an epoch whose mean loss is below this; 0 never stops early."""
    minibatch: PositiveInt = 32
    """Requests a step."""
    objective: Literal["target", "prompt_last"] = "target"
    """Score each target token at its own position, or (the historic choice) all at the prompt's last one."""
    norm_constraint: PositiveFloat | None = None
    """Keep every entry of the weight within this distance of where it was; None: no constraint."""
    layer: NonNegativeInt | None = None
    """The layer to train; None leaves it to the model's configuration."""

    def fit(
        self,
        model: nn.Module,
        parameter: nn.Parameter,
        batch: Sequence[Encoded],
        *,
        prepared: Any = None,
        memory: Memory | None = None,
        pad_id: int,
        device: torch.device | str,
        generator: torch.Generator,
    ) -> Memory:
        """Train ``parameter`` in place, as it is stored; all else, gradients too, stays as it was.

        Raises InputError if a request has no target or no token before it, NumericalError if the loss
        diverges.
        """
        import torch

        if not batch:
            raise InputError(f"{self.name} got an empty batch: give at least one request")
        for item in batch:
            if not item.target_start:
                raise InputError(f"{self.name} needs a prompt and a target, {item} lacks one: encode it with target=")
        before = parameter.detach().clone()
        with _only_trainable(model, parameter):
            optimizer = torch.optim.Adam([parameter], lr=self.lr)
            for _ in range(self.epochs):
                losses: list[float] = []
                for chosen in torch.split(torch.randperm(len(batch), generator=generator), self.minibatch):
                    loss = self._loss(model, [batch[i] for i in chosen.tolist()], pad_id, device)
                    if not torch.isfinite(loss):
                        raise NumericalError(f"{self.name}'s loss diverged: lower lr (now {self.lr:g})")
                    (parameter.grad,) = torch.autograd.grad(loss, [parameter])
                    optimizer.step()
                    if self.norm_constraint is not None:
                        with torch.no_grad():
                            parameter.clamp_(before - self.norm_constraint, before + self.norm_constraint)
                    losses.append(float(loss.detach()) * len(chosen))
                if sum(losses) < self.stop_loss * len(batch):
                    break
        return {}

    def _loss(self, model: nn.Module, batch: Sequence[Encoded], pad_id: int, device: torch.device | str) -> Tensor:
        """Mean over requests of the mean over target tokens of the negative log-likelihood; float32 or wider."""
        import torch

        from sphere.models.tokens import right_pad

        ids, mask = right_pad([item.ids for item in batch], pad_id, device)  # (B, T)
        rows, positions, tokens = list[int](), list[int](), list[int]()
        shares = list[float]()
        for row, item in enumerate(batch):
            start = item.target_start or 0
            count = len(item.ids) - start
            rows += [row] * count
            positions += [start - 1 + (i if self.objective == "target" else 0) for i in range(count)]
            tokens += item.ids[start:]
            shares += [1 / (count * len(batch))] * count
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (B, T, V)
        exact = torch.promote_types(logits.dtype, torch.float32)
        nll = torch.nn.functional.cross_entropy(
            logits[rows, positions].to(exact), torch.tensor(tokens, device=logits.device), reduction="none"
        )
        return nll @ torch.tensor(shares, dtype=exact, device=nll.device)


@contextmanager
def _only_trainable(model: nn.Module, parameter: nn.Parameter) -> Iterator[None]:
    """Only ``parameter`` requires a gradient inside; flags and its ``grad`` are put back."""
    flags = [(each, each.requires_grad) for each in model.parameters()]
    gradient = parameter.grad
    try:
        for each, _ in flags:
            each.requires_grad_(each is parameter)
        yield
    finally:
        for each, flag in flags:
            each.requires_grad_(flag)
        parameter.grad = gradient
