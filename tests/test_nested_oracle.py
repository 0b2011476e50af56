"""The oracle for nested levels against algebra by hand, finite differences and plain programs."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from cases import warmed
from nested_graphs import draw_nested
from nested_oracle import Fixed, Nested, Optimum, Steps, Stopped, settle
from oracles import numerical_derivative, torch_update
from torch import Tensor, nn

import mlopt


def scalar(value: float, name: str) -> mlopt.Variable:
    return mlopt.Variable(nn.Parameter(torch.tensor([value], dtype=torch.float64)), name)


def sgd(*variables: Any, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(
        [p for v in variables for p in v.parameters()], **({"lr": 0.1} | options)
    )


def hypergradient(nodes: list[Any], kinds: dict[Any, Any], oracle: type[Nested] = Nested) -> Tensor:
    """That of the last problem as a vector."""
    found = oracle(nodes, kinds).hypergradient(nodes[-1])
    return torch.cat([t.flatten() for v in found.values() for t in v.values() if t is not None])


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


# Three levels of scalars, quadratic; the solutions by hand.

B, C, D, E, F, G = 0.6, -0.4, 0.7, 0.5, 0.8, 0.9


def quadratic(*, across: bool, stopped: bool = False) -> tuple[list[Any], Any, Any, Any]:
    """Low: w = (B m + C a) / 2. `across`: low reads m by a signal below the problem over m."""
    W, M, A = scalar(0.3, "w"), scalar(-0.2, "m"), scalar(0.4, "a")

    @mlopt.signal(given=[M])
    def half(m):
        return {"half": m / 2}

    @mlopt.problem(over=W, given=[half if across else M, A], optimizer=sgd(W))
    def low(w, about_m, a):
        m = 2 * about_m["half"] if across else about_m
        return (w**2 - w * (B * m + C * a)).sum()

    @mlopt.problem(over=M, given=[mlopt.stop(W) if stopped else W, A], optimizer=sgd(M))
    def middle(m, w, a):
        return (m**2 + D * m * w + E * m * a + F * (w - 1) ** 2 / 2).sum()

    given = [half, W] if across else [M, W]

    @mlopt.problem(over=A, given=given, optimizer=sgd(A))
    def top(a, about_m, w):
        m = 2 * about_m["half"] if across else about_m
        return ((a - 1) ** 2 / 2 + G * m * w + m + 0.3 * w * a).sum()

    return [half, low, middle, top] if across else [low, middle, top], W, M, A


@pytest.mark.parametrize("across", [False, True])
def test_three_quadratic_levels(across: bool) -> None:
    nodes, W, M, A = quadratic(across=across)
    kinds = {p: Optimum() for p in nodes[-3:-1]}
    assert settle(nodes, kinds) < 1e-12
    a = A.tensor.item()
    # w = p m + q a, and 0 = 2 m + D w + E a + (D m + F (w - 1)) p
    p, q = B / 2, C / 2
    slope, mixed = 2 + 2 * D * p + F * p**2, D * q + E + F * p * q
    m, dm = (F * p - mixed * a) / slope, -mixed / slope
    w, dw = p * m + q * a, p * dm + q
    expected = a - 1 + G * (dm * w + m * dw) + dm + 0.3 * (dw * a + w)
    assert M.tensor.item() == pytest.approx(m, abs=1e-12)
    assert W.tensor.item() == pytest.approx(w, abs=1e-12)
    assert hypergradient(nodes, kinds).item() == pytest.approx(expected, abs=1e-12)
    for kind in (Fixed(), Stopped(Optimum())):  # the middle held: low responds to `a` alone
        held = hypergradient(nodes, {nodes[-3]: Optimum(), nodes[-2]: kind}).item()
        assert held == pytest.approx(a - 1 + G * m * q + 0.3 * (q * a + w), abs=1e-12)


def test_a_stopped_read_is_a_constant_in_every_derivative() -> None:
    nodes, W, M, A = quadratic(across=False, stopped=True)
    kinds = {p: Optimum() for p in nodes[:2]}
    settle(nodes, kinds)
    a = A.tensor.item()
    p, q = B / 2, C / 2
    m, dm = -(D * q + E) * a / (2 + D * p), -E / 2  # 0 = 2 m + D w + E a, there w a constant
    w, dw = p * m + q * a, p * dm + q
    expected = a - 1 + G * (dm * w + m * dw) + dm + 0.3 * (dw * a + w)
    assert M.tensor.item() == pytest.approx(m, abs=1e-12)
    assert W.tensor.item() == pytest.approx(w, abs=1e-12)
    assert hypergradient(nodes, kinds).item() == pytest.approx(expected, abs=1e-12)


# Three levels of scalars with third derivatives.


def curved(W: Any, M: Any, A: Any, **options: Any) -> list[Any]:
    @mlopt.problem(over=W, given=[M, A], optimizer=sgd(W, **options))
    def low(w, m, a):
        return (torch.cosh(w) + w**2 / 4 + torch.sin(w) * m * a - w * m**2).sum()

    @mlopt.problem(over=M, given=[W, A], optimizer=sgd(M, **options))
    def middle(m, w, a):
        return (m**2 + torch.cosh(m - a) + torch.tanh(w) * m + w**2 * a / 2).sum()

    @mlopt.problem(over=A, given=[W, M], optimizer=sgd(A))
    def top(a, w, m):
        return (a**2 / 2 + torch.sin(w) * m + w * a + m**3).sum()

    return [low, middle, top]


def test_three_curved_levels_by_finite_differences() -> None:
    """The same three functions in plain numbers, every minimum searched for to 1e-14."""

    def low(m: float, a: float) -> float:
        w = 0.0
        for _ in range(60):
            w -= _low_slope(w, m, a) / _low_curvature(w, m, a)
        assert abs(_low_slope(w, m, a)) < 1e-14
        return w

    def _low_slope(w: float, m: float, a: float) -> float:
        return math.sinh(w) + w / 2 + math.cos(w) * m * a - m**2

    def _low_curvature(w: float, m: float, a: float) -> float:
        return math.cosh(w) + 0.5 - math.sin(w) * m * a

    def middle_slope(m: float, a: float) -> float:
        w = low(m, a)
        response = -(math.cos(w) * a - 2 * m) / _low_curvature(w, m, a)
        along_w = m / math.cosh(w) ** 2 + w * a
        return 2 * m + math.sinh(m - a) + math.tanh(w) + along_w * response

    def middle(a: float) -> float:
        below, above = -2.0, 2.0
        assert middle_slope(below, a) < 0 < middle_slope(above, a)
        while True:
            m = (below + above) / 2
            if m in (below, above):
                return m
            below, above = (m, above) if middle_slope(m, a) < 0 else (below, m)

    def value(a: float) -> float:
        m = middle(a)
        w = low(m, a)
        return a**2 / 2 + math.sin(w) * m + w * a + m**3

    W, M, A = scalar(0.1, "w"), scalar(0.1, "m"), scalar(0.7, "a")
    nodes = curved(W, M, A)
    kinds = {p: Optimum() for p in nodes[:2]}
    settle(nodes, kinds)
    assert M.tensor.item() == pytest.approx(middle(0.7), abs=1e-12)

    def difference(h: float) -> float:
        return (value(0.7 + h) - value(0.7 - h)) / (2 * h)

    expected = (4 * difference(1e-3) - difference(2e-3)) / 3
    assert hypergradient(nodes, kinds).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_steps_are_a_plain_program(k: int) -> None:
    W, M, A = scalar(0.1, "w"), scalar(0.3, "m"), scalar(0.7, "a")
    nodes = curved(W, M, A)
    low, middle, top = (n.fn for n in nodes)

    def solve_low(m: Tensor, a: Tensor) -> Tensor:
        w = W.tensor.detach().clone().requires_grad_()
        for _ in range(k):
            w = w - 0.2 * torch.autograd.grad(low(w, m, a), w, create_graph=True)[0]
        return w

    def solve_middle(a: Tensor) -> Tensor:
        m = M.tensor.detach().clone().requires_grad_()
        for _ in range(k):
            total = middle(m, solve_low(m, a), a)
            m = m - 0.15 * torch.autograd.grad(total, m, create_graph=True)[0]
        return m

    a = A.tensor.detach().clone().requires_grad_()
    m = solve_middle(a)
    (expected,) = torch.autograd.grad(top(a, solve_low(m, a), m), a)
    kinds = {nodes[0]: Steps(k, lr=0.2), nodes[1]: Steps(k, lr=0.15)}
    found = hypergradient(nodes, kinds)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for p, lr in ((nodes[0], 0.2), (nodes[1], 0.15)):  # the plain optimizer takes the same steps
        p.optimizer.param_groups[0]["lr"] = lr
    own = hypergradient(nodes, {p: Steps(k) for p in nodes[:2]})
    assert own.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("kinds", [(Optimum(), Steps(2, lr=0.15)), (Steps(2, lr=0.2), Optimum())])
def test_optima_and_steps_in_one_list(kinds: tuple[Any, Any]) -> None:
    """Steps of the middle displace it, and the optimum below is another than the standing one."""
    nodes = curved(scalar(0.1, "w"), scalar(0.3, "m"), scalar(0.7, "a"))
    of = dict(zip(nodes[:2], kinds, strict=True))
    settle(nodes, of)
    value, x = as_function(nodes, of)
    expected = numerical_derivative(value, x)
    assert hypergradient(nodes, of).item() == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.8, "weight_decay": 0.1},
        {"momentum": 0.8, "dampening": 0.3},
        {"momentum": 0.7, "nesterov": True, "maximize": True},
    ],
)
@pytest.mark.parametrize("past", [0, 2])
def test_the_optimizer_s_steps_are_torch_s(options: dict[str, Any], past: int) -> None:
    """Three steps of an optimizer with momentum: the value by torch, the derivative from values."""
    W, A = scalar(0.4, "w"), scalar(0.7, "a")
    optimizer = warmed(sgd(W, **options), past)

    @mlopt.problem(over=W, given=[A], optimizer=optimizer)
    def low(w, a):
        return (torch.cosh(w - a) + w**3 * a / 5).sum()

    @mlopt.problem(over=A, given=[W], optimizer=sgd(A))
    def top(a, w):
        return w.sum()  # the value itself

    def value(a: Tensor) -> Tensor:
        """By torch's own `step()`, three times on one twin of the optimizer."""

        def steps(twin: Any, parameters: list[Tensor]) -> None:
            (p,) = parameters
            for _ in range(3):
                (p.grad,) = torch.autograd.grad(low(p, a), p)
                twin.step()

        # without a gradient, the step that torch_update takes after `steps` does nothing
        return torch_update(optimizer, [W.tensor], [None], steps)[0]

    oracle = Nested([low, top], {low: Steps(3)})
    found, _ = oracle.evaluate(top)
    assert found.item() == pytest.approx(value(A.tensor.detach()).item(), rel=1e-13)
    expected = numerical_derivative(value, A.tensor.detach())
    assert hypergradient([low, top], {low: Steps(3)}).item() == pytest.approx(
        expected.item(), rel=1e-8
    )


def test_a_module_and_a_parameter_left_alone() -> None:
    """A module arrives as itself; what its optimizer does not hold stays where it is."""
    net = nn.Linear(1, 1).double()
    with torch.no_grad():
        net.weight.fill_(0.3)
        net.bias.fill_(0.2)
    W, A = mlopt.Variable(net, "w"), scalar(0.5, "a")

    @mlopt.problem(over=W, given=[A], optimizer=torch.optim.SGD([net.weight], lr=0.1))
    def low(w, a):
        return ((w(a) - 1) ** 2).sum()

    @mlopt.problem(over=A, given=[W], optimizer=sgd(A))
    def top(a, w):
        return w(torch.ones_like(a)).sum()

    settle([low, top], {low: Optimum()})
    assert net.weight.item() == pytest.approx(1.6)  # (1 - bias) / a
    assert net.bias.item() == 0.2
    found = hypergradient([low, top], {low: Optimum()})
    assert found.item() == pytest.approx(-0.8 / 0.25)


# Random graphs.

DRAWN = range(200)


def any_optimum(rng: Any) -> Any:
    return Optimum()


def any_steps(rng: Any) -> Any:
    return rng.choice([Steps(1, lr=0.3), Steps(2, lr=0.2), Steps(), Steps(2)])


def any_kind(rng: Any) -> Any:
    return rng.choice([Optimum(), Optimum(), Steps(1, lr=0.3), Steps(), Fixed()])


@pytest.mark.parametrize("kind_of", [any_optimum, any_steps, any_kind])
@pytest.mark.parametrize(
    "seeds", [range(20), pytest.param(range(20, 150), marks=pytest.mark.slow)], ids=str
)
def test_random_graphs_by_finite_differences(kind_of: Any, seeds: range) -> None:
    """At displaced points nothing is taken from the standing ones: every optimum is re-solved."""
    checked: Counter[str] = Counter()
    for seed in seeds:
        nodes, kinds, facts = draw_nested(seed, kind_of)
        if facts.stops:
            continue  # a stopped read hides from the gradient what finite differences see
        if facts.levels > 4 or facts.depth > 3 or (facts.levels > 3 and kind_of is any_kind):
            continue  # minutes
        settle(nodes, kinds)
        value, x = as_function(nodes, kinds)
        expected = numerical_derivative(value, x).flatten()
        assert error(hypergradient(nodes, kinds), expected) < 1e-7, (seed, facts)
        checked["graphs"] += 1
        checked["nested"] += facts.nested
    assert checked["graphs"] >= len(seeds) / 4, checked
    assert checked["nested"] >= len(seeds) / 10, checked


def as_function(nodes: list[Any], kinds: dict[Any, Any]) -> tuple[Any, Tensor]:
    """The last objective as a function of the last variables in one vector, and where they are."""
    oracle, top = Nested(nodes, kinds), nodes[-1]
    start = oracle.standing(top)

    def value(x: Tensor) -> Tensor:
        pieces = x.split([t.numel() for t in start.values()])
        return oracle.evaluate(top, dict(zip(start, pieces, strict=True)))[0].detach()

    return value, torch.cat([t.flatten() for t in start.values()])


class Trusting(Nested):
    """Takes standing values for solutions, whatever residual a wrong gradient leaves there."""

    def _gradient(self, problem: Any, w: Any, scope: Any, order: int) -> Any:
        w, gradient = super()._gradient(problem, w, scope, order)
        return w, {k: None if g is None else g - g.detach() for k, g in gradient.items()}

    def slope(self, *args: Any) -> Any:
        gradient, hessian = super().slope(*args)
        return 0 * gradient, hessian


class Unresponsive(Trusting):
    """Wrong: a lower solution does not follow those between it and the evaluated problem."""

    def _gradient(self, problem: Any, w: Any, scope: Any, order: int) -> Any:
        held = self.problems[: self.problems.index(scope.problem)]
        return super()._gradient(problem, w, Unmoved(scope, held), order)


class Shortsighted(Trusting):
    """Wrong: in the eyes of a middle problem, the lower solutions do not follow it."""

    def _gradient(self, problem: Any, w: Any, scope: Any, order: int) -> Any:
        inside = hasattr(scope.above, "order")  # of another evaluation
        return super()._gradient(
            problem, w, Unmoved(scope, [scope.problem] if inside else []), order
        )


class Unmoved:
    """A scope in which some problems are constants to those below them."""

    def __init__(self, scope: Any, held: list[Any]) -> None:
        self.scope, self.held = scope, held
        self.order, self.home = scope.order, scope.home

    def point(self, problem: Any) -> Any:
        point = self.scope.point(problem)
        return {k: t.detach() for k, t in point.items()} if problem in self.held else point


class Linear(Trusting):
    """Wrong: a lower optimum responds by its first derivative alone, inside of others too."""

    def _optimum(self, problem: Any, scope: Any) -> Any:
        seen: Any = Copied(scope)
        out = super()._optimum(problem, seen)
        for key, t in out.items() if seen.leaves else ():
            out[key] = t.detach()
            for i, unit in enumerate(torch.eye(t.numel(), dtype=t.dtype)):
                row = torch.autograd.grad(
                    t.flatten()[i], list(seen.leaves.values()), retain_graph=True, allow_unused=True
                )
                for g, x in zip(row, seen.read.values(), strict=True):
                    if g is not None:
                        out[key] = out[key] + unit.view_as(t) * (g * (x - x.detach())).sum()
        return out


class Copied:
    """A scope of which first derivatives are asked for, its values leaves."""

    def __init__(self, scope: Any) -> None:
        self.scope, self.order, self.home = scope, 1, scope.home
        self.read: dict[Any, Tensor] = {}
        self.leaves: dict[Any, Tensor] = {}

    def point(self, problem: Any) -> Any:
        for key, t in (point := self.scope.point(problem)).items():
            if key not in self.leaves:
                self.read[key], self.leaves[key] = t, t.detach().clone().requires_grad_()
        return {key: self.leaves[key] for key in point}


@pytest.mark.parametrize(
    "seeds", [range(20), pytest.param(range(20, 250), marks=pytest.mark.slow)], ids=str
)
def test_the_graphs_tell_right_from_wrong(seeds: range) -> None:
    """An error that nested levels invite shows in most graphs where it could, and only there."""
    count: Counter[str] = Counter()
    for seed in seeds:
        nodes, kinds, facts = draw_nested(seed, any_optimum)
        settle(nodes, kinds)
        right = hypergradient(nodes, kinds)
        unresponsive, shortsighted, linear = (
            error(hypergradient(nodes, kinds, wrong), right)
            for wrong in (Unresponsive, Shortsighted, Linear)
        )
        count["nested"] += facts.nested
        count["unresponsive"] += facts.nested and unresponsive > 1e-5
        count["shortsighted"] += facts.nested and shortsighted > 1e-5
        if facts.nested and facts.third_derivatives:
            count["curved"] += 1
            count["linear"] += linear > 1e-5
        if facts.problems == 2:
            assert max(unresponsive, shortsighted) < 1e-12, seed
        if facts.problems == 2 or not facts.third_derivatives:
            assert linear < 1e-9, seed
    assert count["nested"] >= len(seeds) / 3, count
    assert count["curved"] >= len(seeds) / 6, count
    # the top need not read a solution that follows another one that it reads
    assert count["unresponsive"] >= 0.7 * count["nested"], count
    assert count["shortsighted"] >= 0.9 * count["nested"], count
    assert count["linear"] >= 0.85 * count["curved"], count


def test_what_is_drawn() -> None:
    count: Counter[str] = Counter()
    for seed in DRAWN:
        _, kinds, facts = draw_nested(seed, any_optimum)
        assert len(kinds) == facts.problems - 1
        count["nested"] += facts.nested
        count["curved and nested"] += facts.nested and facts.third_derivatives
        count["three deep"] += facts.depth >= 3
        count["signals"] += facts.signals > 0
        count["signals across"] += facts.signals_across > 0
        count["stops"] += facts.stops > 0
        count["bottom reads top"] += facts.bottom_reads_top
        count[f"{facts.levels} levels"] += 1
    assert count["nested"] >= len(DRAWN) / 3, count
    for name in ("curved and nested", "three deep", "signals across", "stops"):
        assert count[name] >= 20, (name, count)
    for name in ("2 levels", "3 levels", "4 levels", "bottom reads top", "signals"):
        assert count[name] >= 20, (name, count)
    assert count["5 levels"] >= 5, count


def test_the_same_seed_draws_the_same_graph() -> None:
    first, _, facts = draw_nested(3, any_optimum)
    second, _, same = draw_nested(3, any_optimum)
    assert facts == same
    for p, q in zip(first, second, strict=True):
        if isinstance(p, mlopt.Problem):
            assert all(torch.equal(v.tensor, u.tensor) for v, u in zip(p.over, q.over, strict=True))
