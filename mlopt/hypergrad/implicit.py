"""`Implicit`: the lower problem taken as solved, differentiated by its optimality condition."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .._arguments import check_fields, from_zero
from .._errors import ConvergenceError, GraphError, NonFiniteError
from .._tensors import Key, Tensors, add_scaled, difference, scale
from ..solvers import CG, AbstractSolver, Operator
from .curvature import AbstractCurvature, Hessian
from .derivatives import derivatives
from .interface import AbstractHypergradient, Cost, Response, gradient
from .products import AbstractProduct, Exact, check_product

__all__ = ["Implicit"]


@dataclass(frozen=True)
class Implicit(AbstractHypergradient):
    """The standing value w is taken as the lower problem's optimum.

        s(r) = w,    dF/dw(w; r) = 0
        pullback to r:  - d/dr < dF/dw , q >,    (H + damping I) q = c,    H = d^2F/dw^2

    Exact where w is the optimum, H is positive definite and the solver converged; an inexact w
    gives an error of the size of |dF/dw|. Where a middle problem displaces r, the optimum follows
    by one Newton step, which is exact for quadratic F and loses terms of second order in the
    displacement else:

        s(r') = w - (H + damping I)^-1 [ dF/dw(w; r') - dF/dw(w; r) ]

    Let the lower problem come near its optimum before each upper update: see `Alternate`. Do not
    use it where it stays far from it (then `Unrolled`), nor on objectives without curvature. For
    the players of a game it is the derivative of their equilibrium: see `games.Simultaneous`.

    Args:
        solver: of the linear system; `CG()` needs H to be positive definite.
        product: how products with H and the mixed product are taken.
        curvature: which matrix H is; `GaussNewton()` is positive semidefinite where the Hessian is
            not.
        damping: added to H; biases q towards zero, and keeps flat directions from blowing up.

    Raises:
        GraphError: an option is not what it must be.

    Reference: Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016;
    Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
    Differentiation", AISTATS 2020.
    """

    solver: AbstractSolver = field(default_factory=CG)
    product: AbstractProduct = field(default_factory=Exact)
    curvature: AbstractCurvature = field(default_factory=Hessian)
    damping: float = 0.0

    at_solution = True

    def __post_init__(self) -> None:
        if not isinstance(self.solver, AbstractSolver):
            raise GraphError(
                f"Implicit(solver={self.solver!r}): give an object: CG(), GMRES(), Neumann(), "
                "Nystrom() or Dense()."
            )
        check_product(self, self.product)
        if not isinstance(self.curvature, AbstractCurvature):
            raise GraphError(
                f"Implicit(curvature={self.curvature!r}): give an object: Hessian() or "
                "GaussNewton()."
            )
        check_fields(self, GraphError, damping=from_zero)

    @property
    def moves(self) -> bool:
        return False

    @property
    def responds(self) -> bool:
        return True

    @property
    def cost(self) -> Cost:
        return self.product.cost

    def cost_of(self, size: int) -> Cost:
        mixed = self.product.cost
        solved = self.curvature.cost_of(self.product, self.solver.most_products(size))
        return replace(
            mixed,
            evaluations=mixed.evaluations + solved.evaluations,
            backwards=mixed.backwards + solved.backwards,
            again=tuple(map(operator.add, mixed.again, solved.again)),  # type: ignore[arg-type]
        )

    def check(self, name: str, optimizer: Any) -> None:
        del name, optimizer

    def solution(self, response: Response) -> Tensors:
        if response.reference is None:
            return response.value
        moved = difference(response.gradient, response.reference, 1.0)
        return add_scaled(response.value, self._solve(response, moved), -1.0)

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        # A parameter that F does not use is no part of the optimality condition.
        cotangent = {k: c for k, c in cotangent.items() if k in response.gradient}
        if not cotangent:
            return {}
        direction = self._solve(response, cotangent)
        return scale(self.product.mixed(response, direction, wanted), -1.0)

    def _operator(self, response: Response, keys: list[Key]) -> Callable[[Tensors], Tensors]:
        return self.curvature.operator(response, self.product, keys)

    def _solve(self, response: Response, b: Tensors) -> Tensors:
        """(H + damping I)^-1 b, differentiable under grad mode."""
        keys = list(response.gradient)
        b = {k: b[k] if k in b else torch.zeros_like(response.value[k]) for k in keys}

        if torch.is_grad_enabled() and not self.curvature.follows:
            raise GraphError(
                f"{response.name}: {type(self.curvature).__name__}() is not differentiable itself, "
                "which its reader, a middle problem of nested levels, needs. Use Hessian(), or "
                "Central() as that problem's product."
            )
        system = _System(self, response, keys, self._operator(response, keys))
        if not torch.is_grad_enabled():
            return solved(self.solver, system.product, b, response)
        upstream = [response.upstream[k] for k in system.inputs]
        found = _Solve.apply(system, *b.values(), *upstream)
        return dict(zip(keys, found, strict=True))


def solved(solver: AbstractSolver, operator: Operator, b: Tensors, *responses: Response) -> Tensors:
    """The solution of a linear system, of whose residual its problems are told.

    Args:
        solver: of the system.
        operator: v -> A v.
        b: the right-hand side.
        *responses: of the problems whose system it is.

    Returns:
        x by key.

    Raises:
        NonFiniteError: what the solver computes on is infinite or not a number.
        LinAlgError: torch cannot factorize a matrix that is finite.
    """
    name = " and ".join(r.name for r in responses)
    try:
        found = solver.solve(operator, b, name)
    except torch.linalg.LinAlgError as error:
        if "non-finite" not in str(error):
            raise
        raise NonFiniteError(
            f"{name}: {solver!r} factorizes a matrix that is not finite. Take a smaller learning "
            "rate, damp the curvature, or compute in a wider dtype.",
            problem=name,
        ) from error
    for response in responses:
        response.solved(found.residual, "" if found.warned else repr(solver))
    return found.value


@dataclass(frozen=True)
class _System:
    """(H + damping I) x = b as the autograd function sees it."""

    method: Implicit
    response: Response
    keys: list[Key]
    curvature: Callable[[Tensors], Tensors]

    def product(self, v: Tensors) -> Tensors:
        """The product (H + damping I) v."""
        found = self.curvature(v)
        damping = self.method.damping
        if not found and not damping:
            raise ConvergenceError(
                f"{self.response.name}: its objective has no curvature in its variable (the second "
                "derivative does not exist), so Implicit has nothing to solve with. Give "
                "Implicit(damping=...), add a quadratic term, or use OneStep or Unrolled."
            )
        return add_scaled(scale(v, damping), found, 1.0) if damping else found

    @property
    def inputs(self) -> Tensors:
        """What H depends on."""
        held = {**self.response.leaves, **self.response.arguments}
        return {k: held[k] for k in self.response.upstream if k in held}

    def solve(self, b: Sequence[Tensor]) -> list[Tensor]:
        """The solution, without a graph."""
        right = dict(zip(self.keys, b, strict=True))
        with torch.no_grad():
            value = solved(self.method.solver, self.product, right, self.response)
        return [value[k] for k in self.keys]

    def afresh(self) -> _System:
        """The same system computed from new aliases, on which no x depends."""
        response = self.response
        new = {k: response.upstream[k] for k in self.inputs}
        new = {k: t.view_as(t) for k, t in new.items()}
        leaves = {k: new.get(k, t) for k, t in response.leaves.items()}
        arguments = {k: new.get(k, t) for k, t in response.arguments.items()}
        loss = response.objective(leaves, 0, arguments)
        found = gradient(loss, leaves, response.name, create_graph=True)
        again = replace(response, value=leaves, leaves=leaves, gradient=found, arguments=arguments)
        return replace(self, response=again, curvature=self.method._operator(again, self.keys))


class _Solve(torch.autograd.Function):
    """x = H^-1 b as a function of b and of what H depends on; its backward solves with H again.

        db = H^-1 dx =: p,    d_theta = - d/dtheta < p , H(theta) x >

    The derivative by theta is the partial one, at tensors that only H is computed from: x and p
    depend on theta too, and these ways are autograd's own.
    """

    @staticmethod
    def forward(ctx: Any, system: _System, *tensors: Tensor) -> Any:
        count = len(system.keys)
        ctx.system, ctx.count = system, count
        outputs = tuple(t.clone() for t in system.solve(tensors[:count]))
        ctx.save_for_backward(*outputs, *tensors[count:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        system, count = ctx.system, ctx.count
        keys = system.keys
        x, upstream = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        again = torch.is_grad_enabled()
        p = _Solve.apply(system, *cotangents, *upstream)
        with torch.enable_grad():
            at = system.afresh() if again else system
            inputs = at.inputs
            product = at.product(
                {k: t if again else t.detach() for k, t in zip(keys, x, strict=True)}
            )
            pairs = [(product[k], t) for k, t in zip(keys, p, strict=True) if k in product]
            pairs = [(h, t) for h, t in pairs if h.requires_grad]
            found = derivatives(
                [h for h, _ in pairs], inputs, [t for _, t in pairs],
                create_graph=again, retain_graph=True,
            )  # fmt: skip
        return None, *p, *(-found[k] if k in found else None for k in inputs)
