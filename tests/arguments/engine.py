"""Right calls of graphs, schedules and engines."""

from __future__ import annotations

from typing import Any

import torch
from arguments.core import engine, levels, sgd, variable
from arguments.example import Example, folder, of
from torch import nn

import mlopt

__all__ = ["EXAMPLES"]


def square(w: Any) -> Any:
    return (w**2).sum()


def over_one() -> dict[str, Any]:
    w = variable()
    return {"fn": square, "over": w, "optimizer": torch.optim.SGD(w.parameters(), 0.1)}


def declared(**options: Any) -> Any:
    """`problem` and `signal` make a decorator: what they are given shows at the function."""
    return mlopt.problem(**options)(square)


def signalled(**options: Any) -> Any:
    return mlopt.signal(**options)(square)


def best() -> Any:
    return mlopt.BestCheckpoint(folder(), "loss")


def kept() -> Any:
    made = best()
    made._due = True
    made._save(STANDING)
    return made


STANDING = engine()  # for what changes nothing
OVER = {"over": (None, 3, "w", [], nn.Linear(1, 1), [3])}
GIVEN = {"given": (None, 3, variable(), [3], [None])}
NO_LOADER = {"data": (3,)}
NO_SCHEDULER = {"scheduler": (3, "cosine", torch.optim.lr_scheduler.ExponentialLR(sgd(), 0.9))}

EXAMPLES: dict[str, Example] = {
    "mlopt.Engine": of(
        lambda: {"problems": levels(), "hypergrad": mlopt.OneStep()},
        wrong={"ranks": (3, "gloo", object()), "places": (3, "cuda:0", [0], {}, {"w": 0})},
        seed="-1, 0",
        skip_nonfinite="0",
    ),
    "mlopt.Engine.hypergradient": of(
        lambda: {"problem": STANDING.graph.problems[-1]}, on=lambda: STANDING
    ),
    "mlopt.Engine.seed_of": of(
        lambda: {"node": STANDING.graph.problems[-1]},
        on=lambda: STANDING,
        inner="0",
        step="0",
        part="0",
    ),
    "mlopt.Engine.plan": of(on=engine),
    "mlopt.Engine.run": of(
        lambda: {"steps": 1, "progress": False, "resume": folder()},
        on=engine,
        wrong={"override": (["loss"], [3])},
        epoch="anything",
        steps="0",
        resume="empty, unknown",
        override="empty",
    ),
    "mlopt.Engine.state_dict": of(on=engine),
    "mlopt.Engine.load_state_dict": of(
        lambda: {"state": STANDING.state_dict()}, on=engine, wrong={"state": (3, {}, {"format": 1})}
    ),
    "mlopt.verify_resume": of(
        lambda: {"make_engine": engine, "steps": 1, "at": 0},
        at="0",
        wrong={"make_engine": (3, int)},
    ),
    "mlopt.Checkpoint": of(lambda: {"folder": folder()}, folder="empty, unknown"),
    "mlopt.Checkpoint.save": of(
        lambda: {"engine": STANDING}, on=lambda: mlopt.Checkpoint(folder()), wrong={"engine": (3,)}
    ),
    "mlopt.BestCheckpoint": of(
        lambda: {"folder": folder(), "metric": "loss"},
        folder="empty, unknown",
        metric="empty, unknown",
    ),
    "mlopt.BestCheckpoint.restore": of(
        lambda: {"engine": STANDING}, on=kept, wrong={"engine": (3,)}
    ),
    "mlopt.EarlyStopping": of(
        lambda: {"metric": "loss", "patience": 1}, metric="empty, unknown", min_delta="0"
    ),
    "mlopt.Validation": of(
        lambda: {"function": dict, "steps": 1}, wrong={"function": (lambda engine: {},)}
    ),
    "mlopt.Engine.step": of(on=engine),
    "mlopt.Engine.stop": of(on=engine),
    "mlopt.Alternate": of(
        lambda: {"turns": ((levels()[0], 1),)},
        wrong={"turns": ((3,), ((levels()[0], 0),), ((levels()[0], 1.5),), ((3, 1),))},
    ),
    "mlopt.Loops": of(
        lambda: {"levels": ((levels()[0], 1),)},
        wrong={"levels": ((3,), ((levels()[0], 0),), ((levels()[0], 1.5),), ((3, 1),))},
    ),
    "mlopt.Until": of(lambda: {"tol": 1e-6}),
    "mlopt.Sequential": of(),
    "mlopt.Simultaneous": of(),
    "mlopt.UpperFirst": of(),
    "mlopt.Game": of(lambda: {"players": levels()}),
    "mlopt.Game.methods": of(on=lambda: mlopt.Game(levels())),
    "mlopt.Graph": of(lambda: {"entries": levels(), "default": mlopt.OneStep()}),
    "mlopt.Graph.mermaid": of(on=lambda: mlopt.Graph(levels(), mlopt.OneStep())),
    "mlopt.Stack": of(lambda: {"members": [levels()[0], levels()[0]]}),
    "mlopt.Stream": of(lambda: {"loader": [1]}),
    "mlopt.Stream.of": of(lambda: {"loader": [1]}, wrong={"loader": (None, 3)}),
    "mlopt.PerStep": of(
        lambda: {"scheduler": torch.optim.lr_scheduler.ExponentialLR(sgd(), 0.9)},
        wrong={"scheduler": (None, 3, "cosine")},
    ),
    "mlopt.Problem": of(
        over_one,
        given="empty",
        name="unknown",
        clip="inf",
        start="0",
        wrong={**OVER, **GIVEN, **NO_LOADER, **NO_SCHEDULER},
    ),
    "mlopt.Problem.__call__": of(
        lambda: {"args": (torch.ones(1),)},
        on=lambda: declared(over=variable()),
        args="anything",
        kwargs="anything",
    ),
    "mlopt.problem": of(
        lambda: {k: v for k, v in over_one().items() if k != "fn"},
        on=lambda: declared,
        given="empty",
        name="unknown",
        clip="inf",
        start="0",
        wrong={**OVER, **GIVEN, **NO_LOADER, **NO_SCHEDULER},
    ),
    "mlopt.Signal": of(
        lambda: {"fn": square, "given": [variable()]},
        wrong=GIVEN | NO_LOADER,
        name="unknown",
    ),
    "mlopt.signal": of(
        lambda: {"given": [variable()]},
        on=lambda: signalled,
        wrong=GIVEN | NO_LOADER,
        name="unknown",
    ),
}
