"""Curvature of a lower objective: the Hessian, or its Gauss-Newton part."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._errors import GraphError
from .._tensors import Key, Tensors, accumulate
from .derivatives import derivatives
from .interface import Cost, Response
from .products import AbstractProduct, Differences

__all__ = ["AbstractCurvature", "GaussNewton", "Hessian", "Marked", "outputs"]

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
    if z.dtype in (torch.float16, torch.bfloat16):  # what is computed of J u is no low precision
        z = z.float()
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


class Marked:
    """An objective at one point, cut at the model's outputs that it marks.

    Args:
        objective: of w; its graph is gone through several times.
        value: w, by key.

    Attributes:
        own: w, as leaves.
        loss: the objective's value.
        outputs: what is marked, as a function of w.
        cuts: the leaves that the loss is a function of in their places.
    """

    def __init__(self, objective: Callable[[Tensors], Tensor], value: Tensors) -> None:
        with torch.enable_grad(), _marking() as marked:
            self.own = {k: t.detach().requires_grad_() for k, t in value.items()}
            self.loss = objective(self.own)
        self.outputs: Tensors = {(None, str(i)): z for i, (z, _) in enumerate(marked)}
        self.cuts: Tensors = {(None, str(i)): cut for i, (_, cut) in enumerate(marked)}

    def slopes(self, keys: Sequence[Key]) -> Tensors:
        """The loss's gradient by the outputs and, where it does not go through them, by w.

        Args:
            keys: of w.

        Returns:
            Tensors by key, which can be differentiated again.
        """
        by = {**self.cuts, **{k: self.own[k] for k in keys}}
        return derivatives([self.loss], by, create_graph=True)

    def pull(self, cotangents: Tensors, keys: Sequence[Key]) -> Tensors:
        """J^T v.

        Args:
            cotangents: v, by key of the outputs.
            keys: of w.

        Returns:
            Tensors by key.
        """
        outputs, own = [self.outputs[k] for k in cotangents], {k: self.own[k] for k in keys}
        return derivatives(outputs, own, list(cotangents.values()), retain_graph=True)

    def push(self, keys: Sequence[Key]) -> Callable[[Tensors], Tensors]:
        """The product u -> J u by double backward.

        Args:
            keys: of w.

        Returns:
            The product.
        """
        own = {k: self.own[k] for k in keys}
        with torch.enable_grad():
            ones = {k: torch.zeros_like(z).requires_grad_() for k, z in self.outputs.items()}
            # linear in `ones`: its derivative by them is J
            pulled = derivatives(
                list(self.outputs.values()), own, list(ones.values()), create_graph=True
            )

        def push(u: Tensors) -> Tensors:
            moved = [k for k in pulled if k in u and pulled[k].requires_grad]
            return derivatives(
                [pulled[k] for k in moved], ones, [u[k] for k in moved], retain_graph=True
            )

        return push


def _by_differences(
    response: Response, product: Differences, at: Marked
) -> Callable[[Tensors], Tensors]:
    """The product u -> J u by differences of the outputs."""
    here = replace(response, argument_gradient={k: z.detach() for k, z in at.outputs.items()})

    def push(u: Tensors) -> Tensors:
        points, inverse = product.points(response, u)
        there = [Marked(response.objective, point).outputs for point in points]
        answers = [{k: z.detach() for k, z in outputs.items()} for outputs in there]
        return product.combine(here, list(at.outputs), answers, inverse)

    return push


class AbstractCurvature(abc.ABC):
    """A symmetric matrix H of a lower objective at one point, known by its products."""

    @property
    @abc.abstractmethod
    def follows(self) -> bool:
        """Whether products are differentiable, as nested levels need them."""

    def cost_of(self, product: AbstractProduct, products: int) -> Cost:
        """What some products with H at one point need.

        Args:
            product: how second derivatives are taken.
            products: how many, at the most.

        Returns:
            The cost; by default that of as many mixed products.
        """
        cost = product.cost
        evaluations, backwards = cost.again
        return replace(
            cost,
            evaluations=cost.evaluations * products,
            backwards=cost.backwards * products,
            again=(evaluations * products, backwards * products),
        )

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
    With `Exact()` the product J u needs double backward of the model; with a difference, J u is one
    of the outputs at two points, as of w itself, and the model needs its first derivative alone.
    The loss is differentiated twice either way. Takes one more evaluation. Not for a middle problem
    of nested levels.

    Reference: Schraudolph, "Fast curvature matrix-vector products for second-order gradient
    descent", 2002; Martens, "New insights and perspectives on the natural gradient method", 2020.
    """

    @property
    def follows(self) -> bool:
        return False

    def cost_of(self, product: AbstractProduct, products: int) -> Cost:
        if isinstance(product, Differences):  # J u by these, and loss'' and J^T backward
            evaluations = product.cost.evaluations * products
            return replace(
                product.cost,
                evaluations=1 + evaluations,
                backwards=1 + 2 * products,
                again=(products - 1, products - 1),
            )
        return replace(
            product.cost,
            evaluations=1,
            backwards=2 + 3 * products,
            again=(products - 1, 2 * (products - 1)),
        )

    def operator(
        self, response: Response, product: AbstractProduct, keys: Sequence[Key]
    ) -> Callable[[Tensors], Tensors]:
        if response.parts is not None:
            return self._in_parts(response, response.parts, product, keys)
        return self._operator(response, product, keys)

    def _in_parts(
        self,
        response: Response,
        parts: Callable[[], Iterable[AbstractContextManager[None]]],
        product: AbstractProduct,
        keys: Sequence[Key],
    ) -> Callable[[Tensors], Tensors]:
        """The sum over parts of a batch, of which each is computed when it is asked for."""

        def apply(u: Tensors) -> Tensors:
            found: Tensors = {}
            for part in parts():
                with part:
                    accumulate(found, self._operator(response, product, keys)(u))
            return response.total(found, {k: response.value[k] for k in keys})

        return apply

    def _operator(
        self, response: Response, product: AbstractProduct, keys: Sequence[Key]
    ) -> Callable[[Tensors], Tensors]:
        at = Marked(lambda own: response.objective(own, 0, None, True), response.value)
        if not at.outputs:
            raise GraphError(
                f"{response.name}: GaussNewton() needs the model's outputs, and its objective "
                "marks none. Write z = mlopt.outputs(model(x)) where the loss is a function of z."
            )
        own, slopes = {k: at.own[k] for k in keys}, at.slopes(keys)
        push = (
            _by_differences(response, product, at)
            if isinstance(product, Differences)
            else at.push(keys)
        )

        def apply(u: Tensors) -> Tensors:
            ju = push(u)
            # loss'' with its mixed parts, where the loss is not linear in what is marked
            steep = [k for k in slopes if slopes[k].requires_grad and k in {**ju, **u}]
            bent = derivatives(
                [slopes[k] for k in steep],
                {**at.cuts, **own},
                [{**ju, **u}[k] for k in steep],
                retain_graph=True,
            )
            found = at.pull({k: t for k, t in bent.items() if k in at.cuts}, keys)
            accumulate(found, {k: t for k, t in bent.items() if k in own})
            return found

        return apply
