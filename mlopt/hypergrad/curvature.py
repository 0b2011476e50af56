"""Curvature of a lower objective: the Hessian, or its Gauss-Newton part."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import GraphError
from .._tensors import Key, Tensors, accumulate
from .derivatives import derivatives
from .interface import Response
from .products import AbstractProduct

__all__ = ["AbstractCurvature", "GaussNewton", "Hessian", "outputs"]

_marked: ContextVar[list[tuple[Tensor, Tensor]] | None] = ContextVar("marked", default=None)


def outputs(z: Tensor) -> Tensor:
    """Mark a model's outputs inside an objective, for `GaussNewton`.

    Everywhere else it is the identity.

    Args:
        z: what the convex loss is a function of: predictions, logits.

    Returns:
        The same numbers.

    Raises:
        GraphError: it is no tensor.

    Examples:
        >>> import torch, mlopt
        >>> mlopt.outputs(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
    """
    if not isinstance(z, Tensor):
        raise GraphError(
            f"outputs(z=<{type(z).__name__}>): z must be a tensor; mark each of several by itself."
        )
    marked = _marked.get()
    if marked is None or not z.requires_grad:
        return z
    cut = z.detach().requires_grad_()
    marked.append((z, cut))
    return cut


@contextmanager
def _marking() -> Iterator[list[tuple[Tensor, Tensor]]]:
    marked: list[tuple[Tensor, Tensor]] = []
    token = _marked.set(marked)
    try:
        yield marked
    finally:
        _marked.reset(token)


class AbstractCurvature(abc.ABC):
    """A symmetric matrix H of a lower objective at one point, known by its products."""

    @property
    @abc.abstractmethod
    def follows(self) -> bool:
        """Whether products are differentiable, as nested levels need them."""

    @abc.abstractmethod
    def operator(
        self, response: Response, product: AbstractProduct, keys: Sequence[Key]
    ) -> Callable[[Tensors], Tensors]:
        """The product u -> H u.

        Args:
            response: the problem at this point.
            product: how second derivatives are taken.
            keys: of w, those that H is over.

        Returns:
            The operator; absent keys of its result are zero.
        """


@dataclass(frozen=True)
class Hessian(AbstractCurvature):
    """The Hessian d^2F/dw^2 itself: exact, and indefinite where F is not convex."""

    @property
    def follows(self) -> bool:
        return True

    def operator(
        self, response: Response, product: AbstractProduct, keys: Sequence[Key]
    ) -> Callable[[Tensors], Tensors]:
        return lambda u: product.mixed(response, u, keys)


@dataclass(frozen=True)
class GaussNewton(AbstractCurvature):
    """The generalised Gauss-Newton matrix: positive semidefinite for a convex loss of the outputs.

        F(w) = loss(z(w)) + R(w),    H = J^T loss''(z) J + R'',    J = dz/dw

    The objective marks z by `mlopt.outputs(z)`; what depends on w beside z (a penalty, say) enters
    by its Hessian. What is left out is the curvature of the model, weighted by the loss's slope:
    the error of the hypergradient is of that size, zero where the model is linear or fits
    perfectly.
    Needs double backward of the model, and one more evaluation. Not for a middle problem of nested
    levels.

    Reference: Schraudolph, "Fast curvature matrix-vector products for second-order gradient
    descent", 2002; Martens, "New insights and perspectives on the natural gradient method", 2020.
    """

    @property
    def follows(self) -> bool:
        return False

    def operator(
        self, response: Response, product: AbstractProduct, keys: Sequence[Key]
    ) -> Callable[[Tensors], Tensors]:
        del product
        with torch.enable_grad(), _marking() as marked:
            own = {k: t.detach().requires_grad_() for k, t in response.value.items()}
            loss = response.objective(own, 0)
        if not marked:
            raise GraphError(
                f"{response.name}: GaussNewton() needs the model's outputs, and its objective "
                "marks none. Write z = mlopt.outputs(model(x)) where the loss is a function of z."
            )
        own = {k: own[k] for k in keys}
        cuts = {(None, str(i)): cut for i, (_, cut) in enumerate(marked)}
        whole = {(None, str(i)): z for i, (z, _) in enumerate(marked)}
        with torch.enable_grad():
            slopes = derivatives([loss], {**cuts, **own}, create_graph=True)
            ones = {k: torch.zeros_like(z).requires_grad_() for k, z in whole.items()}
            # linear in `ones`: its derivative by them is J
            pulled = derivatives(list(whole.values()), own, list(ones.values()), create_graph=True)

        def apply(u: Tensors) -> Tensors:
            moved = [k for k in pulled if k in u and pulled[k].requires_grad]
            ju = derivatives(
                [pulled[k] for k in moved], ones, [u[k] for k in moved], retain_graph=True
            )
            # loss'' with its mixed parts, where the loss is not linear in what is marked
            steep = [k for k in slopes if slopes[k].requires_grad and k in {**ju, **u}]
            bent = derivatives(
                [slopes[k] for k in steep],
                {**cuts, **own},
                [{**ju, **u}[k] for k in steep],
                retain_graph=True,
            )
            back = {k: t for k, t in bent.items() if k in cuts}
            found = derivatives(
                [whole[k] for k in back], own, list(back.values()), retain_graph=True
            )
            accumulate(found, {k: t for k, t in bent.items() if k in own})
            return found

        return apply
