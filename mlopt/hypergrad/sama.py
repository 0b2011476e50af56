"""`Sama`: the adaptive, first-order-cost look-ahead of SAMA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .._errors import GraphError
from .._tensors import Key, Tensors, scale
from ..optim import rule_of
from .derivatives import derivatives
from .interface import AbstractHypergradient, Cost, Response
from .products import AbstractProduct, Central, check_product

__all__ = ["Sama"]


@dataclass(frozen=True)
class Sama(AbstractHypergradient):
    """One update ahead, with the exact derivative of the adaptive update and the Hessian left out.

        s(r) = w + what the optimizer will do with dF/dw(w; r)
        pullback to r:  - d/dr < dF/dw , D c >,    D = - d update / d gradient

    Where `OneStep` holds Adam's second moment constant, D here is the derivative of the whole
    update, second moment included: SAMA's adaptation of the identity approximation of the Hessian
    to the optimizer in use. With finite differences no double backward is ever needed. Exact for
    this solution up to the product's error; at Adam's very first step D is nearly zero, because
    the update is the gradient's sign.

    Args:
        product: how the mixed product is taken; the paper's is the central difference.

    Raises:
        GraphError: the product is not one.

    Reference: Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing, "Making Scalable Meta Learning
    Practical", NeurIPS 2023.
    """

    product: AbstractProduct = field(default_factory=Central)

    looks_ahead = True

    def __post_init__(self) -> None:
        check_product(self, self.product)

    @property
    def moves(self) -> bool:
        return True

    @property
    def responds(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        cost = self.product.cost  # and once back through the update
        return replace(cost, backwards=cost.backwards + 1)

    def check(self, name: str, optimizer: Any) -> None:
        if optimizer is None:
            raise GraphError(
                f"{name}: Sama() adapts to the problem's optimizer, and it has none. Give it one, "
                "or OneStep(lr=...) for the plain gradient step."
            )
        rule_of(optimizer, name)

    def solution(self, response: Response) -> Tensors:
        return self._update(response, response.gradient)

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        keys = [k for k in cotangent if k in response.gradient]
        if not keys:
            return {}
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            grads = {
                k: g.view_as(g) if again and g.requires_grad else g.detach().requires_grad_()
                for k, g in response.gradient.items()
            }
            moved = self._update(response, grads)
            found = derivatives(
                [moved[k] for k in keys],
                {k: grads[k] for k in keys},
                [cotangent[k] for k in keys],
                create_graph=again,
            )
        direction = scale(found, -1.0)
        return scale(self.product.mixed(response, direction, wanted), -1.0)

    def _update(self, response: Response, gradients: Tensors) -> Tensors:
        rule = rule_of(response.optimizer, response.name)
        state = rule.begin(response.optimizer, response.parameters)
        return rule.step(response.optimizer, response.parameters, response.value, gradients, state)[
            0
        ]
