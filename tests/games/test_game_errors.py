"""What a game refuses, before any work, with a message that says what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import F64
from torch import nn

import mlopt
from mlopt import Frozen, Game, GraphError, Implicit, OneStep, StopGradient, Unrolled
from mlopt.games import Alternating, Extragradient, Joint, Simultaneous


def pair(*more: str, **options: Any) -> list[Any]:
    """Two or more problems that read each other in a ring."""
    names = ["x", "y", *more]
    V = [mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), n) for n in names]

    def one(i: int) -> Any:
        given = [V[(i + 1) % len(V)]]
        chosen = {"optimizer": torch.optim.SGD(V[i].parameters(), lr=0.1), **options}
        return mlopt.problem(over=V[i], given=given, name=f"p{names[i]}", **chosen)(
            lambda own, other: (own * other).sum() + (own**2).sum()
        )

    return [one(i) for i in range(len(V))]


@mlopt.signal(given=[mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "s")])
def value(s):
    return s


def test_what_is_no_player() -> None:
    x, y = pair()
    with pytest.raises(GraphError, match="Game: value is a signal; list it below the game"):
        Game([x, y, value])  # type: ignore[list-item]
    with pytest.raises(GraphError, match=r"Game.*holds a function.*not decorated"):
        Game([x, y, lambda: 0])  # type: ignore[list-item]
    with pytest.raises(GraphError, match="Game: it takes a list of at least 2; list one alone"):
        Game([x])
    with pytest.raises(GraphError, match="Game: px is listed twice"):
        Game([x, y, x])


def test_a_player_of_two_games_or_outside_of_its_own() -> None:
    x, y, z = pair("z")
    with pytest.raises(GraphError, match="py is listed twice"):
        mlopt.Engine([Game([x, y]), Game([y, z])])
    with pytest.raises(GraphError, match="px is listed twice"):
        mlopt.Engine([Game([x, y]), x, z])
    with pytest.raises(GraphError, match="px is listed twice"):
        mlopt.Engine([x, Game([x, y]), z])


def test_a_play_that_is_none() -> None:
    with pytest.raises(GraphError, match=r"play= takes an object such as.*Extragradient\(\), got"):
        Game(pair(), play="extragradient")  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"play= takes an object.*got <class"):
        Game(pair(), play=Simultaneous)  # type: ignore[arg-type]


def test_turns() -> None:
    x, y, z = pair("z")
    with pytest.raises(GraphError, match="Alternating: py is in the game and has no turn"):
        Game([x, y], Alternating((x, 1)))
    with pytest.raises(GraphError, match="Alternating: pz has a turn and is not in the game"):
        Game([x, y], Alternating((x, 1), (y, 1), (z, 1)))
    with pytest.raises(GraphError, match="px is in the game and has no turn"):
        Game([x, y], Alternating())
    bad: list[Any] = [(x, 0), (x, -1), (x, True), (x, 1.0), (x,), x, ("px", 1), (x, 1, 1), [x, 1]]
    for turn in bad:
        with pytest.raises(GraphError, match=r"is not a pair \(player, steps > 0\)"):
            Alternating(turn)


def test_joint_steps() -> None:
    for steps in (0, -1, True, 1.0, "2"):
        with pytest.raises(GraphError, match=r"Joint\(steps=.*whole number, at least 1"):
            Joint(steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "play",
    [lambda x, y: Alternating((x, 2), (y, 1)), lambda x, y: Extragradient(), lambda x, y: Joint(2)],
)
def test_players_whose_steps_the_play_cannot_take(play: Any) -> None:
    for method in (Implicit(), OneStep(), Unrolled(2), mlopt.Sama()):
        x, y = pair()
        y.hypergrad = method
        with pytest.raises(GraphError, match=rf"py: hypergrad={type(method).__name__}.*Leave it"):
            Game([x, y], play(x, y))
    for method in (Frozen(), StopGradient(OneStep()), None):
        x, y = pair(hypergrad=method)
        mlopt.Engine([Game([x, y], play(x, y))])
    x, y = pair(clip=1.0)
    with pytest.raises(GraphError, match=r"px: clip=1\.0 acts on updates alone.*Drop clip="):
        Game([x, y], play(x, y))
    x, y = pair(optimizer=None)
    with pytest.raises(GraphError, match=r"px: .* makes steps of the players' optimizers.*none"):
        mlopt.Engine([Game([x, y], play(x, y))])
    for option, value in (("start", 1), ("every", 2), ("repeat", 2)):
        x, y = pair()
        setattr(y, option, value)
        with pytest.raises(
            GraphError, match=rf"moves all players in one step.*py.*{option}={value}"
        ):
            Game([x, y], play(x, y))

    class Own(torch.optim.SGD):
        pass

    x, y = pair()
    y.optimizer = Own(y.over[0].parameters(), lr=0.1)
    with pytest.raises(GraphError, match="Own"):
        mlopt.Engine([Game([x, y], play(x, y))])


@pytest.mark.parametrize("play", [None, Simultaneous()])
def test_a_player_of_several_steps_among_those_of_one(play: Any) -> None:
    for method in (Unrolled(2), StopGradient(Unrolled(2))):
        x, y = pair()
        y.hypergrad = method
        with pytest.raises(
            GraphError, match=r"py: .*Unrolled.*several steps.*with px.*Alternating"
        ):
            mlopt.Engine([Game([x, y], play)])


def test_lbfgs() -> None:
    v = mlopt.Variable(nn.Parameter(torch.ones(2)), "v")
    with pytest.raises(GraphError, match="LBFGS evaluates its objective itself"):
        mlopt.problem(over=v, optimizer=torch.optim.LBFGS(v.parameters()))(lambda v: v.sum())


def test_several_repeats_in_a_simultaneous_game() -> None:
    with pytest.raises(GraphError, match=r"px and py have repeat= above 1.*Alternating"):
        Game(pair(repeat=2))
    x, y = pair()
    x.repeat = 3
    Game([x, y])


def test_a_leader_needs_a_method_for_simultaneous_players_alone() -> None:
    """Where the play takes the steps it is the method; else the choice is the user's."""

    def world(play: Any) -> list[Any]:
        X, Y, A = (mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), n) for n in "xya")

        def player(over: Any, other: Any) -> Any:
            return mlopt.problem(
                over=over, given=[other, A], name=f"p{over.name}",
                optimizer=torch.optim.SGD(over.parameters(), lr=0.1),
            )(lambda own, other, a: (own * other * a).sum() + (own**2).sum())  # fmt: skip

        x, y = player(X, Y), player(Y, X)
        top = mlopt.problem(over=A, given=[X, Y], name="top")(lambda a, x, y: (a * x * y).sum())
        return [Game([x, y], play), top]

    with pytest.raises(GraphError, match=r"top reads x.*solution of px.*hypergrad=OneStep"):
        mlopt.Engine(world(None))
    mlopt.Engine(world(None), hypergrad=OneStep())
    mlopt.Engine(world(Extragradient()))


def test_two_problems_that_read_each_other_by_accident() -> None:
    """Listed one below the other and without a method, they name each other and the choices."""
    x, y = pair()
    with pytest.raises(GraphError) as error:
        mlopt.Engine([x, y])
    message = str(error.value)
    for part in ("py reads x", "the solution of px", "depends on y", "OneStep", "Frozen()"):
        assert part in message
    mlopt.Engine([Game([x, y])])


def test_the_message_of_a_mutual_read_names_a_game() -> None:
    with pytest.raises(GraphError, match=r"Game\(\["):
        mlopt.Engine(pair())
