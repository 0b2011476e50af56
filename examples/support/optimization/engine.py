"""How hypergradients are computed, and what else every scheme asks of its engine."""

from __future__ import annotations

from typing import Any

import mlopt

from ..settings import Settings


def hypergradient_method(s: Settings, lr: float | None = None) -> mlopt.AbstractHypergradient:
    """First order, or one step ahead: by the optimizer, or the plain gradient step of this lr."""
    if s.order == "first":
        return mlopt.Frozen()
    product: mlopt.AbstractProduct = {
        "central": mlopt.Central(s.radius),
        "one-sided": mlopt.OneSided(s.radius),
        "exact": mlopt.Exact(),
    }[s.product]
    return mlopt.OneStep(lr=lr, product=product)


def engine_options(s: Settings) -> dict[str, Any]:
    """What every scheme asks of its engine; in first order, its levels follow one another."""
    return {
        "hypergrad": hypergradient_method(s),
        "schedule": mlopt.Sequential() if s.order == "first" else mlopt.Simultaneous(),
        "device": s.device,
        "seed": s.seed,
        "precision": s.precision,
        "parts": s.parts,
        "compile": bool(s.compile) and {"backend": s.compile},
    }
