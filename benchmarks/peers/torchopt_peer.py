"""TorchOpt: implicit differentiation with its linear solvers, and unrolled MetaSGD and MetaAdam.

The implicit methods are asked at w: the lower solver that they wrap returns it as it is.
`solve_normal_cg` works on H^2, hence its slow convergence. MetaAdam computes its bias correction in
float32 for parameters of any type: it agrees with a float64 Adam to 1e-5.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import Lower, Method, Options

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchopt
    from torchopt import linear_solve
    from torchopt.diff.implicit import custom_root
    from torchopt.diff.implicit.nn import ImplicitMetaGradientModule

__all__ = ["METHODS"]

warnings.filterwarnings("ignore", message=".*functorch.*", category=FutureWarning)


def _root(problem: Any, solve: Any) -> Tensor:
    r = problem.r.detach().clone().requires_grad_()

    def optimality(w: Tensor, r: Tensor) -> Tensor:
        return torch.func.grad(problem.lower)(w, r, problem.train)

    @custom_root(optimality, argnums=1, solve=solve)
    def solution(w: Tensor, r: Tensor) -> Tensor:
        return w

    value = problem.upper(solution(problem.w, r), r, problem.val)
    return torch.autograd.grad(value, r)[0]


def _cg(problem: Any, options: Options) -> Tensor:
    k, tolerance = options.iterations, options.tolerance
    return _root(problem, linear_solve.solve_cg(maxiter=k, rtol=tolerance))


def _normal_cg(problem: Any, options: Options) -> Tensor:
    k, tolerance = options.iterations, options.tolerance
    return _root(problem, linear_solve.solve_normal_cg(maxiter=k, rtol=tolerance))


def _neumann(problem: Any, options: Options) -> Tensor:
    k, alpha = options.iterations, options.step_size
    return _root(problem, linear_solve.solve_inv(ns=True, maxiter=k, alpha=alpha))


def _inverse(problem: Any, options: Options) -> Tensor:
    return _root(problem, linear_solve.solve_inv())


def _module_cg(problem: Any, options: Options) -> Tensor:
    """The same solver through the class that its documentation leads with."""
    k, tolerance = options.iterations, options.tolerance

    class Inner(
        ImplicitMetaGradientModule,
        linear_solve=linear_solve.solve_cg(maxiter=k, rtol=tolerance),
    ):
        def __init__(self, r: Tensor) -> None:
            super().__init__()
            self.r = r
            self.w = nn.Parameter(problem.w.detach().clone())

        def objective(self, batch: Any) -> Tensor:
            return problem.lower(self.w, self.r, batch)

        def solve(self, batch: Any) -> Any:
            return self

    r = nn.Parameter(problem.r.detach().clone())
    inner = Inner(r)
    inner.solve(problem.train)
    return torch.autograd.grad(problem.upper(inner.w, r, problem.val), r)[0]


def _unrolled(problem: Any, optimizer: Any, steps: int, lr: float) -> Tensor:
    r, module = problem.r.detach().clone().requires_grad_(), Lower(problem)
    meta = optimizer(module, lr=lr)
    for _ in range(steps):
        meta.step(module(r, problem.train))
    return torch.autograd.grad(module(r, problem.val, upper=True), r)[0]


def _sgd(problem: Any, options: Options) -> Tensor:
    return _unrolled(problem, torchopt.MetaSGD, options.iterations, options.step_size)


def _adam(problem: Any, options: Options) -> Tensor:
    return _unrolled(problem, torchopt.MetaAdam, options.iterations, options.adam_lr)


# partial(partial, f) prepares nothing: each call of the library is complete in itself.
METHODS = [
    Method("TorchOpt", "solve_cg", "cg", partial(partial, _cg), "iterations"),
    Method("TorchOpt", "module, solve_cg", "cg", partial(partial, _module_cg), "iterations"),
    Method("TorchOpt", "solve_normal_cg", "dense", partial(partial, _normal_cg), "iterations"),
    Method("TorchOpt", "solve_inv, Neumann", "neumann", partial(partial, _neumann), "iterations"),
    Method("TorchOpt", "solve_inv, dense", "dense", partial(partial, _inverse)),
    Method("TorchOpt", "MetaSGD", "sgd", partial(partial, _sgd), "iterations"),
    Method("TorchOpt", "MetaAdam", "adam", partial(partial, _adam), "iterations"),
]
