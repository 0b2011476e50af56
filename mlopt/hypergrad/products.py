"""Mixed second-order products d/dr < dF/dw , u >: exact, or by finite differences."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._arguments import check_fields, positive
from .._errors import GraphError
from .._tensors import Key, Tensors, add_scaled, apart, difference, norm
from .derivatives import derivatives
from .interface import Cost, Response

__all__ = ["AbstractProduct", "Central", "Differences", "Exact", "OneSided", "check_product"]

# Made once: they are asked for in every step.
_COST_OF_EXACT = Cost(keeps_graph=True, backwards=1, again=(1, 1))
_COST_OF_CENTRAL = Cost(evaluations=2, backwards=2)
_COST_OF_ONESIDED = Cost(keeps_base=True, evaluations=1, backwards=1)


class AbstractProduct(abc.ABC):
    """The product of the mixed second derivative of F(w; r) with a direction u in w.

        mixed(response, u, [r])[r]  =  d/dr < dF/dw , u >

    All arguments r come out of the same evaluations. With keys of w itself among the wanted ones it
    gives the product with the Hessian, H u.
    """

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """What one product needs."""

    @abc.abstractmethod
    def mixed(self, response: Response, direction: Tensors, wanted: Sequence[Key]) -> Tensors:
        """The product.

        Args:
            response: the problem at this point.
            direction: u, by key of `response.gradient`; absent keys are zero.
            wanted: keys of the arguments r, or of w.

        Returns:
            Tensors by wanted key; absent keys are zero.
        """


@dataclass(frozen=True)
class Exact(AbstractProduct):
    """Double backward through the base evaluation: no further evaluation, but its graph is kept.

    Do not use it with operations that have no double backward (fused attention, compiled modules),
    or where memory is short. It does not see the kinks of ReLU and max pooling, whose finite
    differences therefore need not agree with it: neither is wrong.
    """

    @property
    def cost(self) -> Cost:
        return _COST_OF_EXACT

    def mixed(self, response: Response, direction: Tensors, wanted: Sequence[Key]) -> Tensors:
        outputs, cotangents = self.terms(response, direction)
        held = {**response.arguments, **response.leaves}
        return derivatives(
            outputs,
            {k: held[k] for k in wanted},
            cotangents,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
        )

    def terms(self, response: Response, direction: Tensors) -> tuple[list[Tensor], list[Tensor]]:
        """What is differentiated, and with which cotangents.

        Args:
            response: the problem at this point.
            direction: u, by key of `response.gradient`.

        Returns:
            The gradients that depend on anything, and the direction along each.
        """
        keys = [k for k in direction if response.gradient[k].requires_grad]
        return [response.gradient[k] for k in keys], [direction[k] for k in keys]


class Differences(AbstractProduct):
    """A product by differences of dF/dr at displaced values of w.

    `mixed` asks for dF/dr at the `points` and lets `combine` put the answers together; whoever has
    several problems of one shape can take the answers of all of them at once.
    """

    @abc.abstractmethod
    def points(self, response: Response, direction: Tensors) -> tuple[list[Tensors], Tensor]:
        """The values of w at which dF/dr is needed.

        Args:
            response: the problem at this point.
            direction: u, by key of `response.gradient`; absent keys are zero.

        Returns:
            For each evaluation the value by key, as many for every direction; and 1/e.
        """

    @abc.abstractmethod
    def combine(
        self, response: Response, wanted: Sequence[Key], answers: Sequence[Tensors], inverse: Tensor
    ) -> Tensors:
        """The product, from dF/dr at the points.

        Args:
            response: the problem at this point.
            wanted: keys of the arguments r, or of w.
            answers: dF/dr at each point, by wanted key; absent keys are zero.
            inverse: 1/e, as `points` gave it.

        Returns:
            Tensors by wanted key; absent keys are zero.
        """

    def mixed(self, response: Response, direction: Tensors, wanted: Sequence[Key]) -> Tensors:
        points, inverse = self.points(response, direction)
        with response.together():
            answers = [response.differentiate(point, wanted) for point in points]
        return self.combine(response, wanted, answers, inverse)


@dataclass(frozen=True)
class Central(Differences):
    """Central difference along u, the product of DARTS and of SGL (Eq. 9).

        [dF/dr(w + e u) - dF/dr(w - e u)] / 2e,    e = radius / |u|

    Two evaluations at other weights, with the same batch, masks and buffers, differentiated to r
    alone. Its error is O(radius^2) where F is smooth. A direction of exactly zero gives exactly
    zero.

    Args:
        radius: the 2-norm of the displacement of w.

    Raises:
        GraphError: the radius is not positive.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable architecture search", ICLR 2019, Eq. 8.
    """

    radius: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self, GraphError, radius=positive)

    @property
    def cost(self) -> Cost:
        return _COST_OF_CENTRAL

    def points(self, response: Response, direction: Tensors) -> tuple[list[Tensors], Tensor]:
        step, inverse = _step(self.radius, direction)
        return apart(response.value, direction, step), inverse

    def combine(
        self, response: Response, wanted: Sequence[Key], answers: Sequence[Tensors], inverse: Tensor
    ) -> Tensors:
        del response, wanted
        plus, minus = answers
        return difference(plus, minus, inverse / 2)


@dataclass(frozen=True)
class OneSided(Differences):
    """One-sided difference along u that re-uses the gradient of the base evaluation.

        [dF/dr(w + e u) - dF/dr(w)] / e,    e = radius / |u|

    One evaluation instead of `Central`'s two, with an error of O(radius) instead of O(radius^2).

    Args:
        radius: the 2-norm of the displacement of w.

    Raises:
        GraphError: the radius is not positive.
    """

    radius: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self, GraphError, radius=positive)

    @property
    def cost(self) -> Cost:
        return _COST_OF_ONESIDED

    def points(self, response: Response, direction: Tensors) -> tuple[list[Tensors], Tensor]:
        step, inverse = _step(self.radius, direction)
        return [add_scaled(response.value, direction, step)], inverse

    def combine(
        self, response: Response, wanted: Sequence[Key], answers: Sequence[Tensors], inverse: Tensor
    ) -> Tensors:
        found = {**response.gradient, **response.argument_gradient}
        base = {k: g for k in wanted if (g := found.get(k)) is not None}
        return difference(answers[0], base, inverse)


def check_product(method: object, product: Any) -> None:
    """Refuse a method's product that is not one.

    Args:
        method: whose option it is.
        product: what was given.

    Raises:
        GraphError: it is no product.
    """
    if not isinstance(product, AbstractProduct):
        raise GraphError(
            f"{type(method).__name__}(product={product!r}): give an object: Exact(), Central() or "
            "OneSided()."
        )


def _step(radius: float, direction: Tensors) -> tuple[Tensor, Tensor]:
    """The step e = radius / |u| and 1/e; both zero for a zero direction, decided on the device."""
    length = norm(direction).detach()  # where the product is differentiated, e is a constant
    inverse = length / radius
    return inverse.reciprocal().nan_to_num(math.nan, posinf=0.0), inverse
