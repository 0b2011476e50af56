"""Can what a Gauss-Newton matrix is made of be differentiated as often as it must?"""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import GraphError, exhausted
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._tensors import Key, Tensors
from ..hypergrad.curvature import GaussNewton, Marked
from ..hypergrad.derivatives import derivatives
from ..hypergrad.products import Exact
from .autograd_graph import has_dead_end
from .capability import take_differences
from .loss import split_loss
from .point import Evaluator, Point
from .slope import dot, moved
from .symmetry import signs

__all__ = ["check_gauss_newton"]

#: How far two ways to the same product may be apart: by rounding, of low precision too.
_FAR = 0.05


def check_gauss_newton(
    graph: Graph, evaluator: Evaluator, problem: Problem, point: Point, own: Tensors
) -> None:
    """Find out once whether a problem has the Gauss-Newton matrix that its method solves with.

    J u is taken by double backward of the model, where the method's product is exact. A backward
    that is detached, or marked as once differentiable, loses a part of it without an error: then

        < J J^T v , v >  =  < J^T v , J^T v >

    fails, and the product becomes a central difference. The loss is differentiated twice in any
    case.

    Args:
        graph: of which methods and notes may be changed.
        evaluator: of the graph.
        problem: the problem.
        point: where it is evaluated.
        own: its own variables' tensors, by key.

    Raises:
        GraphError: the loss has no second derivative.
    """
    method = graph.methods[problem]
    known = isinstance(getattr(method, "curvature", None), GaussNewton)
    if not known or any(t.is_meta for t in own.values()):
        return

    def objective(there: Tensors) -> Tensor:
        result, _ = evaluator(problem, moved(point, there), keep=True, twice=True)
        return split_loss(result, problem.name)[0]

    at = Marked(objective, own)
    if not at.outputs:  # a step says it better
        return
    keys = list(own)
    reason = _lacks_in_loss(at, keys)
    if reason is not None:
        raise GraphError(
            f"{problem.name}: GaussNewton() differentiates the loss twice by what mlopt.outputs() "
            f"marks, and what else depends on {' and '.join(v.name for v in problem.over)}, which "
            f"fails: {reason} Write it in operations that can be differentiated twice, or take "
            "Hessian() with product=Central()."
        )
    if isinstance(getattr(method, "product", None), Exact):
        reason = _lacks_in_model(at, keys)
        if reason is not None:
            take_differences(graph, problem, method, reason)


def _lacks_in_loss(at: Marked, keys: list[Key]) -> str | None:
    """Why the loss cannot be differentiated twice; None if it can."""
    with torch.enable_grad():
        by = {**at.cuts, **{k: at.own[k] for k in keys}}
        # A backward that is given a constant leaves no mark of what it lacks.
        once = torch.ones_like(at.loss, requires_grad=True)
        slopes = list(derivatives([at.loss], by, [once], create_graph=True).values())
        if has_dead_end(slopes):
            return "a custom function's backward is marked once_differentiable."
        try:
            derivatives(slopes, by, [torch.ones_like(g) for g in slopes])
        except RuntimeError as error:  # torch has no type of its own for it
            return _said(error)
    return None


def _lacks_in_model(at: Marked, keys: list[Key]) -> str | None:
    """Why double backward does not give J; None if it does."""
    v = signs(at.outputs)
    back = at.pull(v, keys)
    length = dot(back, back)
    try:
        forth = at.push(keys)(back)
    except RuntimeError as error:  # torch has no type of its own for it
        return _said(error)
    if not abs(dot(forth, v) - length) > _FAR * length:  # NaN too
        return None
    return (
        "a backward in its model is detached, or marked once_differentiable, and cannot be "
        "differentiated by what comes back to it."
    )


def _said(error: RuntimeError) -> str:
    """What torch says of a derivative that lacks."""
    if exhausted(error):
        raise error
    return str(error).strip().splitlines()[0].rstrip(".") + "."
