"""Graphs with a game in them, of every shape; all objectives have third derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from case_graphs import parameter, tensor
from cases import warmed
from games.game_oracle import Extra, Rounds, Turns
from nested_oracle import Steps
from torch import Tensor

import mlopt
from mlopt import Game, OneStep
from mlopt.games import Alternating, Extragradient, Joint

CPU = torch.device("cpu")
MIX = tensor(CPU, 90, 3, 3, scale=0.6)

Optimizer = Callable[[list[Tensor]], Any]


@dataclass
class World:
    """A list for the engine, its players, and the kinds of solution for the oracle."""

    entries: list[Any]
    players: list[Any]
    kinds: dict[Any, Any]
    top: Any


@dataclass(frozen=True)
class Play:
    """A play, and the optimizers of its players."""

    name: str
    optimizer: Optimizer
    other: Optimizer
    method: Any = None

    def game(self, players: list[Any], kinds: dict[Any, Any]) -> Game:
        """The game; its kinds are noted."""
        if self.name == "simultaneous":
            kinds.update(dict.fromkeys(players, Steps(lr=self.method.lr)))
            return Game(players)
        if self.name == "extragradient":
            game = Game(players, Extragradient())
            kinds[game] = Extra()
            return game
        if self.name == "joint":
            game = Game(players, Joint(3))
            kinds[game] = Rounds(3)
            return game
        first, *rest = players
        turns = ((first, 2), *((p, 1) for p in rest), (first, 1))
        game = Game(players, Alternating(*turns))
        kinds[game] = Turns(turns)
        return game


def sgd(**options: Any) -> Optimizer:
    return lambda p: torch.optim.SGD(p, **options)


def heavy(**options: Any) -> Optimizer:
    return lambda p: warmed(torch.optim.SGD(p, **options))


def adam(**options: Any) -> Optimizer:
    return lambda p: warmed(torch.optim.Adam(p, **options))


PLAIN = sgd(lr=0.15)
MOMENTUM = heavy(lr=0.1, momentum=0.9, weight_decay=0.05)
NESTEROV = heavy(lr=0.1, momentum=0.8, nesterov=True)
ADAM = adam(lr=0.1, weight_decay=0.05, eps=0.05)

PLAYS = {
    "simultaneous": Play("simultaneous", PLAIN, MOMENTUM, OneStep()),
    "simultaneous nesterov": Play("simultaneous", NESTEROV, PLAIN, OneStep()),
    "simultaneous adam": Play("simultaneous", ADAM, PLAIN, OneStep()),
    "simultaneous lr": Play("simultaneous", MOMENTUM, PLAIN, OneStep(lr=0.25)),
    "alternating": Play("alternating", PLAIN, PLAIN),
    "alternating momentum": Play("alternating", MOMENTUM, NESTEROV),
    "alternating adam": Play("alternating", ADAM, MOMENTUM),
    "joint": Play("joint", PLAIN, PLAIN),
    "joint momentum": Play("joint", NESTEROV, MOMENTUM),
    "joint adam": Play("joint", ADAM, PLAIN),
    "extragradient": Play("extragradient", PLAIN, PLAIN),
    "extragradient momentum": Play("extragradient", NESTEROV, MOMENTUM),
    "extragradient adam": Play("extragradient", ADAM, PLAIN),
}


class Builder:
    """Variables and objectives, each with numbers of its own."""

    def __init__(self, play: Play) -> None:
        self.play, self.count, self.kinds = play, 0, {}

    def variable(self, name: str) -> Any:
        self.count += 1
        return mlopt.Variable(parameter(CPU, 60 + self.count, 3), name)

    def problem(
        self, over: Any, given: list[Any], method: Any = None, optimizer: Any = None
    ) -> Any:
        """An objective in which everything that is read meets everything else."""
        self.count += 1
        k = 0.5 + 0.1 * self.count

        def objective(own, others):
            value = 0.3 * torch.cosh(own).sum() + 0.1 * (own**3).sum()
            for i, x in enumerate(others):
                value = value + (torch.sin(MIX @ x * k) * own).sum() + 0.2 * (own * x**2).sum()
                for y in others[i + 1 :]:
                    value = value + 0.3 * (torch.tanh(x * y) * own**2).sum() + (x * y).sum()
            return value

        return mlopt.problem(
            over=over,
            given=[given],
            hypergrad=method,
            optimizer=(optimizer or self.play.optimizer)(over.parameters()),
            name=f"fit_{over.name}",
        )(objective)

    def player(self, over: Any, given: list[Any], other: bool = False, **options: Any) -> Any:
        options.setdefault("method", self.play.method)
        optimizer = self.play.other if other else self.play.optimizer
        return self.problem(over, given, optimizer=optimizer, **options)

    def lower(self, over: Any, given: list[Any]) -> Any:
        made = self.problem(over, given, OneStep(), PLAIN)
        self.kinds[made] = Steps()
        return made

    def signal(self, name: str, given: list[Any]) -> Any:
        @mlopt.signal(given=[given], name=name)
        def value(xs):
            return sum(torch.sin(MIX @ x) * (1 + x**2) for x in xs) * xs[0]

        return value

    def world(self, entries: list[Any], players: list[Any]) -> World:
        return World(entries, players, self.kinds, entries[-1])


def two(play: Play) -> World:
    b = Builder(play)
    X, Y, A = (b.variable(n) for n in "xya")
    players = [b.player(X, [Y, A]), b.player(Y, [X, A], other=True)]
    return b.world([b.play.game(players, b.kinds), b.problem(A, [X, Y])], players)


def three(play: Play) -> World:
    b = Builder(play)
    X, Y, Z, A = (b.variable(n) for n in "xyza")
    players = [b.player(X, [Y, Z, A]), b.player(Y, [X, A], other=True), b.player(Z, [Y, X, A])]
    return b.world([b.play.game(players, b.kinds), b.problem(A, [X, Z])], players)


def signals(play: Play) -> World:
    """Below the game: of the leader, and of a player; above it: of the players."""
    b = Builder(play)
    X, Y, A = (b.variable(n) for n in "xya")
    target, fake = b.signal("target", [A]), b.signal("fake", [Y, A])
    # each player reads what is made from itself or from the other
    players = [b.player(X, [Y, target, fake]), b.player(Y, [X, fake, A], other=True)]
    seen = b.signal("seen", [X, Y, target])
    game = b.play.game(players, b.kinds)
    return b.world([target, fake, game, seen, b.problem(A, [seen, Y])], players)


def own_lower(play: Play) -> World:
    """The first player steers a problem of its own, which the leader reads as well."""
    b = Builder(play)
    V, X, Y, A = (b.variable(n) for n in "vxya")
    low = b.lower(V, [X, A])
    players = [b.player(X, [V, Y, A]), b.player(Y, [X, A], other=True)]
    return b.world([low, b.play.game(players, b.kinds), b.problem(A, [X, Y, V])], players)


def shared_lower(play: Play) -> World:
    """Both players steer the same lower problem, and each sees it."""
    b = Builder(play)
    V, X, Y, A = (b.variable(n) for n in "vxya")
    low = b.lower(V, [X, Y, A])
    players = [b.player(X, [V, Y]), b.player(Y, [X, V, A], other=True)]
    return b.world([low, b.play.game(players, b.kinds), b.problem(A, [X, Y])], players)


def others_lower(play: Play) -> World:
    """A lower problem that one player steers and only the other one reads."""
    b = Builder(play)
    V, X, Y, A = (b.variable(n) for n in "vxya")
    low = b.lower(V, [Y, A])
    players = [b.player(X, [V, Y, A]), b.player(Y, [X, A], other=True)]
    return b.world([low, b.play.game(players, b.kinds), b.problem(A, [X, Y])], players)


def below_a_game(play: Play) -> World:
    """Two games, one below the other, which steers it."""
    b = Builder(play)
    U, V, X, Y, A = (b.variable(n) for n in "uvxya")
    lower = [b.player(U, [V, X, A]), b.player(V, [U, Y], other=True)]
    upper = [b.player(X, [Y, U, A]), b.player(Y, [X, V, A], other=True)]
    games = [b.play.game(p, b.kinds) for p in (lower, upper)]
    return b.world([*games, b.problem(A, [X, Y, U])], [*lower, *upper])


def middle(play: Play) -> World:
    """A problem between the game, which it steers, and the leader."""
    b = Builder(play)
    X, Y, M, A = (b.variable(n) for n in "xyma")
    players = [b.player(X, [Y, M]), b.player(Y, [X, M, A], other=True)]
    between = b.lower(M, [X, Y, A])
    return b.world([b.play.game(players, b.kinds), between, b.problem(A, [M, Y, X])], players)


def leaders(play: Play) -> World:
    """The leader is a player of a game on top."""
    b = Builder(play)
    X, Y, A, B = (b.variable(n) for n in "xyab")
    players = [b.player(X, [Y, A, B]), b.player(Y, [X, A], other=True)]
    lead = [b.player(A, [B, X, Y]), b.player(B, [A, X], other=True)]
    games = [b.play.game(p, b.kinds) for p in (players, lead)]
    world = b.world(games, players)
    world.top = lead[0]
    return world


def staged_pair(play: Play) -> World:
    """A problem below the game that the game does not steer, and one above it."""
    b = Builder(play)
    V, X, Y, W, A = (b.variable(n) for n in "vxywa")
    low = b.lower(V, [A])
    players = [b.player(X, [V, Y, A]), b.player(Y, [X, V], other=True)]
    upper = b.lower(W, [X, Y, V, A])
    game = b.play.game(players, b.kinds)
    return b.world([low, game, upper, b.problem(A, [W, X])], players)


WORLDS: dict[str, Callable[[Play], World]] = {
    f.__name__: f
    for f in (
        two, three, signals, own_lower, shared_lower, others_lower, below_a_game, middle, leaders,
        staged_pair,
    )
}  # fmt: skip
