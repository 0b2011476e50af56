"""`bome`: the dynamic barrier method of Ye, Liu, Wright, Stone and Liu."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from .._arguments import checked, from_one, in_body, positive
from .._errors import GraphError
from .._graph.problem import Problem
from .._graph.signal import Signal
from .._graph.trained import trainable
from .._variable import Variable, stop
from ._pair import Pair, Penalty, Values, by_source, single_level
from ._swap import standing_at, tensors_of

__all__ = ["bome"]


@checked(
    GraphError,
    lower=in_body,
    upper=in_body,
    inner_steps=from_one,
    inner_lr=positive,
    eta=positive,
)
def bome(
    *, lower: Problem, upper: Problem, inner_steps: int, inner_lr: float, eta: float = 0.5
) -> Penalty:
    """Bilevel optimization by first derivatives alone, with a weight chosen anew at every step.

        min over x of  F(x, y*(x)),    y*(x) = argmin over y of  g(x, y)

    becomes the descent of F under the barrier q >= 0, whose minimum 0 is the lower solution:

        z      = `inner_steps` steps of gradient descent on g(x, .) from y, held constant
        q      = g(x, y) - g(x, z)
        weight = max( (phi - <dF, dq>) / |dq|^2 , 0 ),    phi = eta |dq|^2;    0 where dq = 0
        x, y   move along  dF + weight dq

    dF and dq are gradients with respect to x and y together. Two problems share the weight, which
    is a signal: x goes by the upper problem's optimizer, clip, scheduler, start and every, y by
    the lower's; hypergrad= is not used. The paper's update is plain gradient descent with the
    schedule `Simultaneous()`; other optimizers transform each level's part of the direction, and
    `Sequential()` computes weight and z again for x, after y has moved. All evaluations of one
    step see one batch from each stream and draw the same random numbers.

    A step takes `inner_steps` gradients of g and, to share the weight between two optimizers, those
    of F and q once more than the paper's loop for each problem: 3 F and 5 g beside the inner ones.

    Near a solution dq vanishes and the weight grows without bound, until the steps are too long for
    it: with fixed learning rates the iterates stay at a distance that grows with the rates. Let
    both fall. Do not use it where z stays far from the
    lower minimum: what is wrong in z is wrong in x.

    Args:
        lower: over one variable, given the upper's variable.
        upper: given the lower's variable.
        inner_steps: T, a whole number of at least 1.
        inner_lr: of these steps; stable below 2 / (largest curvature of g in y).
        eta: of the barrier: how fast q is made to fall, positive.

    Returns:
        The problems; `Engine` takes its `.nodes`. `.weight` is the signal "multiplier" of the logs.

    Raises:
        GraphError: the problems do not read each other, they read a third variable or a signal of
            variables, the lower has no optimizer, a problem has a repeat, or a number is out of
            range.

    Reference: Ye, Liu, Wright, Stone, Liu, "BOME! Bilevel optimization made easy: a simple
    first-order approach", NeurIPS 2022, Algorithm 1.
    """
    pair = Pair("bome", lower, upper)
    _check_repeats(pair)
    y = pair.y
    own = {v: _names(upper, v) for v in upper.over} | {y: _names(lower, y)}

    def descend(values: Values, batches: Mapping[Any, Any]) -> dict[str, Tensor]:
        seed = torch.initial_seed()
        start = tensors_of(values[y])
        z = {k: start[k].detach() for k in own[y]}
        for _ in range(inner_steps):
            leaves = {k: t.requires_grad_() for k, t in z.items()}
            with torch.enable_grad(), standing_at(values[y], leaves) as at:
                g, _ = pair.call(lower, {**values, y: at}, batches, seed)
                grads = _gradient(g, leaves.values())
            z = {k: (t - inner_lr * d).detach() for (k, t), d in zip(z.items(), grads, strict=True)}
        # The seed travels along: the others draw the numbers that were drawn here.
        return {"seed": torch.tensor(seed), **{f"at {k}": t for k, t in z.items()}}

    descent = Signal(
        by_source(descend, pair.lower_sources, lower.streams),
        given=[list(pair.lower_sources)],
        data=lower.streams,
        split=False,  # steps, and the weight below, are no sums over samples
        precision="float32",
        name=f"{lower.name}_descent",
    )

    def levels(values: Values, batches: Mapping[Any, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """F and q at a point, and the metrics of F."""
        seed = int(values[descent]["seed"])
        F, metrics = pair.call(upper, values, batches, seed, writes=True)
        at_y, _ = pair.call(lower, values, batches, seed)
        z = {k: values[descent][f"at {k}"] for k in own[y]}
        with standing_at(values[y], z) as at:
            at_z, _ = pair.call(lower, {**values, y: at}, batches, seed)
        return F, at_y - at_z, metrics

    def barrier(values: Values, batches: Mapping[Any, Any]) -> Tensor:
        leaves: list[Tensor] = []
        with torch.enable_grad(), ExitStack() as stack:
            here = dict(values)
            for v, names in own.items():
                held = tensors_of(values[v])
                fresh = {k: held[k].detach().requires_grad_() for k in names}
                leaves += fresh.values()
                here[v] = stack.enter_context(standing_at(values[v], fresh))
            F, q, _ = levels(here, batches)
            dF, dq = _gradient(F, leaves), _gradient(q, leaves)
        square = _inner(dq, dq)
        weight = torch.clamp((eta * square - _inner(dF, dq)) / square, min=0)
        return torch.where(square > 0, weight, torch.zeros_like(weight))

    weight = Signal(
        by_source(barrier, (*pair.sources, descent), pair.streams),
        given=[[*pair.sources, descent]],
        data=pair.streams,
        split=False,
        precision="float32",
        name="multiplier",
    )

    def constrained(values: Values, batches: Mapping[Any, Any]) -> Any:
        F, gap, metrics = levels(values, batches)
        shown = {"objective": F.detach(), "gap": gap.detach()}
        return F + values[weight] * gap, {**shown, **metrics}

    def leaning(values: Values, batches: Mapping[Any, Any]) -> Any:
        """Without the term at z, on which y has no hold."""
        seed = int(values[descent]["seed"])
        F, _ = pair.call(upper, values, batches, seed)
        g, metrics = pair.call(lower, values, batches, seed, writes=True)
        return F + values[weight] * g, metrics

    both = (lower, upper)
    y_problem = single_level(
        leaning,
        of=both,
        like=lower,
        over=[y],
        given=[*pair.without(y), stop(descent), stop(weight)],
        streams=pair.streams,
    )
    x_problem = single_level(
        constrained,
        of=both,
        like=upper,
        over=upper.over,
        given=[*pair.without(*upper.over), stop(descent), stop(weight)],
        streams=pair.streams,
    )
    nodes = (*pair.signals, descent, weight, y_problem, x_problem)
    return Penalty(nodes, x_problem, y_problem, weight)


def _names(problem: Problem, variable: Variable) -> list[str]:
    """The parameters of a variable that its problem updates."""
    return [name for v, name in trainable(problem) if v is variable]


def _gradient(value: Tensor, leaves: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The gradient, zero where the value does not depend on a leaf."""
    found = torch.autograd.grad(value, list(leaves), allow_unused=True, materialize_grads=True)
    return tuple(g.to_dense() if g.is_sparse else g for g in found)


def _inner(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    return torch.stack([(s * t).sum() for s, t in zip(a, b, strict=True)]).sum()


def _check_repeats(pair: Pair) -> None:
    for p in (pair.lower, pair.upper):
        if p.repeat > 1:
            raise GraphError(
                f"bome: {p.name} has repeat={p.repeat}, while both variables move together, once a "
                "step. Set repeat=1; inner_steps= are the steps of the inner descent."
            )
