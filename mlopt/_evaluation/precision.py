"""In which precision nodes are computed: autocast around their functions, and what is not in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from .._containers.containers import rebuilt
from .._errors import CapabilityWarning
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.problem import Problem
from ..hypergrad import StopGradient
from ..hypergrad.interface import AbstractHypergradient
from ..hypergrad.products import Differences

__all__ = ["Precisions", "name_of", "takes_differences"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precisions:
    """In which precision the nodes of a graph are computed.

    The function of a node runs in `torch.autocast`, and nothing else does: what it returns leaves
    that as float32, so that gradients, products, norms and differences are taken of float32. No
    cast is kept in autocast's cache, which would give one that was made without gradient to who
    needs it with one.

    Args:
        graph: of which nodes name their precision.
        default: that of nodes which name none.
        device: where batches are.

    Attributes:
        dtypes: of the nodes that are computed in low precision.
        stuck: of those among them that compute in low precision without autocast, too.
    """

    def __init__(
        self,
        graph: Graph | None = None,
        default: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.graph, self._off, self._told = graph, False, False
        self.dtypes: dict[Node, torch.dtype] = {}
        self.stuck: dict[Node, torch.dtype] = {}
        kinds = set() if device is None else {device.type}
        if graph is not None:
            named = {node: node.precision or default for node in graph.nodes}
            self.dtypes = {n: _DTYPES[p] for n, p in named.items() if p in _DTYPES}
            kinds |= {p.device.type for v in graph.variables for p in v.parameters()}
        self._kinds = sorted(kinds - {"meta"}) or ["cpu"]

    def around(self, node: Node, function: Callable[..., Any]) -> Callable[..., Any]:
        """A node's function in the node's precision.

        Args:
            node: a problem or signal.
            function: of the node, or what is called in its place.

        Returns:
            The function, or one that calls it in autocast.
        """
        dtype = self.dtypes.get(node)
        if dtype is None or self._off:
            return function

        def widened(held: Any) -> Any:
            return held.float() if isinstance(held, Tensor) and held.dtype == dtype else held

        def narrow(*arguments: Any) -> Any:
            with ExitStack() as regions:
                for kind in self._kinds:
                    regions.enter_context(torch.autocast(kind, dtype, cache_enabled=False))
                result = function(*arguments)
            return rebuilt(result, widened)

        return narrow

    @contextmanager
    def float32(self) -> Iterator[None]:
        """Compute all in float32 for a block: where it is asked what differences will see."""
        before, self._off = self._off, True
        try:
            yield
        finally:
            self._off = before

    def lost(self, narrow: Mapping[Node, torch.dtype]) -> dict[Node, torch.dtype]:
        """Which nodes compute in low precision where differences are taken.

        Args:
            narrow: those that do so where they stand.

        Returns:
            Their dtypes.
        """
        return {n: d for n, d in narrow.items() if n not in self.dtypes} | self.stuck

    def said(self, narrow: Mapping[Node, torch.dtype]) -> list[str]:
        """What is computed in which dtype, a line each, for the plan.

        Args:
            narrow: the dtypes of low precision that nodes have been seen to compute in.

        Returns:
            Lines; none where no node has a low precision.
        """
        if self.graph is None:
            return []
        lines: dict[str, list[str]] = {}
        for node, dtype in self.dtypes.items():
            how = f"computed in {name_of(dtype)}"
            if node not in narrow:
                how = f"computed as it is, since nothing in it is cast to {name_of(dtype)}"
            elif isinstance(node, Problem) and self.widens(node):
                how = "computed in float32, of which its method takes differences"
            elif isinstance(node, Problem) and self.widens(node, further=True):
                how += ", in float32 where its method takes differences"
            lines.setdefault(how, []).append(self.graph.labels[node])
        return [f"{how}: {', '.join(labels)}" for how, labels in lines.items()]

    def warn_of_none(self, narrow: Mapping[Node, torch.dtype]) -> None:
        """Say it once where nothing is computed in the precision that was asked for.

        Args:
            narrow: the dtypes of low precision that nodes have been seen to compute in.
        """
        if self._told or not self.dtypes or not self.dtypes.keys().isdisjoint(narrow):
            return
        self._told = True
        warnings.warn(
            f"Engine: {', '.join(self.graph.labels[n] for n in self.dtypes)} would be computed in "  # type: ignore[union-attr]
            "low precision, and nothing in their functions is: torch.autocast casts what float32 "
            "networks multiply, and float64 it leaves alone. Leave precision= out, or hold the "
            "networks in float32.",
            CapabilityWarning,
            stacklevel=2,
        )

    def widens(self, problem: Problem, further: bool = False) -> bool:
        """The rule: whether an evaluation of a problem's objective is made in float32 all the same.

        A difference of two gradients that are rounded to 8 or 11 bits consists of the rounding. So
        whatever differences are taken of is computed in float32:

        - the displaced evaluations of products by differences (`Central`, `OneSided`), and of
          `ZerothOrder`; with them all that follows the displaced variables in nested levels;
        - the base evaluation of `OneSided` too, which is one side of its difference;
        - that of an optimum that follows such a displacement (`Implicit` below a problem with one
          of these), which goes by how much its gradient has changed.

        All else is a sum of products, which low precision computes as well as a plain gradient.

        Args:
            problem: the problem.
            further: whether it is an evaluation that its method asks for, and not the base one.

        Returns:
            Whether it is.
        """
        if not self.dtypes or self.graph is None:
            return False
        methods = self.graph.methods
        method = methods[problem]
        if takes_differences(method) and (further or method.cost.keeps_base):
            return True
        return method.at_solution and any(
            takes_differences(m) and problem in self.graph.follows(p) for p, m in methods.items()
        )


def name_of(dtype: torch.dtype) -> str:
    """A dtype in messages: bfloat16."""
    return str(dtype).removeprefix("torch.")


def takes_differences(method: AbstractHypergradient) -> bool:
    """Whether gradients are subtracted from one another in a method's pullback.

    Args:
        method: of a problem.

    Returns:
        Whether they are.
    """
    while isinstance(method, StopGradient):
        method = method.method
    return method.differs or isinstance(getattr(method, "product", None), Differences)
