"""BOAT 1.1.1 (`boat-torch`): `Problem.run_iter` with `return_grad`.

Each iteration also evaluates both objectives once more and writes a file of losses; that is part of
its cost. The implicit methods (CG, NS) take no lower step, so that the answer is at (w, r). FD is
DARTS: one SGD step, then the mixed product at the weights before it. RAD unrolls K steps. IGA (a
rank-one Hessian made of the lower gradient) divides by the square of that gradient, and so has no
use at a lower optimum. CG, when it stops early, returns the iterate before the last, and its
tolerance is absolute.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import Lower, Method, Options, Upper

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import boat_torch

__all__ = ["METHODS", "lower_loss", "upper_loss"]


def lower_loss(feed: dict, upper: Any, lower: Any, **kwargs: Any) -> Tensor:
    """BOAT finds this function by its dotted name."""
    return lower(upper(), feed["batch"], **kwargs)


def upper_loss(feed: dict, upper: Any, lower: Any, **kwargs: Any) -> Tensor:
    """BOAT finds this function by its dotted name."""
    return lower(upper(), feed["batch"], upper=True, **kwargs)


def _prepare(problem: Any, options: Options, na_op: str, steps: int) -> Callable[[], Tensor]:
    below, above = Lower(problem), Upper(problem)
    config = {
        "fo_op": None,
        "gm_op": ["NGD"],
        "na_op": [na_op],
        "lower_level_model": below,
        "upper_level_model": above,
        "lower_level_var": list(below.parameters()),
        "upper_level_var": list(above.parameters()),
        "lower_level_opt": torch.optim.SGD(below.parameters(), lr=options.step_size),
        "upper_level_opt": torch.optim.SGD(above.parameters(), lr=0.0),
        "lower_iters": steps,
        "device": str(problem.w.device),
        "loss_log_path": os.devnull,
        "accumulate_grad": False,
        "return_grad": True,
        "copy_last_param": False,
        "CG": {"tolerance": options.tolerance, "k": options.iterations},
        "FD": {"r": options.radius},
        "GDA": {"alpha_init": 0.0, "alpha_decay": 0.5},
        # Not used, but BOAT wants it below lower_iters, which may be 0 here.
        "RGT": {"truncate_iter": min(0, steps - 1)},
    }
    losses = {
        f"{name}_level_loss": {"function": f"{__name__}.{name}_loss", "params": {}}
        for name in ("lower", "upper")
    }
    solver = boat_torch.Problem(config, losses)
    solver.build_ll_solver()
    solver.build_ul_solver()
    feeds = {"batch": problem.train}, {"batch": problem.val}

    def iterate() -> Tensor:
        above.zero_grad()  # it adds to what is there
        grads, _ = solver.run_iter(*feeds, current_iter=0)
        return grads[0].detach()

    return iterate


METHODS = [
    Method("BOAT", "CG", "cg", lambda p, o: _prepare(p, o, "CG", 0), "iterations"),
    Method("BOAT", "NS", "neumann", lambda p, o: _prepare(p, o, "NS", 0), "iterations"),
    Method("BOAT", "FD", "one sgd step", lambda p, o: _prepare(p, o, "FD", 1)),
    Method("BOAT", "IGA", "dense", lambda p, o: _prepare(p, o, "IGA", 0)),
    Method("BOAT", "RAD", "sgd", lambda p, o: _prepare(p, o, "RAD", o.iterations), "iterations"),
]
