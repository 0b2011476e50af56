"""`f2sa`: the fully first-order method of Kwon, Kwon, Wright and Nowak."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._arguments import check_fields, checked, from_zero, in_body, positive
from .._errors import GraphError
from .._graph.problem import PerStep, Problem
from .._graph.signal import Signal
from .._variable import Variable
from ._pair import Pair, Penalty, Values, single_level

__all__ = ["Growing", "f2sa"]


@dataclass(frozen=True)
class Growing:
    """A weight that grows from step to step.

        weight at step k = start (1 + rate k)^power,    k = 0, 1, 2, ...

    It counts the engine's steps that were committed, whatever the problems' `every` and `repeat`.

    Args:
        start: the first weight, positive.
        rate: growth by step, not negative; 0 keeps the weight as it is.
        power: positive; 1 grows linearly.

    Raises:
        GraphError: a number is out of range.
    """

    start: float
    rate: float
    power: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, GraphError, start=positive, rate=from_zero, power=positive)


@checked(GraphError, lower=in_body, upper=in_body, weight=positive)
def f2sa(
    *,
    lower: Problem,
    upper: Problem,
    weight: float | Growing,
    copy_optimizer: Callable[[Variable], torch.optim.Optimizer] | None = None,
) -> Penalty:
    """Bilevel optimization by first derivatives alone, with a second copy of the lower variable.

        min over x of  F(x, y*(x)),    y*(x) = argmin over y of  g(x, y)

    becomes three problems of one level, which read each other as they stand (w is the weight):

        z  <-  argmin over z of  g(x, z)
        y  <-  argmin over y of  g(x, y) + F(x, y) / w
        x  <-  argmin over x of  F(x, y) + w (g(x, y) - g(x, z))

    With z and y at their minima the gradient of x is that of  min_y [F + w g] - w min_z g,  whose
    distance to the hypergradient is O(1/w) where g is smooth and strongly convex in y. The problem
    of y is the paper's divided by w, so that it has the scale of g: the lower problem's own
    learning rate suits every weight.

    The copy z starts equal to y. Both take the lower problem's options (clip, start, every,
    repeat), x those of the upper one; the two problems' hypergrad= is not used. The copy's
    optimizer is a copy of the lower's, its state with it, and where the lower has a scheduler the
    copy follows its options. `Sequential()` is the paper's order: x reads the new y and z;
    `repeat` is its number of inner steps. In x both uses of g see one batch and draw the same
    random numbers.

    Do not use it where y cannot follow its problem closely: w multiplies what z and y lack. A step
    takes the gradients of 2 F and 4 g, and memory holds the lower variable twice.

    Args:
        lower: over one variable, given the upper's variable.
        upper: given the lower's variable.
        weight: w, a positive number or `Growing`; the signal "weight" of the logs.
        copy_optimizer: (copy) -> its optimizer; needed where the lower's is no class of
            `torch.optim` or has hooks. It follows no scheduler.

    Returns:
        The problems; `Engine` takes its `.nodes`.

    Raises:
        GraphError: the problems do not read each other, they read a third variable or a signal of
            variables, the lower has no optimizer or one that cannot be copied, or the weight is
            not positive.

    Reference: Kwon, Kwon, Wright, Nowak, "A fully first-order method for stochastic bilevel
    optimization", ICML 2023, Algorithm 1.
    """
    pair = Pair("f2sa", lower, upper)
    y, given = pair.y, pair.without(pair.y)
    w = _weight(weight)
    z, optimizer, scheduler = _second(lower, copy_optimizer)

    def g_at_copy(values: Values, batches: Mapping[Any, Any]) -> Any:
        at_z = {**values, y: values[z]}
        return pair.call(lower, at_z, batches, torch.initial_seed(), writes=True)

    def leaning(values: Values, batches: Mapping[Any, Any]) -> Any:
        seed = torch.initial_seed()
        g, metrics = pair.call(lower, values, batches, seed, writes=True)
        F, _ = pair.call(upper, values, batches, seed)
        return g + F / values[w].to(F), metrics

    def penalised(values: Values, batches: Mapping[Any, Any]) -> Any:
        seed = torch.initial_seed()
        F, metrics = pair.call(upper, values, batches, seed, writes=True)
        at_y, _ = pair.call(lower, values, batches, seed)
        at_z, _ = pair.call(lower, {**values, y: values[z]}, batches, seed)
        gap = at_y - at_z
        shown = {"objective": F.detach(), "gap": gap.detach()}
        return F + values[w].to(F) * gap, {**shown, **metrics}

    both = (lower, upper)
    y_problem = single_level(
        leaning, of=both, like=lower, over=[y], given=[*given, w], streams=pair.streams
    )
    z_problem = single_level(
        g_at_copy,
        of=[lower],
        like=lower,
        over=[z],
        given=[s for s in pair.lower_sources if s is not y],
        streams=lower.streams,
        optimizer=optimizer,
        scheduler=scheduler,
        name=f"{lower.name}_copy",
    )
    x_problem = single_level(
        penalised,
        of=both,
        like=upper,
        over=upper.over,
        given=[*pair.without(*upper.over), z, w],
        streams=pair.streams,
    )
    # y before z: schedulers are stepped in this order, and the copy follows.
    nodes = (*pair.signals, w, y_problem, z_problem, x_problem)
    return Penalty(nodes, x_problem, y_problem, w, z, z_problem)


class _Count(nn.Module):
    """The steps taken: a buffer, so that it moves with a step's commits and no sooner."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def _weight(weight: float | Growing) -> Signal:
    growing = weight if isinstance(weight, Growing) else Growing(weight, 0.0)
    count = _Count()

    def at_step() -> Tensor:
        value = growing.start * (1 + growing.rate * count.steps.double()) ** growing.power
        count.steps += 1
        return value

    return Signal(at_step, given=[], state=count, precision="float32", name="weight")


class _Follow:
    """The copy's scheduler: the options of the lower's optimizer, once those have moved on."""

    def __init__(self, optimizer: torch.optim.Optimizer, leader: torch.optim.Optimizer) -> None:
        self.optimizer, self.leader = optimizer, leader

    def step(self) -> None:
        for own, led in zip(self.optimizer.param_groups, self.leader.param_groups, strict=True):
            own.update({k: copy.deepcopy(v) for k, v in led.items() if k != "params"})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state


def _second(
    lower: Problem, make: Callable[[Variable], torch.optim.Optimizer] | None
) -> tuple[Variable, torch.optim.Optimizer, Any]:
    """The second copy of the lower variable, its optimizer and its scheduler."""
    y, optimizer = lower.over[0], lower.optimizer
    assert optimizer is not None
    memo: dict[int, Any] = {}  # by it the optimizer's copy holds the tensors of the variable's
    z = Variable(copy.deepcopy(y.value, memo), f"{y.name}_copy")
    if make is not None:
        return z, make(z), None
    # All that torch's own optimizers know is in their groups and state; others may know more.
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if not type(optimizer).__module__.startswith("torch.optim.") or hooks:
        what = "has hooks" if hooks else "is not one of torch.optim"
        raise GraphError(
            f"f2sa: the optimizer of {lower.name}, {type(optimizer).__name__}, {what}, so it may "
            "not be safe to copy. Pass copy_optimizer=lambda z: ... over z.parameters()."
        )
    twin = copy.deepcopy(optimizer, memo)
    if lower.scheduler is None:
        return z, twin, None
    follow = _Follow(twin, optimizer)
    return z, twin, PerStep(follow) if isinstance(lower.scheduler, PerStep) else follow
