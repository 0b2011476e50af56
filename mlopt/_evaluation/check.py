"""The check before the first step: what each function touches, against what it was given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import Signal, join, split
from .._tensors import Tensors
from .._variable import Variable
from .capability import check_second_order
from .loss import split_loss
from .point import Evaluator, Point
from .sparse import check_sparse

__all__ = ["check_reads"]


class _Watch(TorchDispatchMode):
    """Notes which of the watched tensors any operation takes as an input, even without gradient."""

    def __init__(self, watched: dict[int, tuple[Any, bool]]) -> None:
        super().__init__()
        self.watched = watched
        self.touched: set[tuple[Any, bool]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        for argument in (*args, *kwargs.values()):
            # hardly any argument is a container, and to walk through one takes longest
            held = isinstance(argument, list | tuple | dict)
            for x in tree_leaves(argument) if held else [argument]:
                if isinstance(x, Tensor) and id(x) in self.watched:
                    self.touched.add(self.watched[id(x)])
        return func(*args, **kwargs)


def _eager() -> AbstractContextManager[Any]:
    """Without compilation: some versions of torch never compile again what ran under a watch."""
    if "torch._dynamo" not in sys.modules:  # its import takes seconds, and nothing is compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def check_reads(
    graph: Graph,
    evaluator: Evaluator,
    batch: Callable[[Node], Any],
    seed: Callable[[Node, int], int],
) -> dict[Problem, str]:
    """Evaluate each node once with fresh leaves, and compare what it touches to what it declares.

    Changes nothing: no buffer is committed, no gradient taken for an update.

    Args:
        graph: the graph.
        evaluator: of the graph.
        batch: (node) -> a batch.
        seed: (node, inner step) -> the seed of the first evaluation.

    Returns:
        The problems that cannot be differentiated as often as nested levels may need, and why.

    Raises:
        GraphError: a hidden read, a given that is never touched, a value that is not a scalar, or
            an objective that does not depend on its own variable.
    """
    signals: dict[Signal, Any] = {}
    shallow: dict[Problem, str] = {}
    # What arrives as an argument has another identity than the variable's own tensors: whoever
    # touches those has gone past the arguments.
    own = {id(p): (v, False) for v in graph.variables for p in v.named_parameters().values()}
    for node in graph.nodes:
        watched: dict[int, tuple[Any, bool]] = dict(own)
        values: dict[Variable, dict[str, Tensor]] = {}
        for source in (read.source for read in node.reads):
            tensors = (
                split(signals[source], source.name)
                if isinstance(source, Signal)
                else (source.named_parameters())
            )
            fresh = {k: t.detach().requires_grad_(t.requires_grad) for k, t in tensors.items()}
            watched.update({id(t): (source, True) for t in fresh.values()})
            if isinstance(source, Signal):
                signals[source] = join(signals[source], fresh)
            else:
                values[source] = fresh
        with torch.enable_grad(), _eager(), _Watch(watched) as watch:
            result, _ = evaluator(node, Point(values, signals, batch(node), seed(node, 0)))
        if isinstance(node, Problem):
            split_loss(result, node.name)
        # An upper problem may depend on its own variables through the lower ones alone.
        free = set(node.over) if isinstance(node, Problem) and graph.sweeps[node].nodes else set()
        _check_touched(node, watch.touched, free)
        check_sparse(
            graph, evaluator, node, Point(values, signals, batch(node), seed(node, 0)), result
        )
        if isinstance(node, Problem):
            _check_objective(node, result, values, may_be_indirect=bool(free))
            held: Tensors = {(v, k): t for v, ts in values.items() for k, t in ts.items()}
            for source in (r.source for r in node.reads if isinstance(r.source, Signal)):
                parts = split(signals[source], source.name)
                held.update({(source, k): t for k, t in parts.items()})
            leaves = {k: t for k, t in held.items() if t.requires_grad}
            over = {k: t for k, t in leaves.items() if k[0] in node.over}
            point = Point(values, signals, batch(node), seed(node, 0))
            if reason := check_second_order(graph, evaluator, node, point, leaves, over):
                shallow[node] = reason
        elif isinstance(node, Signal):
            split(result, node.name)
            signals[node] = result
    evaluator.release()
    return shallow


def _check_touched(node: Node, touched: set[tuple[Any, bool]], free: set[Variable]) -> None:
    reads = [read.source for argument in node.arguments for read in argument.reads]
    for source, declared in touched:
        if not declared and source in reads:
            raise GraphError(
                f"{node.name} uses {source.name}'s own tensor past its argument; use the argument, "
                "whose value the engine chooses."
            )
        if not declared:
            raise GraphError(
                f"{node.name} reads {source.name} without being given it. Add {source.name} to "
                "given= (or stop() of it), and use the argument."
            )
    for source in reads:
        if (source, True) not in touched and source not in free:
            if isinstance(node, Problem) and source in node.over:
                raise GraphError(
                    f"{node.name} never uses {source.name}, which it is minimised over: use the "
                    "argument."
                )
            raise GraphError(
                f"{node.name} is given {source.name} and never uses it. Remove it from given=, or "
                "use the argument."
            )


def _check_objective(
    node: Problem,
    result: Any,
    values: dict[Variable, dict[str, Tensor]],
    may_be_indirect: bool,
) -> None:
    loss, _ = split_loss(result, node.name)
    if may_be_indirect and loss.requires_grad:
        return
    leaves = [t for v in node.over for t in values[v].values() if t.requires_grad]
    # The last ones first: of a network they are next to its loss, and one that counts is enough.
    if not (loss.requires_grad and any(_depends(loss, leaf) for leaf in reversed(leaves))):
        raise GraphError(
            f"{node.name}: its value does not depend on {', '.join(v.name for v in node.over)}, "
            "which it is minimised over. Is something detached, or under no_grad?"
        )


def _depends(loss: Tensor, leaf: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True, retain_graph=True)
    return gradient is not None
