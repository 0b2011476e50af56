"""What a user may write: arguments, lists, names, and levels that act through others alone."""

from __future__ import annotations

import pytest
import torch
from small import F64, assert_same, batches, bilevel, mlp, sgd, state_of
from torch import nn
from torch.nn.functional import mse_loss

import mlopt

DATA = batches(4)


def tensor(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=F64))


def test_a_problem_and_a_signal_stay_callable_functions():
    W = mlopt.Variable(tensor(1.0, 2.0), "w")

    @mlopt.problem(over=W)
    def ridge(w, power=2):
        return (w**power).sum()

    @mlopt.signal(given=[W])
    def size(w):
        return w.sum()

    assert ridge(torch.tensor([3.0, 4.0])).item() == 25
    assert ridge(torch.tensor([3.0]), power=3).item() == 27
    assert size.fn(torch.tensor([3.0, 4.0])).item() == 7
    assert ridge.name == "ridge"


def test_lists_arrive_as_lists_in_their_order():
    W = [mlopt.Variable(tensor(float(k)), f"w{k}") for k in range(3)]
    A = mlopt.Variable(tensor(1.0), "a")
    B = mlopt.Variable(tensor(2.0), "b")
    received = []

    def learner(k):
        @mlopt.problem(over=W[k], optimizer=sgd(W[k]), name=f"learner{k}")
        def learn(w):
            return (w - k).square().sum()

        return learn

    def label(k):
        @mlopt.signal(given=[W[k]], name=f"label{k}")
        def out(w):
            return 10 * w

        return out

    labels = [label(k) for k in range(3)]

    @mlopt.problem(
        over=[A, B],
        given=[W[:2], labels, W[2]],
        data=DATA,
        optimizer=torch.optim.SGD([A.value, B.value], lr=0.5),
    )
    def top(ab, ws, labels, w2, batch):
        received.append((ab, ws, labels, w2, batch))
        return sum((t * ab[0]).sum() for t in [*ws, *labels, w2]) + ab[1].sum()

    nodes = [*(learner(k) for k in range(3)), *labels, top]
    engine = mlopt.Engine(nodes, hypergrad=mlopt.Frozen())
    engine.step()
    ab, ws, signals, w2, batch = received[-1]
    assert [type(x) for x in (ab, ws, signals)] == [list] * 3
    assert [w.item() for w in ws] == [0, 1]
    assert [s.item() for s in signals] == [0, 10, 20]
    assert w2.item() == 2
    assert batch == DATA[0]  # a container of its own, of the same tensors
    assert A.value.item() == 1.0 - 0.5 * 33
    assert B.value.item() == 2.0 - 0.5


def test_names_that_others_use_are_free():
    """D37: nothing is injected into anything under these names."""
    W = mlopt.Variable(mlp(), "module")
    A = mlopt.Variable(tensor(0.1, 0.2, 0.3), "optimizer")

    @mlopt.problem(
        over=W, given=[A], data=DATA, optimizer=sgd(W), name="train", hypergrad=mlopt.OneStep()
    )
    def step(module, optimizer, config):
        return mse_loss(module(config[0] * optimizer.exp()), config[1])

    @mlopt.problem(over=A, given=[W], data=DATA, optimizer=sgd(A), name="graph")
    def graph(optimizer, module, batch):
        return mse_loss(module(batch[0]), batch[1]) + optimizer.square().sum()

    assert set(mlopt.Engine([step, graph]).step()) == {
        f"{p}/{n}" for p in ("train", "graph") for n in ("loss", "gradient_norm")
    }


def test_a_thousand_differences_do_not_move_the_weights():
    """D3: nothing is perturbed in place, so there is nothing to drift."""
    case = bilevel(mlp().float(), train=(data := floats()), valid=data, upper_optimizer=None)
    case.A.value.data = case.A.value.data.float()
    engine = case.engine()
    before = state_of(engine)
    for _ in range(100):
        engine.hypergradient(case.upper)
    assert_same(before, state_of(engine))


def floats():
    return [(x.float(), y.float()) for x, y in DATA]


@pytest.mark.parametrize("guard", [torch.no_grad, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter(guard):
    case, control = bilevel(), bilevel()
    engine, plain = case.engine(), control.engine()
    with guard():
        found = engine.hypergradient(case.upper)[case.A][""]
        engine.step()
    assert torch.equal(found, plain.hypergradient(control.upper)[control.A][""])
    plain.step()
    assert_same(state_of(engine), state_of(plain))


def test_parameters_that_are_added_later_are_trained():
    """Layers thawed in the middle of a run, as in fine-tuning."""
    net = mlp()
    net[0].requires_grad_(requires_grad=False)
    W = mlopt.Variable(net, "w")
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)

    @mlopt.problem(over=W, data=DATA, optimizer=optimizer)
    def fit(w, batch):
        return mse_loss(w(batch[0]), batch[1])

    engine = mlopt.Engine([fit])
    engine.step()
    stood = net[0].weight.clone()
    net[0].requires_grad_(requires_grad=True)
    engine.step()
    assert torch.equal(net[0].weight, stood)
    optimizer.add_param_group({"params": net[0].parameters(), "lr": 0.5})
    engine.step()
    assert not torch.equal(net[0].weight, stood)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_level_that_acts_through_a_level_that_waits(clip):
    """a steers w alone; until w's start there is nothing to follow, and a stands still."""
    W, A = mlopt.Variable(mlp(), "w"), mlopt.Variable(tensor(0.1, -0.2, 0.3), "a")

    @mlopt.problem(
        over=W, given=[A], data=DATA, optimizer=sgd(W), start=1, hypergrad=mlopt.OneStep()
    )
    def fit(w, a, batch):
        return mse_loss(w(batch[0] * a.exp()), batch[1])

    @mlopt.problem(
        over=A, given=[W], data=batches(3), optimizer=sgd(A, weight_decay=0.1), clip=clip
    )
    def tune(a, w, batch):
        return mse_loss(w(batch[0]), batch[1])

    engine = mlopt.Engine([fit, tune])
    before = A.value.detach().clone()
    assert engine.hypergradient(tune)[A] == {}
    for _ in range(3):
        engine.step()
        assert torch.equal(A.value, before)
    assert engine.epoch == 1
    engine.step()
    assert not torch.equal(A.value, before)


def test_a_level_without_optimizer_is_read_and_never_moved():
    case = bilevel(upper_optimizer=None)
    engine = case.engine()
    before = case.A.value.detach().clone()
    metrics = engine.step()
    assert "tune/loss" not in metrics  # nobody asked for it
    assert torch.equal(case.A.value, before)
    assert engine.hypergradient(case.upper)[case.A][""].abs().max() > 0


def test_products_of_a_level_see_new_weights_not_old_ones():
    """Constants of a step are not constants of the run."""
    case = bilevel()
    engine = case.engine()
    first = engine.hypergradient(case.upper)[case.A][""]
    with torch.no_grad():
        for p in case.W.parameters():
            p.mul_(1.5)
    assert not torch.equal(first, engine.hypergradient(case.upper)[case.A][""])
