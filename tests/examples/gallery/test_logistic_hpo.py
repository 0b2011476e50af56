"""Logistic penalties: the hypergradient by dense algebra, and the optimum that a grid finds."""

from functools import partial

import pytest
import torch
from compare import exact, near, rounding

from examples.gallery import logistic_hpo as example


@pytest.fixture(scope="module")
def data():
    return example.make_data(0)


@pytest.mark.parametrize("size", [1, 30])
def test_hypergradient_is_that_of_dense_implicit_differentiation(data, size):
    r = torch.linspace(-4, 0, size).double()
    engine, model = example.build(data, r)
    example.solve(data["train"], r, model)
    fit, validation = engine.graph.problems
    ((found,),) = (t.values() for t in engine.hypergradient(validation).values())

    # dw/dr = - H^-1 d2F/dw dr, written out: H = X' diag(p (1 - p)) X / n + diag(exp r)
    def design(part):
        x, y = data[part]
        return torch.cat([x, torch.ones(len(x), 1).double()], 1), y

    w = torch.cat([model.weight[0], model.bias]).detach()
    (x, y), (x_valid, y_valid) = design("train"), design("valid")
    penalty = torch.zeros(31).double()
    penalty[:30] = r.detach().exp()
    p = torch.sigmoid(x @ w)
    slope = x.T @ (p - y) / len(y)
    # the two slopes cancel; sums over 60 rows and 31 columns
    exact(slope, -penalty * w, rounding(100))
    H = x.T @ torch.diag(p * (1 - p)) @ x / len(y) + torch.diag(penalty)
    g = x_valid.T @ (torch.sigmoid(x_valid @ w) - y_valid) / len(y_valid)
    expected = -(penalty * w * torch.linalg.solve(H, g))[:30]
    expected = expected.sum()[None] if size == 1 else expected
    bound = 1e-8 * torch.linalg.cond(H).item()
    near(found, expected, bound, why="CG's residual, times the condition")


def test_one_penalty_is_where_the_grid_finds_it(data, monkeypatch):
    monkeypatch.setattr(example, "build", partial(example.build, rounds=25))
    points = example.grid(data)
    best, best_loss, _ = min(points, key=lambda point: point[1])
    width = points[1][0] - points[0][0]
    assert points[0][0] < best < points[-1][0]
    r, model = example.learn(data, torch.full((1,), -5.0).double(), 20)
    assert abs(r.item() - best) < width < abs(-5.0 - best) / 1.5
    assert example.loss(model, data["valid"]).item() < best_loss + 1e-4

    # and thirty penalties reach what one cannot
    _, model = example.learn(data, torch.full((30,), -3.0).double(), 20)
    assert example.loss(model, data["valid"]).item() < 0.9 * best_loss


def test_newton_finds_a_stationary_point(data):
    r = torch.tensor([-3.0]).double()
    _, model = example.build(data, r)
    example.solve(data["train"], r, model)
    model.zero_grad()
    example.penalised(model, r.detach(), data["train"]).backward()
    pull = (r.detach().exp() * model.weight).norm().item()  # cancels the slope of the loss
    for p in model.parameters():
        exact(p.grad, torch.zeros_like(p), rounding(100), scale=pull)
