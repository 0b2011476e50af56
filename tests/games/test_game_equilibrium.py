"""Players that are all `Implicit`: their equilibrium is differentiated, not each one's optimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from audit.audited import DIFFERENCES, right
from case_graphs import tensor
from compare import agree, exact, kills, rounding
from games.equilibria import CPU, World, curved, quadratic
from grids import thinned
from torch import nn

import mlopt
from mlopt import (
    CG,
    GMRES,
    Central,
    Dense,
    Exact,
    Frozen,
    Game,
    GraphError,
    Implicit,
    Neumann,
    OneSided,
    OneStep,
    StopGradient,
)
from mlopt._sweep import equilibrium

SHAPES = [(1, 1), (3, 2), (2, 1, 3)]
SOLVERS = {"dense": Dense(), "gmres": GMRES(tol=0.0), "neumann": Neumann(400, scale=0.3)}


def bound(sizes: Any, condition: float) -> float:
    """Sums of so many terms, in products of so many steps, grow with the condition."""
    return rounding(4 * sum(sizes) ** 2, condition=10 * condition)


@pytest.mark.parametrize(
    ("sizes", "solver", "read"), thinned(2, SHAPES, SOLVERS, [None, [0]]), ids=str
)
def test_linear_quadratic_games_against_the_closed_form(sizes: Any, solver: str, read: Any) -> None:
    """w = J^-1 B t, so that the leader's derivative through it is B' J^-T dF/dw."""
    objectives, J, B = quadratic(sizes, 3)
    world = World(objectives, sizes, 3, Implicit(SOLVERS[solver]), read)
    t = world.T.value.detach()
    w = torch.linalg.solve(J, B @ t).split(list(sizes))
    slope = [2 * x + 1 + i for i, x in enumerate(w)]
    if read == [0]:
        slope = [slope[0], *(torch.zeros_like(x) for x in w[1:])]
    expected = 2 * t + B.T @ torch.linalg.solve(J.T, torch.cat(slope))
    found = world.found()
    exact(found, expected, bound(sizes, float(torch.linalg.cond(J))))
    alone = torch.block_diag(*(J[i][:, i] for i in torch.arange(sum(sizes)).split(list(sizes))))
    wrong = 2 * t + B.T @ torch.linalg.solve(alone.T, torch.cat(slope))
    kills(wrong, expected, bound(sizes, float(torch.linalg.cond(J))))


@pytest.mark.parametrize(
    ("product", "off", "why"),
    [
        (Exact(), 0.0, ""),
        (Central(1e-3), 50 * 1e-3**2, "radius^2 / 6 of third derivatives up to 50 times as large"),
        (OneSided(1e-5), 50 * 1e-5, "radius / 2 of second derivatives up to 50 times as large"),
    ],
    ids=["exact", "central", "one-sided"],
)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_curved_games_against_plain_autograd(
    sizes: Any, product: Any, off: float, why: str
) -> None:
    for solver in (Dense(), GMRES(tol=0.0)):
        world = World(curved(sizes, 2), sizes, 2, Implicit(solver, product=product))
        expected, condition = world.expected()
        agree(world.found(), expected, off * condition or bound(sizes, condition), why)


def test_each_player_has_its_own_product_and_damping() -> None:
    sizes, dampings = (2, 3), (0.3, 0.0)
    methods = [
        Implicit(Dense(), product=p, damping=d)
        for p, d in zip((Exact(), OneSided(1e-6)), dampings, strict=True)
    ]
    world = World(curved(sizes, 2), sizes, 2, methods)
    expected, condition = world.expected(dampings)
    agree(world.found(), expected, 50 * 1e-6 * condition, why="radius / 2 of the second derivative")
    undamped, _ = world.expected()
    kills(undamped, expected, 50 * 1e-6 * condition)


def chained(method: Any) -> tuple[Any, Any, Any]:
    """The leader reads u, which reads what is made of v by a signal and by a lower problem of v's.

    Nobody but v reads the leader's t.
    """
    t = tensor(CPU, 5, 2)

    def unit(u, made, x):
        return torch.cosh(u).sum() + (u**2).sum() + (u * (made + 0.5 * x)).sum()

    def other(v, u, t):
        return (v**2).sum() + 0.3 * (v * u).sum() + 0.1 * (v**4).sum() - (v * t.sin()).sum()

    def low(x, v):
        return ((x - v * v) ** 2).sum()

    V = {n: mlopt.Variable(nn.Parameter(torch.zeros(2, dtype=t.dtype)), n) for n in "uvx"}
    T = mlopt.Variable(nn.Parameter(t.clone()), "t")
    X0 = tensor(CPU, 6, 2)
    V["x"].value.data = X0.clone()

    def conditions(w: Any, t: Any) -> Any:
        u, v = w.split(2)
        at = u.view_as(u)
        x = X0 - 0.2 * 2 * (X0 - v * v)
        (gu,) = torch.autograd.grad(unit(at, torch.sin(v), x), at, create_graph=True)
        at = v.view_as(v)
        (gv,) = torch.autograd.grad(other(at, u, t), at, create_graph=True)
        return torch.cat([gu, gv])

    w = torch.zeros(4, dtype=t.dtype, requires_grad=True)
    for _ in range(12):
        J, by_t = torch.autograd.functional.jacobian(conditions, (w, t))
        w = (w - torch.linalg.solve(J, conditions(w, t))).detach().requires_grad_()
    V["u"].value.data, V["v"].value.data = (part.clone() for part in w.detach().split(2))

    def opt(v: Any) -> Any:
        return torch.optim.SGD(v.parameters(), lr=0.1)

    px = mlopt.problem(
        over=V["x"], given=[V["v"]], optimizer=opt(V["x"]), hypergrad=OneStep(lr=0.2), name="low"
    )(low)
    made = mlopt.signal(given=[V["v"]], name="made")(torch.sin)
    pu = mlopt.problem(
        over=V["u"], given=[made, V["x"]], optimizer=opt(V["u"]), hypergrad=method, name="pu"
    )(unit)
    pv = mlopt.problem(
        over=V["v"], given=[V["u"], T], optimizer=opt(V["v"]), hypergrad=method, name="pv"
    )(other)
    top = mlopt.problem(over=T, given=[V["u"]], optimizer=opt(T), name="top")(
        lambda t, u: (u**3).sum() + (t * u).sum()
    )
    u = w.detach()[:2]
    slope = torch.cat([3 * u**2 + t, torch.zeros_like(t)])
    expected = u - by_t.T @ torch.linalg.solve(J.T, slope)
    return mlopt.Engine([px, made, Game([pu, pv]), top]), top, expected


def test_a_chain_of_players_is_one_equilibrium() -> None:
    """w0 reads w1, which reads w2; the leader reads w0 alone, and is read by w2 alone."""
    W = [mlopt.Variable(nn.Parameter(tensor(CPU, 40 + p, 2)), f"w{p}") for p in range(3)]
    T = mlopt.Variable(nn.Parameter(tensor(CPU, 43, 2)), "t")
    given = [*W[1:], T]
    with torch.no_grad():  # w_p = sin(what it reads)
        for own, other in reversed(list(zip(W, given, strict=True))):
            own.value.copy_(torch.sin(other.value))
    players = [
        mlopt.problem(over=own, given=[other], hypergrad=Implicit(GMRES(tol=0.0)), name=own.name)(
            lambda own, other: ((own - torch.sin(other)) ** 2).sum()
        )
        for own, other in zip(W, given, strict=True)
    ]
    top = mlopt.problem(over=T, given=[W[0]], name="top")(lambda t, w: (t * w).sum())
    engine = mlopt.Engine([Game(players), top])
    t = T.value.detach().requires_grad_()
    w = torch.sin(torch.sin(torch.sin(t)))
    (expected,) = torch.autograd.grad((t * w).sum(), t)
    exact(engine.hypergradient(top)[T][""], expected, rounding(400))
    # what a turn of a schedule draws batches for
    assert set(engine.graph.needed(top)) == {top, *players}


@pytest.mark.parametrize("method", [Implicit(Dense()), Implicit(GMRES(tol=0.0))], ids=repr)
def test_players_that_meet_in_signals_and_lower_problems(method: Any) -> None:
    engine, top, expected = chained(method)
    (found,) = engine.hypergradient(top).values()
    exact(found[""], expected, rounding(1000, condition=20))
    right(mlopt.audit(engine, directions=1).worst, 10 * DIFFERENCES)


def test_it_costs_what_the_plan_says_and_twice_gives_the_same_bits() -> None:
    sizes = (3, 2)
    for method in (
        Implicit(Dense()),
        Implicit(Dense(), product=Central()),
        Implicit(GMRES(3), product=OneSided()),
    ):
        world = World(curved(sizes, 2), sizes, 2, method)
        engine = world.engine()
        plan = engine.plan()
        before = engine._evaluator.count.copy()
        first = engine.hypergradient(world.top)[world.T][""]
        taken = engine._evaluator.count - before
        assert torch.equal(first, engine.hypergradient(world.top)[world.T][""])
        assert {n: taken[n] for n in engine.graph.nodes} == {
            n: f for n, (f, _) in plan.per_node.items()
        }
        before = engine._evaluator.count.copy()
        metrics = engine.step()  # the players' own updates take no evaluation more
        assert engine._evaluator.count - before == taken
        assert metrics["lead/gradient_norm"] > 0
    exact_products = sum(sizes) + 1  # one of each player; one pass for each gradient at first
    plan = World(curved(sizes, 2), sizes, 2, Implicit(Dense())).engine().plan()
    assert plan.evaluations == 3
    assert plan.backwards == 2 * exact_products + 3


def test_the_audit_finds_the_equilibrium_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (2, 2)
    world = World(curved(sizes, 2), sizes, 2, Implicit(Dense()))
    report = mlopt.audit(world.engine())
    right(report.worst)
    assert report.warnings == ()
    whole = equilibrium.pull_equilibrium

    def each_alone(players: Any, cotangent: Any, wanted: Any) -> Any:
        found: dict[Any, Any] = {}
        for player in players:
            own = {k: c for k, c in cotangent.items() if k in player[1].gradient}
            for k, t in whole([player], own, wanted).items():
                found[k] = found[k] + t if k in found else t
        return found

    monkeypatch.setattr(equilibrium, "pull_equilibrium", each_alone)
    with pytest.raises(mlopt.AuditError, match="lead: t"):
        mlopt.audit(world.engine()).check()


def test_the_audit_says_how_far_the_players_are_from_it() -> None:
    world = World(curved((2, 2), 2), (2, 2), 2, Implicit(Dense()))
    with torch.no_grad():
        world.W[1].value.add_(0.3)
    (text, *_) = mlopt.audit(world.engine()).warnings
    assert text.startswith("player0 and player1: Implicit takes its standing value for the optimum")
    many = mlopt.audit(world.engine(), dense_limit=3)
    assert any("too many numbers for a matrix" in w for w in many.warnings)


def test_who_does_not_read_the_other_is_solved_alone() -> None:
    """Frozen players and stopped reads are constants: any solver serves, one player at a time."""
    objectives, J, B = quadratic((2, 2), 2)
    methods = [Implicit(CG(tol=1e-14)), Frozen()]
    world = World(objectives, (2, 2), 2, methods)
    t, w = world.T.value.detach(), world.W[0].value.detach()
    alone = 2 * t + B[:2].T @ torch.linalg.solve(J[:2, :2].T, 2 * w + 1)
    exact(world.found(), alone, bound((2, 2), float(torch.linalg.cond(J))))
    world = World(objectives, (2, 2), 2, [methods[0], StopGradient(OneStep())])
    exact(world.found() - 2 * t, alone - 2 * t, bound((2, 2), 10 * float(torch.linalg.cond(J))))
    # Neither reads the other: two systems, which are symmetric.
    W = [mlopt.Variable(nn.Parameter(tensor(CPU, 30 + p, 2)), f"w{p}") for p in range(2)]
    players = [
        mlopt.problem(over=own, given=[world.T], hypergrad=Implicit(CG()), name=own.name)(
            lambda own, t: (torch.cosh(own) + own * t).sum()
        )
        for own in W
    ]
    top = mlopt.problem(over=world.T, given=[W], name="lead")(World.lead)
    found = mlopt.Engine([Game(players), top]).hypergradient(top)[world.T][""]
    through = [(2 * w + 1 + i) / torch.cosh(w) for i, w in enumerate(v.value.detach() for v in W)]
    exact(found, 2 * t - through[0] - through[1], rounding(400))


def test_what_is_refused_by_name() -> None:
    objectives = curved((2, 2), 2)

    def refused(methods: Any, match: str) -> None:
        with pytest.raises(GraphError, match=match):
            World(objectives, (2, 2), 2, methods).engine()

    symmetric = r"player0 and player1: CG takes symmetric systems.*GMRES.*Dense.*Neumann"
    refused(Implicit(), symmetric)
    refused(Implicit(mlopt.Nystrom()), "Nystrom takes symmetric systems")
    refused([Implicit(Dense()), OneStep()], r"player0: Implicit.*player1.*hypergrad=OneStep")
    refused([OneStep(), Implicit(Dense())], r"player1: Implicit.*player0.*hypergrad=OneStep")
    refused([Implicit(Dense()), Implicit(GMRES())], "solved as one system.*the same solver")
    gauss = Implicit(Dense(), curvature=mlopt.GaussNewton())
    refused([Implicit(Dense()), gauss], r"player1: GaussNewton\(\).*Use Hessian\(\)")
    # where nobody above reads them their methods do not matter
    world = World(objectives, (2, 2), 2, Implicit())
    fixed = mlopt.problem(over=world.T, name="alone")(lambda t: (t**2).sum())
    mlopt.Engine([Game(world.players), fixed])


def test_an_equilibrium_that_would_have_to_follow_is_refused() -> None:
    W = [mlopt.Variable(nn.Parameter(tensor(CPU, s, 2)), n) for s, n in enumerate(["u", "v"])]
    M, T = (mlopt.Variable(nn.Parameter(tensor(CPU, s, 2)), n) for s, n in ((7, "m"), (8, "t")))

    def entries(method: Any, play: Any = None) -> list[Any]:
        players = [
            mlopt.problem(
                over=own, given=[other, M], name=f"p{own.name}",
                hypergrad=Implicit(Dense()) if play is None else None,
                optimizer=torch.optim.SGD(own.parameters(), lr=0.1),
            )(lambda own, other, m: (own**2).sum() + (own * other * m).sum())
            for own, other in (W, W[::-1])
        ]  # fmt: skip
        middle = mlopt.problem(over=M, given=[*W, T], hypergrad=method, name="middle")(
            lambda m, u, v, t: (m * u * v).sum() + ((m - t) ** 2).sum()
        )
        top = mlopt.problem(over=T, given=[M], name="top")(lambda t, m: (t * m).sum())
        return [Game(players, play), middle, top]

    for method in (OneStep(lr=0.1), OneStep(lr=0.1, product=Central()), Implicit(Dense())):
        with pytest.raises(
            GraphError, match=r"pu and pv: their equilibrium.*follow middle.*top.*Extragradient"
        ):
            mlopt.Engine(entries(method))
    for entry in (entries(Frozen()), entries(OneStep(lr=0.1), mlopt.games.Extragradient())):
        engine = mlopt.Engine(entry)
        for problem in entry[1:]:
            engine.hypergradient(problem)
