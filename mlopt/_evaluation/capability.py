"""Second derivatives that an objective does not have, and what takes their place."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._errors import CapabilityWarning, GraphError
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._tensors import Tensors
from ..hypergrad.interface import AbstractHypergradient
from ..hypergrad.products import Central
from .autograd_graph import has_dead_end
from .loss import split_loss
from .point import Evaluator, Point

__all__ = ["by_differences", "check_second_order"]


@dataclass(frozen=True)
class _Region:
    """Another way to evaluate an objective, in which it has second derivatives."""

    what: str
    enter: Callable[[], AbstractContextManager[Any]]


@contextmanager
def _math() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def _eager() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _both() -> Iterator[None]:
    with _math(), _eager():
        yield


_REGIONS = (
    _Region("", nullcontext),
    _Region("attention by torch's mathematical kernel", _math),
    _Region("compiled modules uncompiled", _eager),
    _Region("attention by torch's mathematical kernel and compiled modules uncompiled", _both),
)


def check_second_order(
    graph: Graph,
    evaluator: Evaluator,
    problem: Problem,
    point: Point,
    leaves: Tensors,
    own: Tensors,
    often: int,
) -> str | None:
    """Find out once whether a problem can be differentiated twice, if its method needs that.

    If not, it is evaluated with torch's mathematical attention kernel, or without compilation,
    where (and only where) second derivatives are taken; and if that does not help, the method's
    products become central differences. Either is said by a `CapabilityWarning` and in the plan.

    Args:
        graph: of which methods and notes may be changed.
        evaluator: of the graph.
        problem: the problem.
        point: where it is evaluated.
        leaves: all that it reads, by key.
        own: its own variables' tensors among them.
        often: how often nested levels may differentiate it.

    Returns:
        Why it cannot be differentiated as often as nested levels may need; None if it can.

    Raises:
        GraphError: nothing helps, because the method cannot do without second derivatives.
    """
    method = graph.methods[problem]
    if not (method.responds and (method.cost.keeps_graph or method.traced)):
        return None
    reason = ""
    for region in _REGIONS:
        with region.enter():
            failure = _failure(evaluator, problem, point, leaves, own)
        if failure is None:
            if region.what:
                evaluator.regions[problem] = _inside(region, evaluator.regions.get(problem))
                _say(graph, problem, f"second derivatives with {region.what}", reason)
            if often == 2:
                return None
            with region.enter():
                return _failure(evaluator, problem, point, leaves, own, often)
        reason = reason or failure
    other = by_differences(method)
    if other is None:
        raise GraphError(
            f"{problem.name}: {method} differentiates its objective twice, which fails: {reason} "
            f"{instead(graph, problem)}"
        )
    graph.methods[problem] = other
    _say(graph, problem, f"central differences for {brief(method)}", reason)
    return None


def instead(graph: Graph, problem: Problem) -> str:
    """What can be used in place of a method that needs second derivatives: a sentence."""
    central = "product=Central(), which takes differences of first derivatives"
    game = graph.games.get(problem)
    if game is None or not game.traced:
        return f"Use OneStep or Implicit with {central}."
    return (
        f"{game.play} differentiates the players' own steps, whatever their methods are. Use "
        f"play=Simultaneous() and give the player OneStep or Implicit with {central}; or, where "
        "nothing above needs a gradient through it, give it hypergrad=Frozen()."
    )


def _inside(region: _Region, other: Callable[[], AbstractContextManager[Any]] | None) -> Any:
    """A region, within another one if there is one."""

    @contextmanager
    def enter() -> Iterator[None]:
        with other() if other else nullcontext(), region.enter():
            yield

    return enter


def _failure(
    evaluator: Evaluator,
    problem: Problem,
    point: Point,
    leaves: Tensors,
    own: Tensors,
    often: int = 2,
) -> str | None:
    """Why the objective cannot be differentiated so often; None if it can."""
    with torch.enable_grad():
        result, _ = evaluator(problem, point, keep=True, twice=True)
        loss, _ = split_loss(result, problem.name)
        if not loss.requires_grad:
            return None
        first = torch.autograd.grad(loss, list(own.values()), create_graph=True, allow_unused=True)
        found = [g.to_dense() if g.is_sparse else g for g in first if g is not None]
        for count in range(2, often + 1):
            outputs = [g for g in found if g.requires_grad]
            if not outputs:
                return None
            if count == 2 and has_dead_end(outputs):
                return "a custom function's backward is marked once_differentiable."
            try:
                grads = torch.autograd.grad(
                    outputs,
                    list(leaves.values()),
                    [torch.ones_like(g) for g in outputs],
                    allow_unused=True,
                    create_graph=count < often,
                )
            except RuntimeError as error:  # torch has no type of its own for it
                return str(error).strip().splitlines()[0].rstrip(".") + "."
            if count > 2 and has_dead_end(outputs):
                return "an operation in it has no further derivative."
            found = [g for g in grads if g is not None]
    return None


def by_differences(method: AbstractHypergradient) -> AbstractHypergradient | None:
    """The same method with central differences.

    Args:
        method: of a problem.

    Returns:
        The method; None for one that has no product.
    """
    if method.traced or not dataclasses.is_dataclass(method):
        return None
    if "product" not in {f.name for f in dataclasses.fields(method)}:
        return None
    return dataclasses.replace(method, product=Central())  # type: ignore[type-var]


def _say(graph: Graph, problem: Problem, what: str, reason: str) -> None:
    graph.notes[problem] = what
    warnings.warn(
        f"{graph.labels[problem]}: {what}, because its objective has no second derivative as it "
        f"is: {reason}",
        CapabilityWarning,
        stacklevel=2,
    )
