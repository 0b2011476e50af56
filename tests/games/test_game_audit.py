"""The audit of graphs with games: right ones pass, and what is wrong in a game is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from audit.audited import DIFFERENCES, right
from compare import exact, rounding
from games.game_graphs import PLAYS, WORLDS
from games.gan import OPTIMIZERS, Gan
from grids import thinned

import mlopt
from mlopt import OneStep
from mlopt._graph.game import Table
from mlopt.games import Alternating, Extragradient

AUDITED = ("simultaneous adam", "alternating momentum", "joint momentum", "extragradient adam")


@pytest.mark.parametrize(("world", "play"), thinned(4, WORLDS, AUDITED, first=1))
def test_right_games_pass(world: str, play: str) -> None:
    report = mlopt.audit(mlopt.Engine(WORLDS[world](PLAYS[play]).entries), directions=2)
    right(report.worst, 10 * DIFFERENCES)  # values of several plays are larger beside their slopes
    assert report.warnings == ()
    assert any(f.kind == "total" and f.edge.startswith("fit_a") for f in report.findings)


@pytest.mark.parametrize("play", ["simultaneous", "alternating", "extragradient"])
def test_networks_with_masks_on_batches(play: str) -> None:
    gan = Gan("adam" if play != "extragradient" else "momentum", leader=True, memory=False)
    plays: dict[str, Any] = {
        "simultaneous": None,
        "alternating": Alternating((gan.critic, 3), (gan.maker, 2)),
        "extragradient": Extragradient(),
    }
    for group in [*gan.od.param_groups, *gan.og.param_groups]:
        group.update({k: 0.05 for k in group if k == "eps"})
    report = mlopt.audit(gan.engine(plays[play]), directions=2)
    right(report.worst, 10 * DIFFERENCES)
    assert report.warnings == ()


def test_float32() -> None:
    made = WORLDS["two"](PLAYS["alternating"])
    for v in (v for p in [*made.players, made.top] for v in p.over):
        v.value.data = v.value.data.float()

    @mlopt.problem(over=made.top.over[0], given=[made.players[0].over[0]])
    def leads(a, x):
        return (a * x.sin()).sum() + (a**2).sum()

    for p in made.players:
        fn = p.fn
        p.fn = lambda own, others, fn=fn: fn(own.double(), [t.double() for t in others]).to(own)
    report = mlopt.audit(mlopt.Engine([made.entries[0], leads]))
    assert report.precision == "float64"
    right(report.worst)
    exact(report.rounding, 0.0, rounding(4 * 50, condition=40, dtype=torch.float32), scale=1.0)


@dataclass(frozen=True)
class Scaled(OneStep):
    """A pullback that is off by a factor."""

    def pullback(self, response: Any, cotangent: Any, wanted: Any) -> Any:
        return {k: 2 * t for k, t in super().pullback(response, cotangent, wanted).items()}


def test_a_wrong_pullback_of_a_player_is_caught() -> None:
    made = WORLDS["two"](PLAYS["simultaneous"])
    made.players[1].hypergrad = Scaled()
    report = mlopt.audit(mlopt.Engine(made.entries))
    wrong = [f.edge for f in report.findings if f.error > 1e-3]
    assert wrong == ["fit_y -> a", "fit_a: a"]


@pytest.mark.parametrize("play", ["alternating", "extragradient"])
def test_a_dropped_term_of_a_play_is_caught(play: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the players read of each other's new values, taken as a constant."""
    made = WORLDS["two"](PLAYS[play])
    engine = mlopt.Engine(made.entries)
    stepped = Table._stepped

    def blind(self: Any, player: Any, at: dict[Any, torch.Tensor]) -> Any:
        return stepped(
            self, player, {k: t if k[0] in player.over else t.detach() for k, t in at.items()}
        )

    right(mlopt.audit(engine).worst)
    monkeypatch.setattr(Table, "_stepped", blind)
    with pytest.raises(mlopt.AuditError, match="fit_a: a"):
        mlopt.audit(engine).check()


@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(o, marks=pytest.mark.slow if o != "adam" else ()) for o in OPTIMIZERS],
)
def test_it_changes_nothing(optimizer: str) -> None:
    gan, other = Gan(optimizer, leader=True), Gan(optimizer, leader=True)
    engine = gan.engine(Alternating((gan.critic, 2), (gan.maker, 1)))
    mlopt.audit(engine, directions=1)
    engine.step()
    other.engine(Alternating((other.critic, 2), (other.maker, 1))).step()
    other.check(gan)
