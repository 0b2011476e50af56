"""LFM-CW's GAN as a game: the same bits as the list with a frozen discriminator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lfm_cw_case import lfm_cw
from small import assert_same, state_of

import lfm_cw_darts
import mlopt
from mlopt import Game, OneStep
from support import settings
from support.data import load_data, search_loaders


def as_game(nodes: Any) -> list[Any]:
    """The list with discriminator and generator in a game."""
    names = [n.name.removeprefix("own_") for n in nodes]
    at = names.index("discriminator")
    assert names[at + 1] == "generator"
    return [*nodes[:at], Game(nodes[at : at + 2]), *nodes[at + 2 :]]


def same(list_: mlopt.Engine, game: mlopt.Engine, upper: str, steps: int) -> None:
    problem_of = {p.name: p for p in list_.graph.problems}
    player_of = {p.name: p for p in game.graph.problems}
    assert any(p in game.graph.games for p in game.graph.problems)
    for _ in range(steps):
        (one,) = list_.hypergradient(problem_of[upper]).values()
        (two,) = game.hypergradient(player_of[upper]).values()
        assert any(t.abs().max() > 0 for t in one.values())
        assert_same(one, two)
        assert_same(list_.step(), game.step())
        assert_same(state_of(list_), state_of(game))
    assert game.plan().evaluations == list_.plan().evaluations
    assert game.plan().backwards == list_.plan().backwards


@pytest.mark.parametrize("method", [OneStep(), OneStep(lr=0.1, product=mlopt.Central())])
def test_smooth_networks(method: Any) -> None:
    def case() -> Any:
        return lfm_cw(
            torch.device("cpu"), lambda: method, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)
        )

    list_, game = mlopt.Engine(case().nodes), mlopt.Engine(as_game(case().nodes))
    same(list_, game, "stage3", 3)


@pytest.mark.parametrize("discriminator", ["shared", pytest.param("own", marks=pytest.mark.slow)])
def test_the_example(discriminator: str, tmp_path: Path) -> None:
    s = settings.parse(
        None,
        [
            "--channels", "2", "--nodes", "1", "--cells", "1", "--epochs", "1",
            "--generator-epochs", "0", "--generator-width", "4", "--noise", "4", "--batch-size",
            "16", "--train-images", "64", "--discriminator", discriminator, "--run-folder",
            str(tmp_path / "run"),
        ],
    )  # fmt: skip
    data = load_data(s)

    def engine() -> mlopt.Engine:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loaders = search_loaders(data, s, plain=True)
            return lfm_cw_darts.scheme(data, *loaders, s).engine

    list_, other = engine(), engine()
    options = {"hypergrad": other.graph.default, "seed": other.seed}
    game = mlopt.Engine(as_game(other.graph.nodes), **options)
    same(list_, game, "stage3", 2)
