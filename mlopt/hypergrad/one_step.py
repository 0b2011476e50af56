"""`OneStep`: the look-ahead of DARTS, LFM-CW and SGL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._arguments import check_fields, positive
from .._errors import GraphError
from .._tensors import Key, Tensors, add_scaled, negative, scale
from ..optim import update_of
from .interface import AbstractHypergradient, Cost, Response
from .products import AbstractProduct, Exact, check_product

__all__ = ["OneStep"]


@dataclass(frozen=True)
class OneStep(AbstractHypergradient):
    """The lower solution is one update ahead of the standing value w.

        s(r) = w - lr dF/dw(w; r)              or, with lr=None, what the optimizer will really do
        pullback to r:  - d/dr < dF/dw , D c >

    D is lr, or the derivative of the optimizer's update by the raw gradient: see `mlopt.optim`.
    Clipping acts on the update, not on the look-ahead. Exact for the given look-ahead if the
    product is `Exact()`; with Adam the second moment is held constant.

    Do not use it where the lower problem is far from solved by one step and its curvature matters.

    Args:
        lr: the step of the plain gradient step of the equations, or None for the optimizer's own.
        product: how the mixed second-order product is taken.

    Raises:
        GraphError: lr is not positive, or the product is not one.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable architecture search", ICLR 2019, Eq. 6
    to 8.
    """

    lr: float | None = None
    product: AbstractProduct = field(default_factory=Exact)

    def __post_init__(self) -> None:
        check_product(self, self.product)
        check_fields(self, GraphError, lr=positive)

    @property
    def moves(self) -> bool:
        return True

    @property
    def looks_ahead(self) -> bool:  # type: ignore[override]
        return self.lr is None

    @property
    def responds(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return self.product.cost

    def check(self, name: str, optimizer: Any) -> None:
        if self.lr is not None:
            return
        if optimizer is None:
            raise GraphError(
                f"{name}: OneStep() looks ahead by the problem's optimizer, and it has none. "
                "Give one, or OneStep(lr=...) for the plain gradient step."
            )
        update_of(optimizer, name)

    def solution(self, response: Response) -> Tensors:
        if self.lr is not None:
            return add_scaled(response.value, response.gradient, -self.lr)
        update = update_of(response.optimizer, response.name)
        moved = update.look_ahead(response.optimizer, response.parameters, response.gradient)
        return {**response.value, **moved}

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        # A parameter that F does not use is not moved by the step: its look-ahead is a constant.
        cotangent = {k: c for k, c in cotangent.items() if k in response.gradient}
        if not cotangent:
            return {}
        direction = self.direction(response, cotangent)
        return negative(self.product.mixed(response, direction, wanted))

    def direction(self, response: Response, cotangent: Tensors) -> Tensors:
        """D c, the cotangent through the update.

        Args:
            response: the problem at this point.
            cotangent: c, by keys of `response.gradient`.

        Returns:
            Tensors by the same keys.
        """
        if self.lr is not None:
            return scale(cotangent, self.lr)
        update = update_of(response.optimizer, response.name)
        return update.derivative(
            response.optimizer, response.parameters, response.gradient, cotangent
        )
