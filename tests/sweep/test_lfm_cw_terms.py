"""LFM-CW on smooth networks: each term of its hypergradient against brute-force differentiation.

The oracle is the equations of the paper as one differentiable program, with a copy of A for every
place where A stands: the derivative by one copy is one term.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from compare import exact, kills, near
from lfm_cw_case import LfmCw, lfm_cw, per_class
from oracles import materialise, moved_rounding, relative_error, sweep_rounding
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

import mlopt
from mlopt import Central, Exact, OneSided, OneStep, StopGradient

#: Where A stands: in stage III, in stage II, in the class losses, in stage I, in the GAN's loss.
PLACES = ("direct", "a", "b", "c", "d")
RATES = (0.1, 1.0)
#: With each order the derivatives along a direction of length 1 grow at most tenfold.
BIAS = 3 * 10**2 * 1e-3**2 / 6
WHY = "central differences in three problems: radius^2 / 6 of the third derivative"


def program(case: LfmCw, engine: mlopt.Engine, lr: float) -> dict[str, Tensor]:
    """Each term, by differentiating the composed look-aheads (Eqs. 6 to 10, then Eq. 4)."""
    a = {place: case.A.value.detach().clone().requires_grad_() for place in PLACES}
    values = {
        v: {k: p.detach().clone().requires_grad_() for k, p in v.named_parameters().items()}
        for v in (case.W1, case.W2, case.G, case.H)
    }
    (x, y), (x_valid, y_valid) = case.batches[case.stage1], case.batches[case.upper]

    def net(variable: Any, tensors: dict[str, Tensor]) -> Any:
        return materialise(variable.value, tensors)

    def descend(variable: Any, loss: Tensor) -> dict[str, Tensor]:
        w = values[variable]
        grads = torch.autograd.grad(loss, list(w.values()), create_graph=True)
        return {k: p.detach() - lr * g for (k, p), g in zip(w.items(), grads, strict=True)}

    def drawn(node: Any, generator: Any, labels: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(engine.seed_of(node))
            return generator(labels)

    w1 = descend(case.W1, cross_entropy(net(case.W1, values[case.W1])(x, a["c"]), y))
    standing_h = net(case.H, {k: t.detach() for k, t in values[case.H].items()})
    made = drawn(case.generator, net(case.G, values[case.G]), y)
    g = descend(case.G, softplus(-standing_h(made, y, a["d"])).mean())
    scores = net(case.W1, w1)(x_valid, a["b"])
    weights = per_class(cross_entropy(scores, y_valid, reduction="none"), y_valid)
    fake = drawn(case.synthetic, net(case.G, g), y)
    w2 = net(case.W2, values[case.W2])
    mistakes = cross_entropy(w2(fake, a["a"]), y, reduction="none")
    w2_ahead = descend(case.W2, cross_entropy(w2(x, a["a"]), y) + (weights[y] * mistakes).mean())
    loss = cross_entropy(net(case.W2, w2_ahead)(x_valid, a["direct"]), y_valid)
    return dict(zip(PLACES, torch.autograd.grad(loss, list(a.values())), strict=True))


def build(device: torch.device, lr: float, product: Any, **options: Any) -> Any:
    hold = {
        f"{name}_method": StopGradient(OneStep(lr, product)) for name in options.pop("hold", ())
    }
    case = lfm_cw(device, lambda: OneStep(lr, product), **hold, **options)
    return case, mlopt.Engine(case.nodes, device=device, seed=3)


@cache
def terms(device: torch.device, lr: float) -> dict[str, Tensor]:
    return program(*build(device, lr, Exact()), lr)


@cache  # terms are differences of a few
def hypergradient(device: torch.device, lr: float, product: Any, **options: Any) -> Tensor:
    case, engine = build(device, lr, product, **options)
    return engine.hypergradient(case.upper)[case.A][""]


# Two hypergradients whose difference is one term; by StopGradient, and by stop where it can be.
ISOLATED: dict[str, list[tuple[dict[str, Any], dict[str, Any] | None]]] = {
    "direct": [({"hold": ("stage2",)}, None)],
    "a": [({"stop_losses": True, "stop_synthetic": True}, {"hold": ("stage2",)})],
    "b": [
        (
            {"hold": ("stage1",), "stop_synthetic": True},
            {"stop_losses": True, "stop_synthetic": True},
        ),
        ({"hold": ("stage1", "generator")}, {"stop_losses": True, "hold": ("generator",)}),
    ],
    "c": [({}, {"hold": ("stage1",)})],
    "d": [({}, {"hold": ("generator",)}), ({}, {"stop_synthetic": True})],
}


def isolated(device: torch.device, lr: float, product: Any, term: str, way: int = 0) -> Tensor:
    with_it, without = ISOLATED[term][way]
    found = hypergradient(device, lr, product, **dict(with_it))
    return found if without is None else found - hypergradient(device, lr, product, **dict(without))


@pytest.mark.parametrize("lr", RATES)
def test_exact_and_central_terms(lr: float, device: torch.device) -> None:
    expected = terms(device, lr)
    total = torch.stack(list(expected.values())).sum(0)
    for term, ways in ISOLATED.items():
        # a small difference of two totals, and of what these are summed of
        condition = 100 + 10 * (total.norm() / expected[term].norm()).item()
        bound = sweep_rounding(3, condition=condition)
        kills(2 * expected[term], expected[term], bound)
        for way in range(len(ways)):
            found = isolated(device, lr, Exact(), term, way)
            exact(found, expected[term], bound, what=f"({term}), way {way}")
            found = isolated(device, lr, Central(1e-3), term, way)
            near(found, expected[term], BIAS, why=WHY, what=f"({term}), way {way}")
    exact(hypergradient(device, lr, Exact()), total, sweep_rounding(3), what="total")
    near(hypergradient(device, lr, Central(1e-3)), total, BIAS, why=WHY, what="total")


def test_no_term_is_negligible(device: torch.device) -> None:
    """What the bound of the total could hide is compared by itself above."""
    expected = terms(device, 1.0)
    sizes = {k: t.norm().item() for k, t in expected.items()}
    assert min(sizes.values()) > 1e-4 * max(sizes.values()), sizes


@pytest.mark.parametrize("lr", RATES)
@pytest.mark.parametrize("term", PLACES[1:])
def test_orders_of_convergence(term: str, lr: float, device: torch.device) -> None:
    """One-sided differences err by O(radius), central ones by O(radius^2)."""
    expected = terms(device, lr)[term]
    radius = 0.02
    for kind, order in ((OneSided, 1), (Central, 2)):
        wide = isolated(device, lr, kind(radius), term)
        narrow = isolated(device, lr, kind(radius / 2), term)
        ratio = relative_error(wide, expected) / relative_error(narrow, expected)
        assert 2**order * 0.85 < ratio < 2**order * 1.15, (kind, ratio)
        # with each order the derivatives grow at most tenfold
        bias = 10 * radius / 2 if order == 1 else 10**2 * (radius / 2) ** 2 / 6
        near(narrow, expected, bias, why="the leading term of the difference's error")
        # without its leading error the difference is the term
        rest = (2**order * narrow - wide) / (2**order - 1)
        near(rest, expected, 10 * radius**2 / 2, why="the next term of the error, or less")


@pytest.mark.parametrize("lr", RATES)
def test_one_step_moves_every_level(lr: float, device: torch.device) -> None:
    """A step commits, on every level, the update by that level's own gradient."""
    case, engine = build(device, lr, Exact())
    expected = program(case, engine, lr)
    before = {v: [p.detach().clone() for p in v.parameters()] for v in engine.graph.variables}
    gradients = {p: engine.hypergradient(p) for p in engine.graph.problems}
    engine.step()
    for problem in engine.graph.problems:
        (v,) = problem.over
        for p, old, g in zip(
            v.parameters(), before[v], gradients[problem][v].values(), strict=True
        ):
            exact(p.detach() - old, -0.1 * g, moved_rounding(old, 0.1 * g), what=v.name)
    step, old = -0.1 * sum(expected.values()), before[case.A][0]
    bound = sweep_rounding(3) + moved_rounding(old, step)
    exact(case.A.value.detach() - old, step, bound, what="a")
