"""Games: what their players commit, against torch's own loops."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from compare import exact, rounding
from games.game_graphs import PLAYS, WORLDS
from games.gan import DATA, OPTIMIZERS, STEPS, Gan
from grids import thinned
from small import F64
from torch import nn

import mlopt
from mlopt import Game
from mlopt.games import Alternating, Extragradient, Joint, Simultaneous


@pytest.mark.parametrize(
    ("play", "optimizer", "leader"), thinned(2, [None, Simultaneous()], OPTIMIZERS, [False, True])
)
def test_simultaneous_players_step_from_where_they_stood(
    play: Any, optimizer: str, leader: bool
) -> None:
    gan, hand = Gan(optimizer, leader), Gan(optimizer, leader)
    engine = gan.engine(play)
    for t in range(4):
        grads = [
            hand.gradient(p, DATA[t], engine.seed_of(q))
            for p, q in ((hand.critic, gan.critic), (hand.maker, gan.maker))
        ]
        top = engine.hypergradient(gan.leads)[gan.A][""] if leader else None
        engine.step()
        for p, found in zip((hand.critic, hand.maker), grads, strict=True):
            hand.move(p, *found)
        hand.check(gan)
        if top is not None:
            hand.a.data -= 0.1 * top  # whose value has tests of its own
            exact(gan.a, hand.a, STEPS)


@pytest.mark.parametrize(
    ("turns", "optimizer", "leader"),
    thinned(4, [(1, 1), (2, 1), (4, 1), (2, 3), (1, 2, 2)], OPTIMIZERS, [False, True]),
)
def test_alternating_players_take_turns_on_batches_of_their_own(
    turns: tuple[int, ...], optimizer: str, leader: bool
) -> None:
    """A third number is a second turn of the first player."""
    gan, hand = Gan(optimizer, leader), Gan(optimizer, leader)
    order = [(p, n) for p, n in zip([0, 1, 0], turns, strict=False)]
    players = [gan.critic, gan.maker]
    engine = gan.engine(Alternating(*((players[p], n) for p, n in order)))
    at = 0
    for _ in range(3):
        taken, first = [0, 0], DATA[at]
        at += 1
        top = engine.hypergradient(gan.leads)[gan.A][""] if leader else None
        seeds = [[engine.seed_of(p, k) for k in range(6)] for p in players]
        engine.step()
        for p, n in order:
            who = (hand.critic, hand.maker)[p]
            for _ in range(n):
                batch = first
                if taken[p]:
                    batch = DATA[at]
                    at += 1
                hand.move(who, *hand.gradient(who, batch, seeds[p][taken[p]]))
                taken[p] += 1
        hand.check(gan)
        if top is not None:
            hand.a.data -= 0.1 * top
    assert engine.steps == 3


@pytest.mark.parametrize(
    ("steps", "optimizer", "leader"), thinned(2, [1, 3], OPTIMIZERS, [False, True])
)
def test_joint_players_step_together_on_the_same_batches(
    steps: int, optimizer: str, leader: bool
) -> None:
    gan, hand = Gan(optimizer, leader), Gan(optimizer, leader)
    engine = gan.engine(Joint(steps))
    at = 0
    for _ in range(3):
        top = engine.hypergradient(gan.leads)[gan.A][""] if leader else None
        seeds = [[engine.seed_of(p, k) for k in range(steps)] for p in (gan.critic, gan.maker)]
        engine.step()
        for k in range(steps):
            batch, at = DATA[at], at + 1
            players = (hand.critic, hand.maker)
            found = [hand.gradient(p, batch, s[k]) for p, s in zip(players, seeds, strict=True)]
            for p, grads in zip(players, found, strict=True):
                hand.move(p, *grads)
        hand.check(gan)
        if top is not None:
            hand.a.data -= 0.1 * top


@pytest.mark.parametrize("leader", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_extragradient_looks_ahead_and_steps_from_the_start(optimizer: str, leader: bool) -> None:
    """Optimizers and buffers are moved once, by the second evaluations."""
    gan, hand = Gan(optimizer, leader), Gan(optimizer, leader)
    engine = gan.engine(Extragradient())
    for t in range(4):
        top = engine.hypergradient(gan.leads)[gan.A][""] if leader else None
        seeds = [engine.seed_of(gan.critic), engine.seed_of(gan.maker)]
        engine.step()
        players = (hand.critic, hand.maker)
        first = [hand.gradient(p, DATA[t], s)[0] for p, s in zip(players, seeds, strict=True)]
        start = copy.deepcopy((hand.d.state_dict(), hand.g.state_dict()))
        held = copy.deepcopy((hand.od.state_dict(), hand.og.state_dict()))
        for p, grads in zip(players, first, strict=True):
            hand.move(p, grads, None)
        second = [hand.gradient(p, DATA[t], s) for p, s in zip(players, seeds, strict=True)]
        hand.d.load_state_dict(start[0]), hand.g.load_state_dict(start[1])
        hand.od.load_state_dict(held[0]), hand.og.load_state_dict(held[1])
        for p, found in zip(players, second, strict=True):
            hand.move(p, *found)
        hand.check(gan)
        if top is not None:
            hand.a.data -= 0.1 * top


def test_a_player_is_clipped_in_a_simultaneous_game() -> None:
    gan, hand = Gan("sgd"), Gan("sgd")
    gan.critic.clip = 0.01
    engine = gan.engine(None)
    found = hand.gradient(hand.critic, DATA[0], engine.seed_of(gan.critic))[0]
    length = math.sqrt(sum(g.square().sum().item() for g in found))
    assert length > 0.01
    engine.step()
    for p, q, g in zip(gan.d.parameters(), hand.d.parameters(), found, strict=True):
        exact(p, q - 0.1 * g * 0.01 / (length + 1e-6), STEPS)


@pytest.mark.parametrize("play", ["alternating", "joint", "extragradient"])
@pytest.mark.parametrize("leader", [False, True])
def test_a_players_steps_under_a_leader_are_those_without_one(play: str, leader: bool) -> None:
    """Of tensors, with the middle problem between them too: what is committed is what was read."""
    for world in ("two", "middle", "own_lower", "below_a_game"):
        with_leader, without = (WORLDS[world](PLAYS[play]) for _ in range(2))
        engine = mlopt.Engine(with_leader.entries)
        engine.step()
        without.top.optimizer = None  # nobody above moves, or is computed
        other = mlopt.Engine(without.entries)
        other.step()
        for p, q in zip(with_leader.players, without.players, strict=True):
            (x,), (y,) = p.over[0].parameters(), q.over[0].parameters()
            # two or three turns or looks of 50 operations, two games one above the other
            exact(x, y, rounding(6 * 2 * 50, condition=5), what=world)


# The bilinear game x y, whose solution is 0.


@pytest.mark.parametrize(
    ("play", "factor"),
    [
        (None, lambda h: 1 + h**2),  # |z'|^2 / |z|^2
        (Joint(), lambda h: 1 + h**2),
        (Joint(3), lambda h: (1 + h**2) ** 3),
        (Extragradient(), lambda h: 1 - h**2 + h**4),
    ],
)
@pytest.mark.parametrize("lr", [0.1, 0.5])
def test_a_bilinear_game_grows_or_shrinks(play: Any, factor: Any, lr: float) -> None:
    X, Y = (
        mlopt.Variable(nn.Parameter(torch.tensor(t, dtype=F64)), n)
        for t, n in ((1.0, "x"), (0.7, "y"))
    )

    @mlopt.problem(over=X, given=[Y], optimizer=torch.optim.SGD(X.parameters(), lr=lr))
    def low(x, y):
        return x * y

    @mlopt.problem(over=Y, given=[X], optimizer=torch.optim.SGD(Y.parameters(), lr=lr))
    def high(y, x):
        return -x * y

    engine = mlopt.Engine([Game([low, high], play)])
    before = X.value.item() ** 2 + Y.value.item() ** 2
    for _ in range(5):
        engine.step()
        after = X.value.item() ** 2 + Y.value.item() ** 2
        exact(after / before, factor(lr), rounding(20, condition=2))
        before = after


def test_alternating_turns_of_a_bilinear_game_stay_on_an_ellipse() -> None:
    """x' = x - h y, y' = y + h x': x^2 + y^2 - h x y does not change."""
    h = 0.4
    X, Y = (mlopt.Variable(nn.Parameter(torch.ones((), dtype=F64)), n) for n in "xy")

    @mlopt.problem(over=X, given=[Y], optimizer=torch.optim.SGD(X.parameters(), lr=h))
    def low(x, y):
        return x * y

    @mlopt.problem(over=Y, given=[X], optimizer=torch.optim.SGD(Y.parameters(), lr=h))
    def high(y, x):
        return -x * y

    engine = mlopt.Engine([Game([low, high], Alternating((low, 1), (high, 1)))])
    for _ in range(6):
        engine.step()
        x, y = X.value.item(), Y.value.item()
        exact(x**2 + y**2 - h * x * y, 2 - h, rounding(6 * 6, condition=4))
