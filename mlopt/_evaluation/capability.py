"""Second derivatives that an objective does not have, and what takes their place."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._errors import CapabilityWarning, GraphError, exhausted
from .._graph.brief import brief
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal
from .._tensors import Tensors
from ..hypergrad.interface import AbstractHypergradient
from ..hypergrad.products import Central
from .autograd_graph import has_dead_end
from .loss import differentiable
from .point import Evaluator, Point

__all__ = ["Lack", "by_differences", "check_second_order", "say_region", "take_differences"]


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


@dataclass(frozen=True)
class Lack:
    """A derivative that a node does not have as it is, and that nested levels may need.

    Attributes:
        order: the first that it does not have.
        reason: why.
        silent: whether autograd passes it by without an error.
        region: in which it has one; None if in none.
    """

    order: int
    reason: str
    silent: bool = False
    region: _Region | None = None

    def give(self, evaluator: Evaluator, node: Node) -> bool:
        """Evaluate the node in the region from now on; whether there is one."""
        if self.region is not None:
            _give(evaluator, node, self.region)
        return self.region is not None


def check_second_order(
    graph: Graph,
    evaluator: Evaluator,
    node: Node,
    point: Point,
    leaves: Tensors,
    own: Tensors,
    often: int,
) -> Lack | None:
    """Find out once whether a node can be differentiated twice, if its method needs that.

    If not, it is evaluated with torch's mathematical attention kernel, or without compilation,
    where (and only where) second derivatives are taken; and if that does not help, the method's
    products become central differences. Either is said by a `CapabilityWarning` and in the plan.

    Args:
        graph: of which methods and notes may be changed.
        evaluator: of the graph.
        node: a problem or signal.
        point: where it is evaluated.
        leaves: all that it reads, by key.
        own: those among them by which it is differentiated first for its own update; of a signal,
            all.
        often: how often nested levels may differentiate it.

    Returns:
        Why it cannot be differentiated as often as nested levels may need; None if it can.

    Raises:
        GraphError: nothing helps, because the method cannot do without second derivatives.
    """
    regions = _REGIONS

    def found(first: Tensors, times: int) -> tuple[_Region | None, Lack | None]:
        return _first_region(regions, evaluator, node, point, leaves, first, times)

    through = own
    if isinstance(node, Problem):
        method = graph.methods[node]
        if not method.responds or often < 2:
            return None
        must = method.cost.keeps_graph or method.traced
        if must:
            region, lack = found(own, 2)
            if region is None:
                assert lack is not None
                take_differences(graph, node, method, lack.reason)
                return lack if often > 2 else None
            if lack is not None:
                lack.give(evaluator, node)
                say_region(graph, node, lack)
            regions = _REGIONS[_REGIONS.index(region) :]
        through = own | _below(graph, node, leaves)
        if must and often == 2 and len(through) == len(own):
            return None
    return found(through, often)[1]


def say_region(graph: Graph, node: Node, lack: Lack) -> None:
    """Have it known that a node is evaluated in a region.

    Args:
        graph: whose notes say so.
        node: a problem or signal.
        lack: why, and the region.
    """
    assert lack.region is not None
    _say(graph, node, f"second derivatives with {lack.region.what}", lack.reason)


def _below(graph: Graph, problem: Problem, leaves: Tensors) -> Tensors:
    """What a problem reads that follows its own variables, in nested levels."""
    if all(map(graph.staged, graph.problems)):
        return {}
    return {k: t for k, t in leaves.items() if graph.node(k[0]) in graph.follows(problem)}


def _first_region(
    regions: Sequence[_Region],
    evaluator: Evaluator,
    node: Node,
    point: Point,
    leaves: Tensors,
    first: Tensors,
    often: int,
) -> tuple[_Region | None, Lack | None]:
    """The first of some in which a node can be differentiated so often, and what others lack."""
    lack: Lack | None = None
    for region in regions:
        with region.enter():
            failure = _failure(evaluator, node, point, leaves, first, often)
        if failure is None:
            return region, lack and replace(lack, region=region)
        lack = lack or failure
    return None, lack


def _give(evaluator: Evaluator, node: Node, region: _Region) -> None:
    """Evaluate a node in a region, within the one it has if it has one."""
    other = evaluator.regions.get(node, nullcontext)

    @contextmanager
    def enter() -> Iterator[None]:
        with other(), region.enter():
            yield

    evaluator.regions[node] = enter


def take_differences(
    graph: Graph, problem: Problem, method: AbstractHypergradient, reason: str
) -> None:
    """Have a method's products be central differences from now on.

    Args:
        graph: of which methods and notes are changed.
        problem: the problem.
        method: its method.
        reason: why double backward does not do.

    Raises:
        GraphError: the method has no product.
    """
    other = by_differences(method)
    if other is None:
        raise GraphError(
            f"{problem.name}: {method} differentiates its objective twice, which fails: {reason} "
            f"{instead(graph, problem)}"
        )
    graph.methods[problem] = other
    _say(graph, problem, f"central differences for {brief(method)}", reason)


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


def _failure(
    evaluator: Evaluator, node: Node, point: Point, leaves: Tensors, first: Tensors, often: int
) -> Lack | None:
    """What a node lacks to be differentiated so often; None if nothing."""
    with torch.enable_grad():
        result, _ = evaluator(node, point, keep=True, twice=True)
        outputs = [t for t in differentiable(node, result) if t.requires_grad]
        if not outputs:
            return None
        # A backward that is given a constant leaves no mark of what it lacks; and what comes back
        # to a signal depends on it, and is differentiated with it.
        along = [torch.ones_like(t, requires_grad=True) for t in outputs]
        signal = isinstance(node, Signal)
        by, again = list(first.values()), [*leaves.values(), *(along if signal else ())]
        try:
            grads = torch.autograd.grad(outputs, by, along, create_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "through the graph a second time" not in str(error):
                raise
            raise GraphError(
                f"{node.name}: it gives what another evaluation has computed, whose graph is gone: "
                "something is kept, by a cache, say. Compute it in each evaluation."
            ) from error
        found = [g.to_dense() if g.is_sparse else g for g in grads if g is not None]
        for count in range(2, often + 1):
            outputs = [g for g in found if g.requires_grad]
            if not outputs:
                return None
            if count == 2 and has_dead_end(outputs):
                return Lack(
                    2, "a custom function's backward is marked once_differentiable.", silent=True
                )
            try:
                grads = torch.autograd.grad(
                    outputs,
                    again,
                    [torch.ones_like(g) for g in outputs],
                    allow_unused=True,
                    create_graph=count < often,
                )
            except RuntimeError as error:  # torch has no type of its own for it
                if exhausted(error):
                    raise
                return Lack(count, str(error).strip().splitlines()[0].rstrip(".") + ".")
            if count > 2 and has_dead_end(outputs):
                return Lack(count, "an operation in it has no further derivative.", silent=True)
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
    return replace(method, product=Central())  # type: ignore[type-var]


def _say(graph: Graph, node: Node, what: str, reason: str) -> None:
    graph.notes[node] = what
    its = "its objective" if isinstance(node, Problem) else "it"
    warnings.warn(
        f"{graph.labels[node]}: {what}, because {its} has no second derivative as it is: {reason}",
        CapabilityWarning,
        stacklevel=2,
    )
