"""Learning rates of a training from scratch: cosine, linear or exponential, with warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mlopt._arguments import checked, from_one, from_zero, in_body
from mlopt._errors import SettingsError

__all__ = ["SCHEDULES", "lr_schedule"]

SCHEDULES = ("cosine", "linear", "exponential")
"""What `lr_schedule` can follow."""

_TAIL = 5
_DECAY = 0.97


@checked(SettingsError, schedule=in_body, epochs=from_one, warmup=from_zero, min_lr=from_zero)
def lr_schedule(
    optimizer: Optimizer, schedule: str, epochs: int, *, warmup: int = 0, min_lr: float = 0.0
) -> LambdaLR:
    """A scheduler that is stepped at the end of each epoch.

        lr(e) = min_lr + (lr - min_lr) * f(e),    e = 0, ..., epochs - 1

        cosine:  f(e) = (1 + cos(pi e / epochs)) / 2
        linear:  f(e) = (epochs - 5 - e) / (epochs - 5),     e < epochs - 5
                 f(e) = (epochs - e) / (5 (epochs - 5))      in the last five epochs
        exponential:  f(e) = 0.97^e

    In the first `warmup` epochs it is lr(e) = lr * (e + 1) / warmup instead, as in PC-DARTS.
    A linear schedule of at most ten epochs has no such tail: f(e) = (epochs - e) / epochs.

    Args:
        optimizer: its learning rates are the greatest ones, lr.
        schedule: a name of `SCHEDULES`.
        epochs: of the whole training, warm-up included.
        warmup: epochs of warm-up, fewer than `epochs`.
        min_lr: the learning rate that the schedule approaches.

    Returns:
        The scheduler; it has set the learning rates of epoch 0.

    Raises:
        SettingsError: there is no such schedule, a number of epochs is out of range, or `min_lr` is
            negative or greater than a learning rate.

    Reference: Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture
        Search", ICLR 2020, section 4.4 (linear, with warm-up; the tail is in its published code).
        Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017
        (cosine). Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019,
        section 3.3 (exponential, on ImageNet).
    """
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise SettingsError(
            f"lr_schedule: there is no schedule {schedule!r}; give one of {', '.join(SCHEDULES)}."
        )
    if warmup >= epochs:
        raise SettingsError(
            f"lr_schedule: {epochs} epochs and warmup={warmup}; give less warm-up than that."
        )
    rates = [group["lr"] for group in optimizer.param_groups]
    if min_lr > min(rates):
        raise SettingsError(
            f"lr_schedule: min_lr must be between 0 and the learning rate {min(rates)}, got "
            f"{min_lr}."
        )
    shape = {"cosine": _cosine, "linear": _linear, "exponential": _exponential}[schedule]
    return LambdaLR(optimizer, [partial(_factor, shape, epochs, warmup, min_lr / r) for r in rates])


def _factor(
    shape: Callable[[int, int], float], epochs: int, warmup: int, least: float, epoch: int
) -> float:
    if epoch < warmup:
        return (epoch + 1) / warmup
    return least + (1 - least) * shape(epoch, epochs)


def _cosine(epoch: int, epochs: int) -> float:
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def _linear(epoch: int, epochs: int) -> float:
    if epochs <= 2 * _TAIL:
        return (epochs - epoch) / epochs
    falling = epochs - _TAIL
    if epoch < falling:
        return (falling - epoch) / falling
    return (epochs - epoch) / (_TAIL * falling)


def _exponential(epoch: int, epochs: int) -> float:
    return _DECAY**epoch
