"""Games: what their players commit, against torch's own loops; what a leader sees through them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from games.game_graphs import PLAIN, PLAYS, WORLDS, Play
from games.game_oracle import Played
from nested_oracle import Fixed, Stopped
from oracles import assert_close, assert_same_gradients
from small import F64, batches, seeded
from torch import Tensor, nn
from torch.nn.functional import softplus

import mlopt
from mlopt import Central, Frozen, Game, OneSided, OneStep, StopGradient
from mlopt.games import Alternating, Extragradient, Simultaneous

# What a leader sees.


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("world", WORLDS)
def test_the_gradient_of_every_problem(world: str, play: str) -> None:
    """The leader's through the game, the players' own, those of what is below and between."""
    made = WORLDS[world](PLAYS[play])
    engine = mlopt.Engine(made.entries)
    oracle = Played(made.entries, made.kinds)
    for problem in engine.graph.problems:
        found, expected = engine.hypergradient(problem), oracle.hypergradient(problem)
        assert_same_gradients(found, expected, 1e-9, problem.name)


def leader_alone(world: str, play: str, change: Callable[[Any, dict], None]) -> tuple[Any, Any]:
    """The leader's gradient, as found and as expected, after a change of methods and kinds."""
    made = WORLDS[world](PLAYS[play])
    for i, player in enumerate(made.players):
        change((i, player), made.kinds)
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    (found,) = engine.hypergradient(made.top).values()
    (expected,) = oracle.hypergradient(made.top).values()
    return found[""], expected[""]


@pytest.mark.parametrize("play", ["simultaneous", "alternating momentum", "extragradient adam"])
@pytest.mark.parametrize("world", ["two", "three", "own_lower", "shared_lower"])
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
    assert_close(direct, expected_direct, 1e-9)
    whole, expected_whole = leader_alone(world, play, lambda at, kinds: None)
    shares = []
    for j in range(count):
        found, expected = leader_alone(world, play, only(j))
        shares.append(found - direct)
        assert_close(shares[-1], expected - expected_direct, 1e-9, f"player {j}")
    sizes = [s.norm().item() for s in shares]
    assert sum(size > 1e-4 * whole.norm() for size in sizes) >= 2
    assert_close(sum(shares), whole - direct, 1e-9)
    assert_close(whole, expected_whole, 1e-9)


@pytest.mark.parametrize("play", ["simultaneous nesterov", "alternating", "extragradient"])
@pytest.mark.parametrize("world", ["two", "signals", "own_lower", "middle"])
def test_a_frozen_player_is_read_as_it_stands(world: str, play: str) -> None:
    made = WORLDS[world](PLAYS[play])
    frozen = made.players[1]
    frozen.hypergrad = Frozen()
    made.kinds[frozen] = Fixed()
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    found, expected = engine.hypergradient(made.top), oracle.hypergradient(made.top)
    assert_same_gradients(found, expected, 1e-9)


@pytest.mark.parametrize(("product", "tolerance"), [(Central(1e-3), 1e-4), (OneSided(1e-5), 1e-3)])
@pytest.mark.parametrize("world", ["two", "three", "own_lower", "leaders", "middle"])
def test_players_by_differences(world: str, product: Any, tolerance: float) -> None:
    play = Play("simultaneous", PLAIN, PLAIN, OneStep(product=product))
    made = WORLDS[world](play)
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    found, expected = engine.hypergradient(made.top), oracle.hypergradient(made.top)
    assert_same_gradients(found, expected, tolerance)


def test_a_method_for_each_player() -> None:
    """Exact products, differences and Sama meet in one game: for plain SGD all are one step."""
    play = Play("simultaneous", PLAIN, PLAIN, OneStep())
    made = WORLDS["three"](play)
    methods = [OneStep(), mlopt.Sama(mlopt.Exact()), OneStep(product=Central(1e-4))]
    for player, method in zip(made.players, methods, strict=True):
        player.hypergrad = method
    engine, oracle = mlopt.Engine(made.entries), Played(made.entries, made.kinds)
    assert_same_gradients(engine.hypergradient(made.top), oracle.hypergradient(made.top), 1e-5)


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
    assert_close(found, expected, 1e-12)


# What the players commit.


class Remembers(nn.Module):
    """A running mean that enters the output: it matters which one an evaluation finds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        out = x * (1 + self.mean)
        self.mean.mul_(0.7).add_(0.3 * x.detach().mean() + 0.1)
        return out


def net(seed: int, inputs: int, outputs: int, memory: bool) -> nn.Module:
    return seeded(
        seed,
        lambda: nn.Sequential(
            nn.Linear(inputs, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.2),
            Remembers() if memory else nn.Identity(), nn.Linear(4, outputs),
        ),
    )  # fmt: skip


OPTIMIZERS: dict[str, Callable[[list[Tensor]], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.05),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.05),
}
DATA = batches(40, seed=5)


class Gan:
    """A discriminator and a generator, for an engine or for a loop by hand."""

    def __init__(self, optimizer: str, leader: bool = False, memory: bool = True) -> None:
        self.d, self.g = net(1, 3, 1, memory), net(2, 3, 3, memory)
        self.a = nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64))
        self.D, self.G = mlopt.Variable(self.d, "d"), mlopt.Variable(self.g, "g")
        self.A = mlopt.Variable(self.a, "a")
        data = list(DATA)  # a stream of its own
        self.od = OPTIMIZERS[optimizer](list(self.d.parameters()))
        self.og = OPTIMIZERS["momentum"](list(self.g.parameters()))
        self.oa = torch.optim.SGD([self.a], lr=0.1)
        method = OneStep() if leader else None
        given = [self.A] if leader else []
        fake = (lambda x, a: x * a.exp()) if leader else (lambda x: x)

        @mlopt.problem(over=self.D, given=[self.G, *given], data=data, optimizer=self.od,
                       hypergrad=method)  # fmt: skip
        def critic(d, g, *rest):
            *a, (x, y) = rest
            return softplus(-d(x) * y).mean() + softplus(d(g(fake(x, *a)))).mean()

        @mlopt.problem(over=self.G, given=[self.D, *given], data=data, optimizer=self.og,
                       hypergrad=method)  # fmt: skip
        def maker(g, d, *rest):
            *a, (x, _) = rest
            return softplus(-d(g(fake(x, *a)))).mean() + 0.1 * g(x).square().mean()

        @mlopt.problem(over=self.A, given=[self.G, self.D], optimizer=self.oa)
        def leads(a, g, d):
            x, _ = DATA[-1]
            return d(g(x)).mean() + a.square().sum()

        self.critic, self.maker, self.leads = critic, maker, leads
        self.top = [leads] if leader else []

    def engine(self, play: Any, **options: Any) -> mlopt.Engine:
        for p in (self.critic, self.maker):
            if play is not None and play.traced:
                p.hypergrad = None
        return mlopt.Engine([Game([self.critic, self.maker], play), *self.top], **options)

    # By hand.

    def gradient(self, who: Any, batch: Any, seed: int) -> tuple[list[Tensor], dict[str, Tensor]]:
        """A player's partial gradient and the buffers that it has written; nothing changes."""
        own, other = (self.d, self.g) if who is self.critic else (self.g, self.d)
        before = [{k: b.clone() for k, b in m.named_buffers()} for m in (own, other)]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            a = [self.a] if self.top else []
            loss = who.fn(own, other, *a, batch)
        grads = torch.autograd.grad(loss, list(own.parameters()))
        written = {k: b.clone() for k, b in own.named_buffers()}
        for m, kept in zip((own, other), before, strict=True):
            self.put(m, kept)
        return list(grads), written

    @staticmethod
    def put(module: nn.Module, buffers: dict[str, Tensor]) -> None:
        for name, b in module.named_buffers():
            b.copy_(buffers[name])

    def move(self, who: Any, grads: list[Tensor], written: dict[str, Tensor] | None) -> None:
        module, optimizer = (self.d, self.od) if who is self.critic else (self.g, self.og)
        for p, g in zip(module.parameters(), grads, strict=True):
            p.grad = g
        optimizer.step()
        if written is not None:
            self.put(module, written)

    def check(self, other: Gan) -> None:
        for mine, theirs in ((self.d, other.d), (self.g, other.g)):
            for (name, x), y in zip(
                mine.state_dict().items(), theirs.state_dict().values(), strict=True
            ):
                assert_close(y.double(), x.double(), 1e-12, name)
        for mine, theirs in ((self.od, other.od), (self.og, other.og)):
            x, y = mine.state_dict()["state"], theirs.state_dict()["state"]
            assert x.keys() == y.keys()
            for key, held in x.items():
                assert held.keys() == y[key].keys()
                for name, t in held.items():
                    if isinstance(t, Tensor):
                        assert_close(y[key][name].double(), t.double(), 1e-12, name)
                    else:
                        assert t == y[key][name]


@pytest.mark.parametrize("leader", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("play", [None, Simultaneous()])
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
            assert_close(gan.a.detach(), hand.a.detach(), 1e-12)


@pytest.mark.parametrize(
    ("optimizer", "leader"),
    [("sgd", True), ("momentum", False), ("nesterov", True), ("adam", False), ("adam", True)],
)
@pytest.mark.parametrize("turns", [(1, 1), (2, 1), (5, 1), (2, 3), (1, 2, 2)])
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
        assert_close(p.detach(), q.detach() - 0.1 * g * 0.01 / (length + 1e-6), 1e-12)


@pytest.mark.parametrize("play", ["alternating", "extragradient"])
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
            assert_close(x.detach(), y.detach(), 1e-12, world)


# The bilinear game x y, whose solution is 0.


@pytest.mark.parametrize(
    ("play", "factor"),
    [
        (None, lambda h: 1 + h**2),  # |z'|^2 / |z|^2
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
        assert after / before == pytest.approx(factor(lr), rel=1e-12)
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
        assert x**2 + y**2 - h * x * y == pytest.approx(2 - h, rel=1e-12)
