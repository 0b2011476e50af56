"""Games under every schedule; what they cost; that a bad step leaves no trace."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from compare import exact, rounding
from games.game_graphs import PLAYS, WORLDS
from games.gan import Gan
from grids import thinned
from small import F64, assert_same, state_of
from torch import nn

import mlopt
from mlopt import Alternate, Frozen, Game, OneStep, Sequential, UpperFirst
from mlopt.games import Alternating, Extragradient, Joint

H = 0.1
#: At most four steps of a game of 30 operations, through which a leader looks back.
BY_HAND = rounding(4 * 4 * 30, condition=5)


class Three:
    """Two players over numbers and a leader, by the engine and by hand."""

    def __init__(self, method: Any = None, clock: Any = None, **options: Any) -> None:
        self.X, self.Y, self.A = (
            mlopt.Variable(nn.Parameter(torch.tensor(t, dtype=F64)), n)
            for n, t in (("x", 1.0), ("y", 2.0), ("a", 3.0))
        )

        def sgd(v: Any) -> Any:
            return torch.optim.SGD(v.parameters(), lr=H)

        options["hypergrad"] = method

        @mlopt.problem(over=self.X, given=[self.Y, self.A], optimizer=sgd(self.X), **options)
        def first(x, y, a):
            return x * y * a + x**2

        @mlopt.problem(over=self.Y, given=[self.X, self.A], optimizer=sgd(self.Y), **options)
        def second(y, x, a):
            return y**3 / 6 - x * y * a

        @mlopt.problem(over=self.A, given=[self.X, self.Y], optimizer=sgd(self.A), data=clock)
        def leads(a, x, y, batch=None):
            del batch  # it counts epochs
            return a**2 / 2 + x * y * a

        self.first, self.second, self.leads = first, second, leads

    def run(self, play: Any = None, steps: int = 1, **options: Any) -> list[float]:
        engine = mlopt.Engine([Game([self.first, self.second], play), self.leads], **options)
        for _ in range(steps):
            engine.step()
        return [v.value.item() for v in (self.X, self.Y, self.A)]


def dx(x: Any, y: Any, a: Any) -> Any:
    return y * a + 2 * x


def dy(x: Any, y: Any, a: Any) -> Any:
    return y**2 / 2 - x * a


def da(x: Any, y: Any, a: Any) -> Any:
    return a + x * y


def simultaneous(x: Any, y: Any, a: Any) -> Any:
    return x - H * dx(x, y, a), y - H * dy(x, y, a)


def alternating(x: Any, y: Any, a: Any) -> Any:
    for _ in range(2):
        x = x - H * dx(x, y, a)
    return x, y - H * dy(x, y, a)


def extragradient(x: Any, y: Any, a: Any) -> Any:
    u, v = simultaneous(x, y, a)
    return x - H * dx(u, v, a), y - H * dy(u, v, a)


def hyper(play: Any, x: float, y: float, a: float) -> float:
    """d/da of the leader's objective through the play."""
    b = torch.tensor(a, dtype=F64, requires_grad=True)
    u, v = play(x, y, b)
    return torch.autograd.grad(b**2 / 2 + u * v * b, b)[0].item()


TRACED = [
    (lambda t: Alternating((t.first, 2), (t.second, 1)), alternating),
    (lambda t: Extragradient(), extragradient),
]


def test_simultaneous_frozen() -> None:
    x, y = simultaneous(1, 2, 3)
    exact(Three(Frozen()).run(), [x, y, 3 - H * da(1, 2, 3)], BY_HAND)


def test_sequential_commits_the_players_together() -> None:
    """They see each other where the step began, and the leader sees what they have committed."""
    x, y = simultaneous(1, 2, 3)
    found = Three(Frozen()).run(schedule=Sequential())
    exact(found, [x, y, 3 - H * da(x, y, 3)], BY_HAND)


@pytest.mark.parametrize("method", [Frozen(), OneStep()])
def test_upper_first_commits_the_players_together(method: Any) -> None:
    responds = isinstance(method, OneStep)
    a = 3 - H * (hyper(simultaneous, 1, 2, 3) if responds else da(1, 2, 3))
    x, y = simultaneous(1, 2, a)
    exact(Three(method).run(schedule=UpperFirst()), [x, y, a], BY_HAND)


@pytest.mark.parametrize(("play", "by_hand"), TRACED)
def test_upper_first_plays_the_game_anew(play: Any, by_hand: Any) -> None:
    t = Three()
    a = 3 - H * hyper(by_hand, 1, 2, 3)
    x, y = by_hand(1, 2, a)
    exact(t.run(play(t), schedule=UpperFirst()), [x, y, a], BY_HAND)


@pytest.mark.parametrize(("play", "by_hand"), TRACED)
def test_alternate_plays_the_game_so_many_times(play: Any, by_hand: Any) -> None:
    t = Three()
    schedule = Alternate(((t.first, t.second), 3), (t.leads, 1))
    found = t.run(play(t), schedule=schedule)
    x, y = 1.0, 2.0
    for _ in range(3):
        x, y = by_hand(x, y, 3.0)
    exact(found, [x, y, 3 - H * hyper(by_hand, x, y, 3.0)], BY_HAND)


def test_alternate_simultaneous_players_together_or_by_themselves() -> None:
    t = Three(Frozen())
    found = t.run(schedule=Alternate(((t.first, t.second), 2), (t.leads, 1)))
    x, y = simultaneous(*simultaneous(1, 2, 3), 3)
    exact(found, [x, y, 3 - H * da(x, y, 3)], BY_HAND)
    t = Three(Frozen())
    found = t.run(schedule=Alternate((t.second, 2), (t.first, 1), (t.leads, 1)))
    x, y = 1.0, 2.0
    for _ in range(2):
        y = y - H * dy(x, y, 3)
    x = x - H * dx(x, y, 3)
    exact(found, [x, y, 3 - H * da(x, y, 3)], BY_HAND)


def test_sequential_takes_a_game_that_nobody_reads() -> None:
    t = Three()
    engine = mlopt.Engine(
        [Game([t.first, t.second], Alternating((t.first, 2), (t.second, 1))), over_a(t)],
        schedule=Sequential(),
    )
    engine.step()
    x, y = alternating(1, 2, 3)
    exact([t.X.value.item(), t.Y.value.item()], [x, y], BY_HAND)
    t = Three()
    with pytest.raises(mlopt.GraphError, match=r"Sequential\(\): leads reads the solution of f"):
        t.run(Extragradient(), schedule=Sequential())


def over_a(t: Three) -> Any:
    @mlopt.problem(over=t.A)
    def alone(a):
        return a**2

    return alone


def test_until_and_half_a_game_are_refused() -> None:
    t = Three()
    with pytest.raises(mlopt.GraphError, match=r"first and second are players of a game.*one turn"):
        t.run(Extragradient(), schedule=Alternate((t.first, 1), (t.second, 1), (t.leads, 1)))
    until = Alternate(((t.first, t.second), mlopt.Until(1e-6)), (t.leads, 1))
    with pytest.raises(mlopt.GraphError, match="Until"):
        t.run(Extragradient(), schedule=until)


def test_repeat_of_one_player() -> None:
    """Its further updates see the other where the step began."""
    t = Three(Frozen())
    t.first.repeat = 3
    found = t.run()
    x = 1.0
    for _ in range(3):
        x = x - H * dx(x, 2.0, 3.0)
    exact(found, [x, simultaneous(1, 2, 3)[1], 3 - H * da(1, 2, 3)], BY_HAND)


@pytest.mark.parametrize("play", [None, *(play for play, _ in TRACED)])
def test_every(play: Any) -> None:
    """Between their turns the players stand, and are read where they would go."""
    t = Three(OneStep() if play is None else None, every=2)
    by_hand = {None: simultaneous, TRACED[0][0]: alternating, TRACED[1][0]: extragradient}[play]
    found = t.run(None if play is None else play(t), steps=3)
    x, y, a = 1.0, 2.0, 3.0
    for k in range(3):
        gradient = hyper(by_hand, x, y, a)
        if k % 2 == 0:
            x, y = by_hand(x, y, a)
        a = a - H * gradient
    exact(found, [x, y, a], BY_HAND)


@pytest.mark.parametrize("play", [None, *(play for play, _ in TRACED)])
def test_start(play: Any) -> None:
    """Before it the players stand still, for those who read them too."""
    t = Three(OneStep() if play is None else None, clock=[0, 0], start=1)
    by_hand = {None: simultaneous, TRACED[0][0]: alternating, TRACED[1][0]: extragradient}[play]
    found = t.run(None if play is None else play(t), steps=4)
    x, y, a = 1.0, 2.0, 3.0
    for k in range(4):
        gradient = hyper(by_hand, x, y, a) if k >= 2 else da(x, y, a)
        if k >= 2:
            x, y = by_hand(x, y, a)
        a = a - H * gradient
    exact(found, [x, y, a], BY_HAND)


# Cost, purity, atomicity.


PLAYED = ["simultaneous", "alternating", "extragradient"]


@pytest.mark.parametrize(("world", "play"), thinned(3, WORLDS, PLAYED))
def test_the_plan_counts_what_a_step_evaluates(world: str, play: str) -> None:
    made = WORLDS[world](PLAYS[play])
    calls: Counter[str] = Counter()
    engine = mlopt.Engine(made.entries)
    engine.hypergradient(made.top)  # the checks of the first call
    for node in engine.graph.nodes:
        node.fn = lambda *args, node=node, fn=node.fn: (calls.update([node.name]), fn(*args))[1]
    plan = engine.plan()
    planned = {n.name: count for n, (count, _) in plan.per_node.items()}
    calls.clear()
    engine.step()
    assert planned == {n.name: calls[n.name] for n in engine.graph.nodes}


def test_a_game_without_a_reader_costs_its_steps() -> None:
    gan = Gan("momentum")
    plan = gan.engine(Alternating((gan.critic, 5), (gan.maker, 1))).plan()
    assert {n.name: count for n, (count, _) in plan.per_node.items()} == {"critic": 5, "maker": 1}
    gan = Gan("momentum")
    assert gan.engine(Extragradient()).plan().evaluations == 4
    gan = Gan("momentum")
    assert gan.engine(Joint(3)).plan().evaluations == 6


def plays(gan: Gan) -> dict[str, Any]:
    return {
        "simultaneous": None,
        "alternating": Alternating((gan.critic, 3), (gan.maker, 2)),
        "extragradient": Extragradient(),
    }


@pytest.mark.parametrize("name", PLAYED)
def test_asking_changes_nothing(name: str) -> None:
    gan, other = Gan("adam", leader=True), Gan("adam", leader=True)
    engine, plain = gan.engine(plays(gan)[name]), other.engine(plays(other)[name])
    for _ in range(3):
        before = state_of(engine)
        for p in (gan.leads, gan.critic, gan.maker):
            assert_same(engine.hypergradient(p), engine.hypergradient(p))
        engine.plan()
        assert_same(before, state_of(engine))
        assert_same(engine.step(), plain.step())
        assert_same(state_of(engine), state_of(plain))


@cache
def third_step(name: str, schedule: type) -> tuple[Any, dict[str, Any]]:
    """The metrics of a third step and the state after it, where nothing went wrong."""
    gan = Gan("adam", leader=True)
    engine = gan.engine(plays(gan)[name], schedule=schedule())
    for _ in range(3):
        metrics = engine.step()
    return metrics, state_of(engine)


BAD = [
    ("critic", "first", None),
    ("critic", "last", UpperFirst()),
    ("maker", "first", UpperFirst()),
    ("maker", "last", None),
]


@pytest.mark.parametrize(("name", "where"), thinned(2, PLAYED, BAD))
def test_a_bad_evaluation_of_a_player_commits_nothing(
    name: str, where: tuple[str, str, Any]
) -> None:
    """In the third step, in the player's first evaluation or its last; then all is well."""
    who, bad, schedule = where
    gan = Gan("adam", leader=True)
    engine = gan.engine(plays(gan)[name], schedule=schedule)
    for _ in range(2):
        engine.step()
    player = getattr(gan, who)
    fn, calls = player.fn, list[int]()
    last = {"simultaneous": 1, "alternating": 3 if who == "critic" else 2, "extragradient": 2}
    at = 1 if bad == "first" else last[name]

    def broken(*args: Any) -> Any:
        calls.append(1)
        return fn(*args) * (float("nan") if len(calls) == at else 1.0)

    player.fn = broken
    before = state_of(engine)
    with pytest.raises(mlopt.NonFiniteError, match="not finite"):
        engine.step()
    assert_same(before, state_of(engine))
    player.fn = fn
    metrics, after = third_step(name, type(schedule))
    assert_same(engine.step(), metrics)
    assert_same(state_of(engine), after | {"rng": before["rng"]})


def test_a_bad_leader_commits_no_player() -> None:
    for name in ("simultaneous", "alternating", "extragradient"):
        gan = Gan("momentum", leader=True)
        engine = gan.engine(plays(gan)[name])
        engine.step()
        fn = gan.leads.fn
        gan.leads.fn = lambda *args, fn=fn: fn(*args) * float("inf")
        before = state_of(engine)
        with pytest.raises(mlopt.NonFiniteError, match="leads"):
            engine.step()
        assert_same(before, state_of(engine))


def test_metrics_are_those_of_the_first_evaluation() -> None:
    t = Three()
    engine = mlopt.Engine([Game([t.first, t.second], Extragradient()), t.leads])
    metrics = engine.step()
    assert metrics["first/loss"].item() == 1 * 2 * 3 + 1
    exact(metrics["second/loss"].item(), 8 / 6 - 6, BY_HAND)
