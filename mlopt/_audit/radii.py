"""Other radii of a difference product, where the one given is far off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .._graph.problem import Problem
from .._tensors import Key, Tensors
from ..hypergrad.products import OneSided
from .probe import probed
from .run import run
from .study import Study
from .vectors import compare, flat

__all__ = ["try_radii"]

_HELPS = 0.5  # of the error, by which another radius must be below it to be named


def try_radii(
    study: Study,
    lower: Problem,
    upper: Problem,
    product: Any,
    exact: list[Tensors],
    keys: Sequence[Key],
    worst: float,
) -> None:
    """Say which radius would be best, or that none helps.

    Args:
        study: takes the text.
        lower: whose pullback is far off.
        upper: whose hypergradient asks for it.
        product: of its method.
        exact: the pullbacks of the probe's cotangents.
        keys: of the arguments that are compared.
        worst: how far off they are, relative to the exact ones.
    """
    method: Any = study.graph.methods[lower]
    if not hasattr(method, "product"):
        return
    probe = study.probe(lower)
    near = [product.radius * f for f in (1e-1, 1e-2, 1e-3, 1e-4, 10.0)]
    probe.compare({r: replace(method, product=replace(product, radius=r)) for r in near})
    with (
        probed(study.engine, {lower: probe}),
        run(study.engine, upper, study.evaluator, wide=study.wide),
    ):
        pass
    like = {k: t for e in exact for k, t in e.items() if k in keys}
    oracle = torch.cat([flat(e, like) for e in exact])
    error = {
        r: compare(torch.cat([flat(f, like) for f in found]), oracle)[0]
        for r, found in probe.others.items()
    }
    if not error:
        return
    best = min(error, key=lambda r: error[r])
    tried = ", ".join(f"{r:.0e}: {e:.0e}" for r, e in sorted(error.items()))
    label = study.graph.labels[lower]
    text = f"{label}: {product} is far from the exact product. Errors at other radii: {tried}."
    if not error[best] < _HELPS * worst:
        said = any((c.kind, c.where) == ("backward", label) for c in study.causes)
        text += " No radius helps. " + (
            "Why is said above: product=Exact() is right."
            if said
            else "Its derivatives by its own and by other variables are then not those of one "
            "function: something that it depends on has no gradient, or a backward of its own. "
            "Take product=Exact()."
        )
    else:
        text += (
            f" Take {type(product).__name__}({best:.0e})"
            + (", or Central() of the same radius." if isinstance(product, OneSided) else ".")
            + " In float32 too small a radius drowns in rounding."
        )
    study.texts.append(text)
