"""Whether the options of an optimizer and the method of its problem go together: `check_steps`."""

from __future__ import annotations

from .._errors import GraphError
from ..optim.numbers import numbers_in
from .brief import brief
from .levels import Levels

__all__ = ["check_steps"]


def check_steps(graph: Levels) -> None:
    """Optimizers can make the steps that are asked of them, and methods know what these are."""
    for problem in graph.problems:
        if problem.optimizer is None:
            continue
        method = graph.methods[problem]
        groups = problem.optimizer.param_groups
        if not method.traced and any(group.get("differentiable") for group in groups):
            raise GraphError(
                f"{problem.name}: its optimizer has differentiable=True, with which step() cannot "
                "write into parameters that require grad. Leave it out: what is differentiated is "
                "the method's business, and Unrolled(...) goes back through every step."
            )
        if not (method.traced or (method.looks_ahead and graph.participates(problem))):
            continue
        for option, tensor in numbers_in(problem.optimizer.param_groups):
            if tensor.numel() != 1:
                raise GraphError(
                    f"{problem.name}: its optimizer has a {option} of shape {tuple(tensor.shape)}, "
                    f"and {brief(method)} knows one number for all parameters of a group. Give a "
                    "tensor of one number, or param groups with numbers of their own."
                )
