"""Penalties of a logistic regression, one for all features or one for each.

    min over r  L_val(w*(r))    where    w*(r) = argmin over w  L_tr(w) + exp(r) . w^2 / 2

The breast-cancer data (569 rows, 30 features, two classes; it comes with scikit-learn), 60 rows of
them to train on. One penalty for all can be found by a grid as well, and the two must agree; a grid
over thirty penalties is out of reach. The lower problem is convex: a few dozen momentum steps bring
it close to its optimum, and `Implicit` differentiates the optimum itself.

    python examples/gallery/logistic_hpo.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import SGD, Adam

import mlopt
from bounded import count, seed
from mlopt.report import format_table
from resumable import parsed, program, saved

Rows = tuple[Tensor, Tensor]


def make_data(seed: int = 0, train: int = 60, valid: int = 300) -> dict[str, Rows]:
    """Standardised features and labels 0 or 1: train, valid, and the rest as test."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    x, y = torch.from_numpy(features), torch.from_numpy(labels).double()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    x = (x - x[:train].mean(0)) / x[:train].std(0)
    ends = {"train": (0, train), "valid": (train, train + valid), "test": (train + valid, len(x))}
    return {part: (x[a:b], y[a:b]) for part, (a, b) in ends.items()}


def loss(model: nn.Module, rows: Rows) -> Tensor:
    """The mean cross-entropy."""
    x, y = rows
    return binary_cross_entropy_with_logits(model(x).squeeze(-1), y)


def penalised(model: nn.Linear, r: Tensor, rows: Rows) -> Tensor:
    return loss(model, rows) + (r.exp() * model.weight[0] ** 2).sum() / 2


def build(data: dict[str, Rows], r: Tensor, rounds: int = 60) -> tuple[mlopt.Engine, nn.Linear]:
    """The two levels; r has one number for all features or one for each, and changes in place."""
    model = _zeros(data)
    W, R = mlopt.Variable(model, "w"), mlopt.Variable(nn.Parameter(r), "r")

    @mlopt.problem(
        over=W,
        given=[R],
        data=[data["train"]],
        optimizer=SGD(W.parameters(), lr=0.5, momentum=0.9),
        hypergrad=mlopt.Implicit(mlopt.CG(max_steps=40, tol=1e-8)),
    )
    def fit(w, r, batch):
        return penalised(w, r, batch)

    @mlopt.problem(over=R, given=[W], data=[data["valid"]], optimizer=Adam(R.parameters(), lr=0.1))
    def validation(r, w, batch):
        return loss(w, batch)

    schedule = mlopt.Alternate((fit, rounds), (validation, 1))
    return mlopt.Engine([fit, validation], schedule=schedule), model


def learn(data: dict[str, Rows], r: Tensor, steps: int) -> tuple[Tensor, nn.Linear]:
    """The log-penalties where the hypergradient has led, and the model solved for them."""
    engine, model = build(data, r)
    engine.run(steps=steps, progress=False, **saved())
    return r, solve(data["train"], r, model)


def solve(rows: Rows, r: Tensor, model: nn.Linear) -> nn.Linear:
    """The model at the optimum of these penalties, by Newton's method; the grid uses it too."""
    x, y = torch.cat([rows[0], torch.ones(len(rows[0]), 1).double()], 1), rows[1]
    penalty = torch.zeros(x.shape[1]).double()
    penalty[:-1] = r.detach().exp()

    def objective(w: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(x @ w, y) + (penalty * w**2).sum() / 2

    w = torch.cat([model.weight[0], model.bias]).detach()
    for _ in range(50):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (p - y) / len(y) + penalty * w
        hessian = x.T @ ((p * (1 - p))[:, None] * x) / len(y) + torch.diag(penalty)
        step = torch.linalg.solve(hessian, gradient)
        while objective(w - step) > objective(w) + 1e-12:
            step = step / 2
        w = w - step
        if step.norm() < 1e-10:
            break
    with torch.no_grad():
        model.weight.copy_(w[None, :-1])
        model.bias.copy_(w[-1:])
    return model


def grid(data: dict[str, Rows], points: int = 33) -> list[tuple[float, float, nn.Linear]]:
    """(log-penalty, validation loss, model) for penalties from 1e-5 to 10, a grid even in log."""
    found = []
    for log_penalty in torch.linspace(-11.5, 2.3, points).tolist():
        model = solve(data["train"], torch.tensor([log_penalty]).double(), _zeros(data))
        found.append((log_penalty, loss(model, data["valid"]).item(), model))
    return found


def _zeros(data: dict[str, Rows]) -> nn.Linear:
    model = nn.Linear(data["train"][0].shape[1], 1).double()
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


def make_engine() -> mlopt.Engine:
    """The first that is run, for `--verify-resume`."""
    return build(make_data(), torch.full((1,), -2.0).double())[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=count, default=100, help="updates of the penalties")
    parser.add_argument("--seed", type=seed, default=0, help="of the split")
    given = parsed(parser, make_engine)
    data = make_data(given.seed)
    features = data["train"][0].shape[1]

    best, _, grid_model = min(grid(data), key=lambda point: point[1])
    one, one_model = learn(data, torch.full((1,), -2.0).double(), given.steps)
    each, each_model = learn(data, torch.full((features,), -2.0).double(), given.steps)

    def row(name: str, penalties: Tensor, model: nn.Linear) -> dict[str, object]:
        x, y = data["test"]
        with torch.no_grad():
            wrong = ((model(x).squeeze(-1) > 0) != (y > 0)).double().mean().item()
            losses = [loss(model, data[part]).item() for part in ("valid", "test")]
        low, high = penalties.exp().min().item(), penalties.exp().max().item()
        return {
            "penalties": name,
            "value": f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}",
            "validation loss": f"{losses[0]:.4f}",
            "test loss": f"{losses[1]:.4f}",
            "test error": f"{100 * wrong:.1f} %",
        }

    rows = [
        row("one, by a grid of 33", torch.tensor([best]), grid_model),
        row("one, by hypergradient", one.detach(), one_model),
        row("one for each feature", each.detach(), each_model),
    ]
    print(format_table(rows))


if __name__ == "__main__":
    program(main)
