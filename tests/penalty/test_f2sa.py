"""F2SA against closed forms, and what it makes of the user's declarations."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from compare import exact, kills, near, rounding
from penalty.quadratic import Quadratic
from small import F64, batches, bilevel, seeded, sgd
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, StepLR

import mlopt
from mlopt import Frozen
from mlopt._errors import GraphError
from mlopt.penalty import Growing, f2sa

WEIGHTS = (10.0, 100.0, 1000.0)


def gradient_at_the_minima(w: float) -> tuple[Quadratic, torch.Tensor]:
    case = Quadratic()
    levels = f2sa(lower=case.lower, upper=case.upper, weight=w)
    x = case.X.tensor.detach()
    case.place(Y=case.penalised(x, w))
    with torch.no_grad():
        levels.copy.tensor.copy_(case.solution(x))
    engine = mlopt.Engine(levels.nodes)
    return case, engine.hypergradient(levels.upper)[case.X][""]


@pytest.mark.parametrize("w", WEIGHTS)
def test_gradient_is_that_of_the_penalised_problem(w: float) -> None:
    case, gradient = gradient_at_the_minima(w)
    expected = case.penalised_gradient(case.X.tensor, w)
    assert expected.abs().min() > 0.1
    # a difference of two minima, weighed w times
    bound = rounding(100, condition=10 * w)
    kills(2 * expected, expected, bound)
    exact(gradient, expected, bound)


def test_bias_to_the_hypergradient_falls_as_one_over_the_weight() -> None:
    errors = []
    for w in WEIGHTS:
        case, gradient = gradient_at_the_minima(w)
        errors.append((gradient - case.hypergradient(case.X.tensor.detach())).norm().item())
    assert errors[0] > 1e-3
    assert 8 < errors[0] / errors[1] < 12
    assert 9.5 < errors[1] / errors[2] < 10.5


@pytest.mark.parametrize(
    "schedule",
    [pytest.param(mlopt.Sequential(), marks=pytest.mark.slow), mlopt.Simultaneous()],
    ids=repr,
)
def test_converges_to_the_bilevel_solution_within_the_bias(schedule) -> None:
    w = 100.0
    case = Quadratic(lr=(0.4, 0.06))
    levels = f2sa(lower=case.lower, upper=case.upper, weight=w)
    mlopt.Engine(levels.nodes, schedule=schedule).run(steps=400, progress=False)
    x = case.X.tensor.detach()
    why = "400 steps, of which each leaves at most 0.97 of the distance: 5e-6"
    near(x, case.optimum(w), 1e-5, why=why)
    near(levels.copy.tensor, case.solution(x), 1e-5, why=why)
    assert (x - case.optimum()).norm() < 1.01 * (case.optimum(w) - case.optimum()).norm()
    for error in (case.optimum(w) - case.optimum(), case.hypergradient(x)):
        near(error, torch.zeros(2), 10 / w, scale=1.0, why="a bias of order 1 / w")


def test_first_step_by_hand() -> None:
    """From a copy that stands elsewhere; Sequential: x reads the new y and z."""
    w = 7.0
    case = Quadratic()
    levels = f2sa(lower=case.lower, upper=case.upper, weight=w)
    y, x = case.Y.tensor.detach().clone(), case.X.tensor.detach().clone()
    assert torch.equal(levels.copy.tensor, case.Y.tensor)
    z = y + torch.tensor([0.3, -0.2, 0.1], dtype=F64)
    with torch.no_grad():
        levels.copy.tensor.copy_(z)
    mlopt.Engine(levels.nodes, schedule=mlopt.Sequential()).step()
    rest = case.B @ x + case.c
    new_y = y - 0.4 * (case.H @ y - rest + (y - case.t + case.D.T @ x) / w)
    new_z = z - 0.4 * (case.H @ z - rest)
    new_x = x - 0.1 * (case.rho * x + case.D @ new_y - w * case.B.T @ (new_y - new_z))
    exact(case.Y.tensor, new_y, rounding(30, condition=w))
    exact(levels.copy.tensor, new_z, rounding(30, condition=w))
    exact(case.X.tensor, new_x, rounding(30, condition=w))


def test_weight_grows_once_a_step_and_is_logged() -> None:
    case = Quadratic()
    growing = Growing(2.0, 0.5, power=0.5)
    levels = f2sa(lower=case.lower, upper=case.upper, weight=growing)
    engine = mlopt.Engine(levels.nodes, schedule=mlopt.UpperFirst())
    for k in range(4):
        engine.hypergradient(levels.upper)
        engine.step()
        # Two roundings of the base, one of the product, and four of each power.
        exact(engine.signals["weight"].item(), 2.0 * (1 + 0.5 * k) ** 0.5, rounding(11))


@pytest.mark.slow  # in every run the bias falls as one over the weight, and the weight grows
def test_growing_weight_removes_the_bias() -> None:
    case = Quadratic(lr=(0.4, 0.06))
    levels = f2sa(lower=case.lower, upper=case.upper, weight=Growing(10.0, 0.1))
    mlopt.Engine(levels.nodes, schedule=mlopt.Sequential()).run(steps=600, progress=False)
    error = (case.X.tensor.detach() - case.optimum()).norm()
    assert error < 0.05 * (case.optimum(10.0) - case.optimum()).norm()


def test_modules_and_batches() -> None:
    """The gradient of x is F + w (g - g at the copy), on the batches that the user's levels see."""
    w, case = 5.0, bilevel()
    levels = f2sa(lower=case.lower, upper=case.upper, weight=w)
    assert levels.copy.name == "w_copy"
    with torch.no_grad():
        for p in levels.copy.parameters():
            p.add_(0.1)
    engine = mlopt.Engine(levels.nodes)
    gradient = engine.hypergradient(levels.upper)[case.A][""]
    a, y, z = case.A.tensor, case.W.value, levels.copy.value
    value = case.upper(a, y, case.valid[0])
    value = value + w * (case.lower(y, a, case.train[0]) - case.lower(z, a, case.train[0]))
    # two layers, and a difference that is weighed five times
    exact(gradient, torch.autograd.grad(value, a)[0], rounding(4 * 30, condition=10 * w))
    before = copy.deepcopy(case.W.value.state_dict())
    engine.run(epochs=1, progress=False)
    assert engine.steps == 5
    assert any(not torch.equal(before[k], v) for k, v in case.W.value.state_dict().items())


def test_both_uses_of_the_lower_objective_draw_the_same_masks() -> None:
    """At y = z the weighed difference is exactly zero, though the network has dropout."""
    net = seeded(1, lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
    case = bilevel(net)
    engine = mlopt.Engine((levels := f2sa(lower=case.lower, upper=case.upper, weight=1e6)).nodes)
    gradient = engine.hypergradient(levels.upper)[case.A][""]
    exact(gradient, 0.02 * case.A.tensor, rounding(3))


def test_running_statistics_see_the_lower_batch_alone() -> None:
    net = seeded(1, lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))
    case = bilevel(net)
    levels = f2sa(lower=case.lower, upper=case.upper, weight=10.0)
    expected = copy.deepcopy(net[0])
    expected(case.train[0][0] * case.A.tensor.detach().exp())
    mlopt.Engine(levels.nodes).step()
    for norm in (net[0], levels.copy.value[0]):
        assert norm.num_batches_tracked.item() == 1
        exact(norm.running_mean, expected.running_mean, rounding(6 + 4))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:], "lr": 0.2}]),
        lambda p: torch.optim.AdamW(p, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, lr=torch.tensor(0.01, dtype=F64)),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop"],
)
def test_copied_optimizer_does_what_the_lowers_does(make) -> None:
    """Its past included, over tensors of its own."""
    case = bilevel(optimizer=lambda v: make(v.parameters()))
    mine = case.lower.optimizer

    def step(variable, optimizer) -> None:
        for i, p in enumerate(variable.parameters()):
            p.grad = torch.full_like(p, 0.1 * (i + 1))
        optimizer.step()

    step(case.W, mine)
    levels = f2sa(lower=case.lower, upper=case.upper, weight=1.0)
    twin = levels.follower.optimizer
    for _ in range(3):
        before = [p.detach().clone() for p in case.W.parameters()]
        step(levels.copy, twin)
        assert all(map(torch.equal, before, case.W.parameters()))
        step(case.W, mine)
        assert all(map(torch.equal, case.W.parameters(), levels.copy.parameters()))


@pytest.mark.parametrize("per_step", [False, True])
def test_options_and_schedulers_are_kept_and_the_copy_follows(per_step: bool) -> None:
    case = bilevel()
    make = LambdaLR(case.lower.optimizer, lambda t: 0.5**t)
    case.lower.scheduler = mlopt.PerStep(make) if per_step else make
    case.lower.clip, case.lower.repeat, case.upper.every = 1.0, 2, 3
    levels = f2sa(lower=case.lower, upper=case.upper, weight=10.0)
    assert (levels.lower.clip, levels.follower.clip, levels.upper.every) == (1.0, 1.0, 3)
    assert levels.lower.repeat == levels.follower.repeat == 2
    assert isinstance(levels.upper.hypergrad, Frozen)
    engine = mlopt.Engine(levels.nodes)
    for n in range(1, 8):
        engine.step()
        passed = engine.steps if per_step else engine.epoch
        rates = [p.optimizer.param_groups[0]["lr"] for p in (levels.lower, levels.follower)]
        assert rates[0] == rates[1] == 0.1 * 0.5**passed
        assert engine.steps == n


def test_other_optimizers_are_passed() -> None:
    class Own(torch.optim.SGD):
        pass

    case = bilevel(optimizer=lambda v: Own(v.parameters(), lr=0.1))
    with pytest.raises(GraphError, match=r"fit, Own, is not one of torch.optim.*copy_optimizer="):
        f2sa(lower=case.lower, upper=case.upper, weight=1.0)
    levels = f2sa(
        lower=case.lower, upper=case.upper, weight=1.0, copy_optimizer=lambda z: sgd(z, 0.3)
    )
    assert levels.follower.optimizer.param_groups[0]["lr"] == 0.3
    mlopt.Engine(levels.nodes).step()
    hooked = bilevel()
    hooked.lower.optimizer.register_step_post_hook(lambda *_: None)
    with pytest.raises(GraphError, match="has hooks"):
        f2sa(lower=hooked.lower, upper=hooked.upper, weight=1.0)


def test_any_scheduler_of_torch_drives_the_copy() -> None:
    for make in (lambda o: StepLR(o, 1), lambda o: CosineAnnealingLR(o, 5)):
        case = bilevel()
        case.lower.scheduler = make(case.lower.optimizer)
        levels = f2sa(lower=case.lower, upper=case.upper, weight=10.0)
        mlopt.Engine(levels.nodes).run(epochs=2, progress=False)
        rates = [p.optimizer.param_groups[0]["lr"] for p in (levels.lower, levels.follower)]
        assert rates[0] == rates[1] < 0.1


def test_a_signal_of_data_alone_passes() -> None:
    data = batches(3, seed=4)
    case = bilevel()

    @mlopt.signal(given=[], data=data)
    def centre(batch):
        return batch[0].mean(dim=0)

    @mlopt.problem(over=case.W, given=[[case.A], centre], data=(case.train,), optimizer=sgd(case.W))
    def fit(w, variables, centre, batch):
        ((x, y),) = batch
        return mse_loss(w((x - centre) * variables[0].exp()), y)

    levels = f2sa(lower=fit, upper=case.upper, weight=3.0)
    assert levels.nodes[0] is centre
    engine = mlopt.Engine(levels.nodes)
    engine.step()
    assert torch.equal(engine.signals["centre"], data[0][0].mean(dim=0))


def test_weight_must_be_a_positive_number() -> None:
    case = Quadratic()
    for bad in (0, -1.0, float("nan"), float("inf"), "large", True, None):
        with pytest.raises(GraphError, match="weight"):
            f2sa(lower=case.lower, upper=case.upper, weight=bad)  # type: ignore[arg-type]
    for rate, power in ((-0.1, 1.0), (0.1, 0.0), (float("nan"), 1.0)):
        with pytest.raises(GraphError, match=r"Growing\((rate|power)="):
            Growing(1.0, rate, power)


def test_the_example_of_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "penalty.md").read_text()
    (code,) = [part.split("```")[0] for part in page.split("```python")[1:]]
    names: dict = {}
    exec(code, names)
    target = names["target"]
    why = "what the page says of its optimum"
    near(names["X"].tensor, target / 2, 0.01, scale=1.0, why=why)
    near(names["Y"].tensor, target, 0.02, scale=1.0, why=why)
    near(
        names["levels"].copy.tensor,
        target,
        0.02,
        scale=1.0,
        why="what the page says of its optimum",
    )
