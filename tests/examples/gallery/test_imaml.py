"""iMAML: its meta-gradient by dense algebra at the solved inner problems."""

import pytest
import torch
from oracles import relative_error
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import mlopt
from examples.gallery import imaml as example

LAMBDA = 0.5


def smooth():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()


class Dense:
    """The network as a function of one flat vector, and the inner problem solved by Newton."""

    def __init__(self, theta):
        self.net, self.names = theta, [n for n, _ in theta.named_parameters()]
        self.shapes = [p.shape for p in theta.parameters()]

    def loss(self, flat, rows):
        parts = flat.split([s.numel() for s in self.shapes])
        values = {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}
        return mse_loss(functional_call(self.net, values, (rows[0],)), rows[1])

    def derivatives(self, f, w):
        w = w.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(w), w, create_graph=True)
        return g.detach(), torch.stack([torch.autograd.grad(x, w, retain_graph=True)[0] for x in g])

    def solve(self, theta, support, start):
        def total(w):
            return self.loss(w, support) + LAMBDA / 2 * ((w - theta) ** 2).sum()

        w = start
        for _ in range(200):
            g, H = self.derivatives(total, w)
            low = torch.linalg.eigvalsh(H)[0]
            H = H + max(0.0, 0.1 - low) * torch.eye(len(w)).double()
            step = torch.linalg.solve(H, g)
            while total(w - step) > total(w) + 1e-14:
                step = step / 2
            w = w - step
        g, H = self.derivatives(total, w)
        assert g.abs().max() < 1e-10
        assert torch.linalg.eigvalsh(H)[0] > 0
        return w


def flat(module_or_tensors):
    return torch.cat([t.detach().reshape(-1) for t in module_or_tensors])


@pytest.fixture
def solved(monkeypatch):
    """An engine over two fixed tasks whose inner problems stand at their optima."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tasks = [
            tuple(tuple(t.double() for t in rows) for rows in example.draw_task(6))
            for _ in range(2)
        ]
    slots = iter(tasks)
    monkeypatch.setattr(example, "Tasks", lambda: [next(slots)])
    theta = smooth()
    solver = mlopt.CG(max_steps=60, tol=1e-12)
    engine, inner, meta = example.build(theta, tasks=2, lambda_=LAMBDA, solver=solver)
    dense = Dense(theta)
    start = flat(theta.parameters())
    optima = [dense.solve(start, support, start) for support, _ in tasks]
    for problem, w in zip(inner, optima, strict=True):
        nn.utils.vector_to_parameters(w, problem.over[0].parameters())
    found = engine.hypergradient(meta)[meta.over[0]]
    return dense, tasks, optima, flat(found[name] for name in dense.names), start


def test_the_meta_gradient_is_that_of_the_paper(solved):
    dense, tasks, optima, found, _ = solved
    expected = without = 0.0
    for (support, query), w in zip(tasks, optima, strict=True):
        _, H = dense.derivatives(lambda w, rows=support: dense.loss(w, rows), w)
        g, _ = dense.derivatives(lambda w, rows=query: dense.loss(w, rows), w)
        expected = expected + torch.linalg.solve(torch.eye(len(w)).double() + H / LAMBDA, g) / 2
        without = without + g / 2
    assert relative_error(found, expected) < 1e-6
    assert relative_error(without, expected) > 0.1


def test_the_meta_gradient_is_the_derivative_of_the_solved_problems(solved):
    dense, tasks, optima, found, theta = solved

    def value(theta):
        return sum(
            dense.loss(dense.solve(theta, support, w), query).item()
            for (support, query), w in zip(tasks, optima, strict=True)
        ) / len(tasks)

    d = torch.randn(len(theta), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    difference = (value(theta + 1e-4 * d) - value(theta - 1e-4 * d)) / 2e-4
    assert abs(difference - (found @ d).item()) < 1e-6 * abs(difference)


def test_a_meta_step_uses_one_task_in_each_slot(monkeypatch):
    drawn = []
    draw = example.draw_task
    monkeypatch.setattr(example, "draw_task", lambda: drawn.append(draw(2)) or drawn[-1])
    example.meta_train(example.make_net(width=4), 5, tasks=2, rounds=3, lambda_=5.0, inner_lr=0.05)
    assert 10 <= len(drawn) <= 12


def test_new_tasks_begin_at_theta():
    theta = example.make_net(width=4)
    engine, inner, _ = example.build(theta, tasks=2, rounds=2, lambda_=5.0, inner_lr=0.05)
    engine.run(steps=2, progress=False, callbacks=[example.FromTheta(theta, inner)])
    for problem in inner:
        assert torch.equal(flat(problem.over[0].parameters()), flat(theta.parameters()))
        assert not problem.optimizer.state


# A task that is not quite solved may warn; the figures on the way differ between torch's versions.
@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")
def test_meta_training_finds_a_start_from_which_new_tasks_are_learned():
    options = {"lambda_": 2.0, "rounds": 30}
    theta = example.meta_train(example.make_net(), 60, **options)
    found = example.adapted_loss(theta, **options)[1]
    assert found < 0.5 * example.adapted_loss(example.make_net(), **options)[1]
