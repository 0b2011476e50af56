"""The interface of hypergradient methods: a problem's solution, and how a cotangent passes it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ._tensors import Key, Tensors

__all__ = ["AbstractHypergradient", "Cost", "Response"]


@dataclass(frozen=True)
class Cost:
    """What a method asks of the engine, for one problem.

    Attributes:
        keeps_graph: dF/dw must stay differentiable until the pullback.
        keeps_base: the base evaluation must also give dF/dr, for every argument r of the pullback.
        evaluations: evaluations of the objective in one pullback.
        backwards: backward passes in one pullback.
    """

    keeps_graph: bool = False
    keeps_base: bool = False
    evaluations: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Response:
    """A lower problem with objective F(w; r) at one point of one step.

    Attributes:
        name: the problem's label.
        value: w, the standing value.
        gradient: dF/dw, one base evaluation shared with the problem's own update; parameters that F
            does not use are absent. Differentiable if the method keeps the graph.
        arguments: the leaves r that cotangents can be asked for.
        argument_gradient: dF/dr of the same evaluation, if the method keeps the base.
        parameters: the user's own parameters by key, as the optimizer knows them.
        optimizer: the user's optimizer, or None.
        differentiate: (w, keys of r) -> dF/dr: one more evaluation at another w, with the same
            batch, masks and buffers.
    """

    name: str
    value: Tensors
    gradient: Tensors
    arguments: Tensors
    argument_gradient: Tensors
    parameters: Tensors
    optimizer: Any
    differentiate: Callable[[Tensors, Sequence[Key]], Tensors]


class AbstractHypergradient(abc.ABC):
    """How a lower problem's solution is approximated, and how gradients pass through it.

    A method is a small immutable object. It must satisfy the pullback law: with s(r) the solution
    it gives as a function of the problem's arguments r, at a fixed standing value,

        pullback(response, c, [r])[r]  =  (ds/dr)^T c

    up to the error that its docstring states. `tests/cases.py` checks this for every method.

    A note on design: a method sees one problem at one point, and nothing of the graph. The sweep
    owns the chain rule, so that methods and graphs multiply instead of add.
    """

    @property
    @abc.abstractmethod
    def moves(self) -> bool:
        """Whether readers see another value than the standing one."""

    @property
    @abc.abstractmethod
    def responds(self) -> bool:
        """Whether cotangents pass."""

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one pullback needs."""

    @abc.abstractmethod
    def check(self, name: str, optimizer: Any) -> None:
        """Raise a `GraphError` if the method cannot serve a problem with this optimizer.

        Args:
            name: the problem's label.
            optimizer: the problem's optimizer, or None.
        """

    @abc.abstractmethod
    def solution(self, response: Response) -> Tensors:
        """The value that higher problems read, without a graph.

        Args:
            response: the problem at this point.

        Returns:
            Tensors with the keys of `response.value`.
        """

    @abc.abstractmethod
    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        """Turn a cotangent on the solution into cotangents on arguments.

        Args:
            response: the problem at this point.
            cotangent: by key of `response.value`; absent keys are zero.
            wanted: keys of `response.arguments`.

        Returns:
            Tensors by wanted key; absent keys are zero.
        """
