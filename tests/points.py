"""Tensors of one problem as a point of one space: leaves, derivatives, vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Point = dict[tuple[Any, str], Tensor]  # the tensors of one problem, by (variable, name)


def derivatives(loss: Tensor, point: Point, create_graph: bool = True) -> dict[Any, Tensor | None]:
    """The derivative by each tensor of a point; None for one that nothing depends on."""
    if not loss.requires_grad:
        return dict.fromkeys(point)
    grads = torch.autograd.grad(
        loss,
        list(point.values()),
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
    )
    return dict(zip(point, grads, strict=True))


def as_leaves(point: Point) -> Point:
    return {k: t.detach().clone().requires_grad_() for k, t in point.items()}


def detached(values: dict[Any, Tensor]) -> dict[Any, Tensor]:
    return {k: t.detach() for k, t in values.items()}


def filled(gradient: dict[Any, Tensor | None], like: Point) -> Point:
    return {k: torch.zeros_like(t) if (g := gradient[k]) is None else g for k, t in like.items()}


def flat(point: Point) -> Tensor:
    return torch.cat([t.flatten() for t in point.values()])


def shaped(flat: Tensor, like: Point) -> Point:
    pieces = flat.split([t.numel() for t in like.values()])
    return {k: x.view_as(t) for (k, t), x in zip(like.items(), pieces, strict=True)}


def newton_step(w: Point, gradient: Tensor, hessian: Tensor) -> Point:
    """Newton's step, no longer than one: a start far off may lie where the model is poor."""
    step = torch.linalg.solve(hessian, gradient)
    length = torch.linalg.vector_norm(step).item()
    return shaped(flat(w) - step / max(1.0, length), w)
