"""`Game`: several players on one level, none of them below another."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence

import torch

from .._errors import GraphError
from .._tensors import Key, Tensors
from .._variable import Variable
from ..hypergrad import Frozen, StopGradient
from ..hypergrad.interface import AbstractHypergradient, Cost, Response, gradient
from ..optim import State, rule_of
from .group import Group
from .problem import Problem

__all__ = ["AbstractPlay", "Game", "Played", "Table"]


class AbstractPlay(abc.ABC):
    """How the players of a game move in one step, as an immutable object.

    A play that is not `traced` leaves each player to its own method, at the values with which the
    step began. One that is takes the players' steps itself, through their real optimizers: higher
    problems read where these lead, differentiate through all of them, and they are what the step
    commits.
    """

    #: Whether the players' k-th steps belong together, on the same batches.
    joint: bool = False

    @property
    @abc.abstractmethod
    def traced(self) -> bool:
        """Whether the play takes the steps."""

    def check(self, players: Sequence[Problem]) -> None:
        """Raise a `GraphError` if these players cannot play this way.

        Args:
            players: of the game.
        """
        del players

    def run(self, table: Table) -> None:
        """Take all steps; only asked of a play that is traced.

        Args:
            table: where the players stand; its `step` and `ahead` move them.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no steps")


class Game(Group):
    """Players on one level of the list: each minimises its own objective and may read the others.

    A GAN is one, and so are learners that teach one another. It stands in the engine's list where a
    problem would: players read lower nodes as every problem does, but never anticipate each other,
    and a higher problem sees them all where the play has led.

    Args:
        players: the problems; what they read of each other is in their `given`.
        play: `mlopt.games.Simultaneous()`, the default: each player by its own method, all from the
            values where the step began; `Joint(steps)`: several such steps of all;
            `Alternating(...)`: in turns; `Extragradient()`. The latter three differentiate through
            the players' real optimizer steps: a player's `hypergrad` is then left out, or is
            `Frozen()` or `StopGradient(...)` where higher problems are to read it without gradient.

    Raises:
        GraphError: not at least two problems, each once, or players that cannot play this way.

    Examples:
        >>> import torch, mlopt
        >>> X, Y = (mlopt.Variable(torch.nn.Parameter(torch.ones(())), n) for n in "xy")
        >>> def sgd(v):
        ...     return torch.optim.SGD(v.parameters(), lr=0.5)
        >>> @mlopt.problem(over=X, given=[Y], optimizer=sgd(X))
        ... def lower(x, y):
        ...     return x * y
        >>> @mlopt.problem(over=Y, given=[X], optimizer=sgd(Y))
        ... def raiser(y, x):
        ...     return -x * y
        >>> game = mlopt.Game([lower, raiser], play=mlopt.games.Extragradient())
        >>> mlopt.Engine([game]).run(steps=1, progress=False)
        >>> X.value.item(), Y.value.item()
        (0.25, 1.25)
    """

    def __init__(self, players: Sequence[Problem], play: AbstractPlay | None = None) -> None:
        super().__init__(players)
        for player in self.members:
            if not isinstance(player, Problem):
                raise GraphError(f"Game: {player.name} is a signal; list it below the game.")
        if play is not None and not isinstance(play, AbstractPlay):
            raise GraphError(
                f"Game: play= takes an object such as mlopt.games.Extragradient(), got {play!r}."
            )
        self.players: tuple[Problem, ...] = tuple(p for p in self.members if isinstance(p, Problem))
        self.play = play
        if play is not None:
            play.check(self.players)
        self._check_options()

    def _check_options(self) -> None:
        if self.traced:
            self._check_traced()
        else:
            self._check_repeats()

    @property
    def traced(self) -> bool:
        """Whether the play takes the players' steps."""
        return self.play is not None and self.play.traced

    @property
    def over(self) -> tuple[Variable, ...]:
        """The variables of all players."""
        return tuple(v for p in self.players for v in p.over)

    def methods(self) -> dict[Problem, AbstractHypergradient]:
        """What higher problems see of each player, where the play takes the steps."""
        return {
            p: Played(self, not isinstance(p.hypergrad, Frozen), p.hypergrad is None)
            for p in self.players
        }

    def _check_repeats(self) -> None:
        repeated = [p.name for p in self.players if p.repeat > 1]
        if len(repeated) > 1:
            raise GraphError(
                f"Game: {' and '.join(repeated)} have repeat= above 1, so that one would see the "
                "other's first updates and not the reverse. Take turns instead: "
                "play=mlopt.games.Alternating((player, steps), ...)."
            )

    def _check_traced(self) -> None:
        first = self.players[0]
        for p in self.players:
            if p.clip is not None:
                raise GraphError(
                    f"{p.name}: clip={p.clip} acts on updates alone, while {self.play!r} commits "
                    "the very steps that higher problems differentiate. Drop clip=."
                )
            if p.repeat > 1 or (p.start, p.every) != (first.start, first.every):
                raise GraphError(
                    f"Game: {type(self.play).__name__} moves all players in one step, but {p.name} "
                    f"has start={p.start}, every={p.every}, repeat={p.repeat} and {first.name} "
                    f"start={first.start}, every={first.every}. Give them the same start and "
                    "every, and several steps by the play: Alternating((player, steps), ...)."
                )
            if not (p.hypergrad is None or isinstance(p.hypergrad, Frozen | StopGradient)):
                raise GraphError(
                    f"{p.name}: hypergrad={p.hypergrad!r} in a game whose {self.play!r} takes the "
                    "steps and differentiates through them. Leave it out; or Frozen(), or "
                    "StopGradient(...), where higher problems read it without gradient."
                )


class Played(AbstractHypergradient):
    """A player's solution, given by the play of its whole game.

    Args:
        game: the game.
        moves: whether higher problems read it.
        responds: whether they differentiate through it.
    """

    traced = True
    learns = True

    def __init__(self, game: Game, moves: bool, responds: bool) -> None:
        self.game, self._moves, self._responds = game, moves, responds

    @property
    def moves(self) -> bool:
        return self._moves

    @property
    def responds(self) -> bool:
        return self._responds

    @property
    def cost(self) -> Cost:
        return Cost()

    def check(self, name: str, optimizer: object) -> None:
        if optimizer is None:
            raise GraphError(
                f"{name}: {self.game.play!r} makes steps of the players' optimizers, and it has "
                "none. Give it one."
            )
        rule_of(optimizer, name)

    def solution(self, response: Response) -> Tensors:
        raise NotImplementedError("the players of a game move together")

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        raise NotImplementedError("the players of a game move together")

    def __repr__(self) -> str:
        return repr(self.game.play)


class Table:
    """Where the players of a game stand while they move; under grad mode, with the graph.

    Attributes:
        players: in the order of the game.
        values: of all players' variables, by key.
        states: of their optimizers.

    Args:
        responses: each player at this point; `objective` takes the values of all players.
        moved: called with each player that has taken a step.
    """

    def __init__(
        self, responses: Mapping[Problem, Response], moved: Callable[[Problem], None]
    ) -> None:
        self.players = tuple(responses)
        self.values: Tensors = {}
        self.states: dict[Problem, State] = {}
        self._responses, self._moved = responses, moved
        self._taken = dict.fromkeys(responses, 0)
        for player, response in responses.items():
            self.values.update(response.value)
            rule = rule_of(response.optimizer, response.name)
            self.states[player] = rule.begin(response.optimizer, response.parameters)

    def ahead(self, *players: Problem) -> Tensors:
        """Where all would stand after the next step of some; nobody moves.

        Args:
            players: who would take it, all from where they stand now.

        Returns:
            The values of all players.
        """
        values = dict(self.values)
        for player in players:
            values.update(self._stepped(player, self.values)[0])
        return values

    def step(self, *players: Problem, at: Tensors | None = None) -> None:
        """Move players together from where they stand, by their gradients there or elsewhere.

        Args:
            players: who moves.
            at: the values of all players at which the gradients are taken.
        """
        taken = {p: self._stepped(p, at or self.values) for p in players}
        for player, (value, state) in taken.items():
            self.values = {**self.values, **value}
            self.states[player] = state
            self._taken[player] += 1
            self._moved(player)

    def _stepped(self, player: Problem, at: Tensors) -> tuple[Tensors, State]:
        response = self._responses[player]
        graph = torch.is_grad_enabled()
        if not graph:
            at = {k: t.detach() for k, t in at.items()}
        with torch.enable_grad():
            # The player's own tensors are aliases: what the others read is not differentiated by.
            own = {
                k: at[k].view_as(at[k]) if graph and at[k].requires_grad
                else at[k].detach().requires_grad_()
                for k in response.value
            }  # fmt: skip
            loss = response.objective({**at, **own}, self._taken[player])
            found = gradient(loss, own, response.name, create_graph=graph)
        value = {k: self.values[k] for k in response.value}
        rule, state = rule_of(response.optimizer, response.name), self.states[player]
        numbers = response.numbers_at()
        return rule.step(response.optimizer, response.parameters, value, found, state, numbers)
