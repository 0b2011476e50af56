"""Games: what a leader sees through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, kills, rounding
from games.game_graphs import PLAIN, PLAYS, WORLDS, Play
from games.game_oracle import Played
from grids import thinned
from nested_oracle import Fixed, Stopped
from oracles import assert_same_gradients, sweep_rounding
from small import F64
from torch import nn

import mlopt
from mlopt import Central, Frozen, Game, OneSided, OneStep, StopGradient
from mlopt.games import Alternating, Extragradient

#: Two games of three players, of which each takes three steps at most.
ROUNDING = sweep_rounding(2 * 3 * 3)
#: With each order the derivatives along a direction of length 1 grow at most tenfold; six players.
CENTRAL = 6 * 10**2 * 1e-3**2 / 6
ONE_SIDED = 6 * 10 * 1e-5 / 2
WHY = "radius^2 / 6 of the third derivative, or radius / 2 of the second"


@pytest.mark.parametrize(("world", "play"), thinned(4, WORLDS, PLAYS))
def test_the_gradient_of_every_problem(world: str, play: str) -> None:
    """The leader's through the game, the players' own, those of what is below and between."""
    made = WORLDS[world](PLAYS[play])
    engine = mlopt.Engine(made.entries)
    oracle = Played(made.entries, made.kinds)
    for problem in engine.graph.problems:
        found, expected = engine.hypergradient(problem), oracle.hypergradient(problem)
        assert_same_gradients(found, expected, ROUNDING, problem.name)


def leader_alone(world: str, play: str, change: Callable[[Any, dict], None]) -> tuple[Any, Any]:
    """The leader's gradient, as found and as expected, after a change of methods and kinds."""
    made = WORLDS[world](PLAYS[play])
    for i, player in enumerate(made.players):
        change((i, player), made.kinds)
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    (found,) = engine.hypergradient(made.top).values()
    (expected,) = oracle.hypergradient(made.top).values()
    return found[""], expected[""]


@pytest.mark.parametrize(
    ("world", "play"),
    thinned(
        2,
        ["two", "three", "own_lower", "shared_lower"],
        ["simultaneous", "alternating momentum", "extragradient adam"],
    ),
)
def test_each_players_share_by_itself(world: str, play: str) -> None:
    """All but one are read as constants; relative to what that one gives, not to the whole."""
    count = len(WORLDS[world](PLAYS[play]).players)

    def only(j: int | None) -> Callable[[Any, dict], None]:
        def change(at: Any, kinds: dict) -> None:
            i, player = at
            if i != j:
                player.hypergrad = StopGradient(OneStep())
                kinds[player] = Stopped(kinds.get(player))

        return change

    direct, expected_direct = leader_alone(world, play, only(None))
    exact(direct, expected_direct, ROUNDING)
    whole, expected_whole = leader_alone(world, play, lambda at, kinds: None)
    shares = []
    for j in range(count):
        found, expected = leader_alone(world, play, only(j))
        shares.append(found - direct)
        share = expected - expected_direct
        if not share.any():  # the leader does not read this one
            assert not shares[-1].any()
            continue
        # a difference of two gradients
        bound = ROUNDING * (1 + (expected.norm() / share.norm()).item())
        kills(2 * share, share, bound)
        exact(shares[-1], share, bound, what=f"player {j}")
    sizes = [s.norm().item() for s in shares]
    assert sum(size > 1e-4 * whole.norm() for size in sizes) >= 2
    exact(whole, expected_whole, ROUNDING)
    exact(sum(shares), whole - direct, ROUNDING * sum(sizes) / (whole - direct).norm().item())


@pytest.mark.parametrize(
    ("world", "play"),
    thinned(
        2,
        ["two", "signals", "own_lower", "middle"],
        ["simultaneous nesterov", "alternating", "extragradient"],
        first=1,
    ),
)
def test_a_frozen_player_is_read_as_it_stands(world: str, play: str) -> None:
    made = WORLDS[world](PLAYS[play])
    frozen = made.players[1]
    frozen.hypergrad = Frozen()
    made.kinds[frozen] = Fixed()
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    found, expected = engine.hypergradient(made.top), oracle.hypergradient(made.top)
    assert_same_gradients(found, expected, ROUNDING)


@pytest.mark.parametrize(
    ("product", "bound"), [(Central(1e-3), CENTRAL), (OneSided(1e-5), ONE_SIDED)]
)
@pytest.mark.parametrize("world", ["two", "three", "own_lower", "leaders", "middle"])
def test_players_by_differences(world: str, product: Any, bound: float) -> None:
    play = Play("simultaneous", PLAIN, PLAIN, OneStep(product=product))
    made = WORLDS[world](play)
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    found, expected = engine.hypergradient(made.top), oracle.hypergradient(made.top)
    assert_same_gradients(found, expected, bound, why=WHY)


def test_a_method_for_each_player() -> None:
    """Exact products, differences and Sama meet in one game: for plain SGD all are one step."""
    play = Play("simultaneous", PLAIN, PLAIN, OneStep())
    made = WORLDS["three"](play)
    methods = [OneStep(), mlopt.Sama(mlopt.Exact()), OneStep(product=Central(1e-4))]
    for player, method in zip(made.players, methods, strict=True):
        player.hypergrad = method
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    found, expected = engine.hypergradient(made.top), oracle.hypergradient(made.top)
    assert_same_gradients(found, expected, CENTRAL, why=WHY)


@pytest.mark.parametrize("play", ["alternating", "extragradient"])
def test_a_player_that_answers_the_leader_through_another_alone(play: str) -> None:
    """The leader reads x; only y reads the leader, and x reads y inside the play."""
    X, Y, A = (mlopt.Variable(nn.Parameter(torch.tensor(t, dtype=F64)), n)
               for t, n in ((1.0, "x"), (2.0, "y"), (3.0, "a")))  # fmt: skip

    @mlopt.problem(over=X, given=[Y], optimizer=torch.optim.SGD(X.parameters(), lr=0.1))
    def first(x, y):
        return x**2 * y

    @mlopt.problem(over=Y, given=[X, A], optimizer=torch.optim.SGD(Y.parameters(), lr=0.1))
    def second(y, x, a):
        return y * a**2 + x * y**2

    @mlopt.problem(over=A, given=[X])
    def leads(a, x):
        return x**3

    turns = Alternating((second, 1), (first, 1))
    game = Game([first, second], turns if play == "alternating" else Extragradient())
    a = torch.tensor(3.0, dtype=F64, requires_grad=True)
    y = 2 - 0.1 * (a**2 + 2 * 1 * 2)
    u = 1.0 if play == "alternating" else 1 - 0.1 * 2 * 1 * 2  # where x's gradient is taken
    (expected,) = torch.autograd.grad((1 - 0.1 * 2 * u * y) ** 3, a)
    found = mlopt.Engine([game, leads]).hypergradient(leads)[A][""]
    exact(found, expected, rounding(60, condition=10))
