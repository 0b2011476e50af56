"""One ridge penalty per feature, learned on validation data.

    min over r  L_val(w*(r))    where    w*(r) = argmin over w  L_tr(w) + softplus(r) . w^2 / 2

Of 20 features 5 matter, and there are hardly more training rows than features. A single penalty
must shrink all weights alike; twenty of them, learned by their hypergradient, can drop the features
that only carry noise. Needs nothing but mlopt:

    python examples/hpo_ridge.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus
from torch.optim import SGD, Adam

import mlopt
from support.pipeline import parsed, program, saved

FEATURES, RELEVANT, ROWS = 20, 5, 25


def make_data(seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows of a noisy linear model of which 5 of 20 features are part: train, valid and test."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.zeros(FEATURES)
    truth[:RELEVANT] = torch.randn(RELEVANT, generator=generator) + 2.0

    def draw(rows: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(rows, FEATURES, generator=generator)
        return x, x @ truth + torch.randn(rows, generator=generator)

    return {"train": draw(ROWS), "valid": draw(200), "test": draw(2000)}


def make_engine(data: dict[str, tuple[Tensor, Tensor]] | None = None) -> mlopt.Engine:
    """The two levels: variables "w" and "r"."""
    data = data or make_data()
    W = mlopt.Variable(nn.Parameter(torch.zeros(FEATURES)), "w")
    R = mlopt.Variable(nn.Parameter(torch.full((FEATURES,), -2.0)), "r")

    @mlopt.problem(over=W, given=[R], data=[data["train"]], optimizer=SGD(W.parameters(), lr=0.1))
    def ridge(w, r, batch):
        x, y = batch
        return mse_loss(x @ w, y) + 0.5 * (softplus(r) * w**2).sum()

    @mlopt.problem(over=R, given=[W], data=[data["valid"]], optimizer=Adam(R.parameters(), lr=0.1))
    def validation(r, w, batch):
        x, y = batch
        return mse_loss(x @ w, y)

    return mlopt.Engine(
        [ridge, validation],
        hypergrad=mlopt.Implicit(mlopt.CG(max_steps=20)),
        schedule=mlopt.Alternate((ridge, 20), (validation, 1)),
    )


def learn_penalties(
    data: dict[str, tuple[Tensor, Tensor]], steps: int = 150
) -> tuple[Tensor, Tensor]:
    """The penalties and the weights that they lead to."""
    engine = make_engine(data)
    W, R = (problem.over[0] for problem in engine.graph.problems)
    print(engine.graph, engine.plan(), sep="\n\n", end="\n\n")
    engine.run(steps=steps, **saved())
    return softplus(R.tensor.detach()), W.tensor.detach()


def best_single_penalty(data: dict[str, tuple[Tensor, Tensor]]) -> tuple[float, Tensor]:
    """The one penalty for all features that is best on the validation rows, by a grid."""
    x, y = data["train"]
    best, weights = min(
        (
            (
                penalty,
                torch.linalg.solve(
                    2 * x.T @ x / len(x) + penalty * torch.eye(FEATURES), 2 * x.T @ y / len(x)
                ),
            )
            for penalty in torch.logspace(-3, 2, 60).tolist()
        ),
        key=lambda found: error(data["valid"], found[1]),
    )
    return best, weights


def error(rows: tuple[Tensor, Tensor], weights: Tensor) -> float:
    """Mean squared error."""
    return mse_loss(rows[0] @ weights, rows[1]).item()


def main() -> None:
    parsed(
        argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        ),
        make_engine,
    )
    data = make_data()
    penalties, weights = learn_penalties(data)
    single, single_weights = best_single_penalty(data)
    print(
        "penalties of the relevant features:",
        [round(p, 3) for p in penalties[:RELEVANT].tolist()],
    )
    print(f"mean penalty of the others:         {penalties[RELEVANT:].mean():.3f}")
    print(f"test error, one penalty each:       {error(data['test'], weights):.3f}")
    print(f"test error, one for all ({single:.3f}):    {error(data['test'], single_weights):.3f}")


if __name__ == "__main__":
    program(main)
