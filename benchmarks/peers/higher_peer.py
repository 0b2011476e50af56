"""higher 0.2.1: `innerloop_ctx`, unrolled SGD and Adam.

Its Adam adds eps before the bias correction, which torch.optim.Adam no longer does: where gradients
are small and steps are few, the two hypergradients differ by a factor.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import Lower, Method, Options

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher

__all__ = ["METHODS"]


def _unrolled(problem: Any, optimizer: Any, steps: int, lr: float) -> Tensor:
    r, module = problem.r.detach().clone().requires_grad_(), Lower(problem)
    stepping = optimizer(module.parameters(), lr=lr)
    with higher.innerloop_ctx(module, stepping) as (patched, differentiable):
        for _ in range(steps):
            differentiable.step(patched(r, problem.train))
        return torch.autograd.grad(patched(r, problem.val, upper=True), r)[0]


def _sgd(problem: Any, options: Options) -> Tensor:
    return _unrolled(problem, torch.optim.SGD, options.iterations, options.step_size)


def _adam(problem: Any, options: Options) -> Tensor:
    return _unrolled(problem, torch.optim.Adam, options.iterations, options.adam_lr)


# partial(partial, f) prepares nothing: each call of the library is complete in itself.
METHODS = [
    Method("higher", "SGD", "sgd", partial(partial, _sgd), "iterations"),
    Method("higher", "Adam", "adam raw eps", partial(partial, _adam), "iterations"),
]
