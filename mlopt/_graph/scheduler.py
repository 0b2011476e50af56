"""`PerStep`, and which schedulers a problem takes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .._errors import GraphError

__all__ = ["PerStep", "check_scheduler"]


@dataclass(frozen=True)
class PerStep:
    """Marks a scheduler to be stepped after each step of the engine that updates its problem.

    Once a step, however many updates that step makes: rounds of a turn, of `Loops` and of
    `repeat=`, steps of `Unrolled`. So lengths such as `total_steps` of `OneCycleLR` are steps of
    the engine.

    A `ReduceLROnPlateau` is told the step's loss, which waits for the device at every step.

    Args:
        scheduler: a torch scheduler of the problem's optimizer.

    Raises:
        GraphError: it is no scheduler.
    """

    scheduler: Any

    def __post_init__(self) -> None:
        _check_steps("PerStep: scheduler=", self.scheduler)


def check_scheduler(name: str, scheduler: Any, optimizer: torch.optim.Optimizer | None) -> None:
    """Refuse what cannot be stepped, or would change the learning rates of somebody else.

    Args:
        name: of the problem.
        scheduler: what it was given.
        optimizer: of the problem.

    Raises:
        GraphError: the scheduler is none, or not one of this optimizer.
    """
    if optimizer is None:
        raise GraphError(f"{name}: a scheduler without an optimizer.")
    if isinstance(scheduler, PerStep):
        scheduler = scheduler.scheduler
    else:
        _check_steps(f"{name}: scheduler=", scheduler)
    own = getattr(scheduler, "optimizer", optimizer)
    if own is not optimizer and getattr(own, "param_groups", None) is not optimizer.param_groups:
        raise GraphError(
            f"{name}: scheduler= takes a scheduler of its own optimizer; this "
            f"{type(scheduler).__name__} is one of another {type(own).__name__}, and would leave "
            "this one's learning rate alone."
        )


def _check_steps(where: str, scheduler: Any) -> None:
    kind = type(scheduler).__name__
    if isinstance(scheduler, list | tuple):
        raise GraphError(
            f"{where} takes one scheduler, got a {kind} of {len(scheduler)}. To step them together "
            "use torch's ChainedScheduler([...]); one after another, SequentialLR(...)."
        )
    if isinstance(scheduler, type):
        raise GraphError(
            f"{where} takes a scheduler, got the class {scheduler.__name__}; make one of the "
            "problem's optimizer."
        )
    steps = callable(getattr(scheduler, "step", None))
    if not steps or isinstance(scheduler, torch.optim.Optimizer):
        raise GraphError(
            f"{where} takes an object such as torch.optim.lr_scheduler.StepLR(optimizer, ...), "
            f"got {scheduler!r}."
        )
    if not isinstance(scheduler, LRScheduler | ReduceLROnPlateau):
        try:
            inspect.signature(scheduler.step).bind()
        except TypeError as error:
            raise GraphError(
                f"{where}: the step() of {kind} cannot be called without arguments ({error}). "
                "Step it yourself in a callback."
            ) from None
        except ValueError:  # some callables in C have no signature
            pass
