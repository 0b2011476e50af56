"""Optimizers as differentiable functions, against torch's own steps and differences of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from case_graphs import parameter, tensor
from compare import exact, near, rounding
from grids import thinned
from optim.runs import (
    BUILDS,
    IDLE,
    MANY_STEPS,
    PASTS,
    SGD,
    Adam,
    M,
    Run,
    W,
    assert_same_state,
    scalar,
)
from torch import Tensor

import mlopt
from mlopt.optim import rule_of


@pytest.mark.parametrize(("name", "past"), thinned(2, BUILDS, PASTS))
def test_thirty_steps_are_torchs_own(name: str, past: int, device: torch.device) -> None:
    run, r = Run(BUILDS[name], past, device), scalar(device)
    twin, before = run.twin(), run.fingerprint()
    values, state = run.values(), None
    for start in range(0, 30, 10):
        values, state = run.ours(values, r, range(start, start + 10), 3, state)
        values = {k: v.detach() for k, v in values.items()}
        twin.real(r, range(start, start + 10), 3)
        for key, p in twin.parameters.items():
            exact(values[key], p, MANY_STEPS, what=f"{name} {key} after {start + 10}")
    assert_same_state(state, twin.optimizer, twin.parameters)
    assert not torch.equal(values[W], run.parameters[W])
    assert torch.equal(values[IDLE], run.parameters[IDLE])
    assert run.fingerprint() == before


@pytest.mark.parametrize(("name", "past"), thinned(3, BUILDS, PASTS, first=1))
def test_write_lets_the_real_optimizer_continue(name: str, past: int, device: torch.device) -> None:
    run, r = Run(BUILDS[name], past, device), scalar(device)
    twin, begun = run.twin(), run.rule.begin(run.optimizer, run.parameters)
    old = [copy.deepcopy(run.optimizer.state_dict()), run.values()]
    values, state = run.ours(run.values(), r, range(10), 3)
    kept = copy.deepcopy({k: {n: t.detach() for n, t in s.items()} for k, s in state.items()})
    with torch.no_grad():
        for key, p in run.parameters.items():
            p.copy_(values[key])
    run.rule.write(run.optimizer, run.parameters, state)
    run.real(r, range(10, 20), 3)
    twin.real(r, range(20), 3)
    for key, p in run.parameters.items():
        exact(p, twin.parameters[key], MANY_STEPS, what=f"{name} {key}")
    assert_same_state(
        run.rule.begin(run.optimizer, run.parameters), twin.optimizer, twin.parameters
    )
    # what was written is a copy: the real steps changed neither it nor the state at the beginning
    for key, tensors in kept.items():
        assert all(torch.equal(state[key][n], t) for n, t in tensors.items())
    # writing back what there was at the beginning leaves no trace
    run.rule.write(run.optimizer, run.parameters, begun)
    assert str(run.optimizer.state_dict()["state"]) == str(old[0]["state"])


EXTRAPOLATED = "differences of radius 2e-4, of ten steps: rounding / radius, of a part of 1e-4"


def derivative_by_differences(f: Callable[[float], float], x: float) -> float:
    """Two central differences, extrapolated: the error is O(h^4)."""
    h = 2e-4
    one, two = (f(x + h) - f(x - h)) / (2 * h), (f(x + 2 * h) - f(x - 2 * h)) / (4 * h)
    return (4 * one - two) / 3


@pytest.mark.parametrize(("name", "past", "steps"), thinned(3, BUILDS, PASTS, [1, 2, 10]))
def test_derivative_by_a_hyperparameter(
    name: str, past: int, steps: int, device: torch.device
) -> None:
    # From a fresh state the first step is nearly the gradient's sign, and its derivative would be
    # lost in the differences' rounding: a larger eps lets it be seen.
    run, r = Run(BUILDS[name], past, device, None if past else 0.05), scalar(device)
    c = {W: tensor(device, 5, 3), M: tensor(device, 6, 1, 2)}

    def final(x: float) -> float:
        twin = run.twin()
        twin.real(scalar(device, x), range(steps))
        return float(sum((c[k] * twin.parameters[k].detach()).sum() for k in c))

    values, _ = run.ours(run.values(), r.requires_grad_(), range(steps))
    found = torch.autograd.grad(sum((c[k] * values[k]).sum() for k in c), r)[0]
    expected = derivative_by_differences(final, 0.7)
    assert abs(expected) > 1e-4
    near(found, expected, 1e-6, why=EXTRAPOLATED, what=name)


def step_function(run: Run, fresh: bool) -> tuple[Callable[..., Any], list[Tensor]]:
    """Two steps as a function of all tensors that they depend on: value, two gradients, state."""
    device = run.parameters[M].device
    begun = run.rule.begin(run.optimizer, run.parameters)[M]
    names = [] if fresh else [n for n in begun if n != "step"]
    if "max_exp_avg_sq" in names:  # one maximum holds and one is overtaken, none is a near tie
        factors = torch.tensor([[2.0, 0.5]], dtype=torch.float64, device=device)
        begun["max_exp_avg_sq"] = begun["max_exp_avg_sq"] * factors
    inputs = [run.parameters[M].detach(), tensor(device, 8, 1, 2), tensor(device, 9, 1, 2)]
    inputs += [begun[n] for n in names]

    def steps(value: Tensor, first: Tensor, second: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
        values, state = {M: value}, {M: {**begun, **dict(zip(names, held, strict=True))}}
        for gradient in (first, second):
            values, state = run.rule.step(
                run.optimizer, run.parameters, values, {M: gradient}, state
            )
        return values[M], *(t for n, t in state[M].items() if n != "step")

    return steps, [t.clone().requires_grad_() for t in inputs]


@pytest.mark.parametrize(("name", "past"), thinned(3, BUILDS, PASTS, first=1))
def test_first_and_second_derivatives_by_value_gradient_and_state(
    name: str, past: int, device: torch.device
) -> None:
    function, inputs = step_function(Run(BUILDS[name], past, device, 0.05), past == 0)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", ["adam", "adamw_amsgrad", "rmsprop_all", "adagrad", "adadelta"])
def test_third_derivatives(name: str, device: torch.device) -> None:
    function, inputs = step_function(Run(BUILDS[name], 3, device, 0.05), False)
    c = tensor(device, 10, 1, 2)

    def first_derivative(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((c * function(*tensors)[0]).sum(), tensors, create_graph=True)

    assert torch.autograd.gradgradcheck(first_derivative, inputs)


# The rest of the contract.


@pytest.mark.parametrize("name", [n for n in BUILDS if n.endswith("lr_tensor")])
def test_a_learning_rate_in_a_tensor_is_differentiated(name: str, device: torch.device) -> None:
    run, r = Run(BUILDS[name], 3, device), scalar(device)
    (group,) = run.optimizer.param_groups
    start = float(group["lr"])

    def final(x: float) -> float:
        twin = run.twin()
        twin.optimizer.param_groups[0]["lr"].fill_(x)
        twin.real(r, range(3))
        return float(twin.parameters[W].detach().sum())

    expected = derivative_by_differences(final, start)
    group["lr"].requires_grad_()
    values, _ = run.ours(run.values(), r, range(3))
    with torch.no_grad():
        group["lr"].mul_(0.1)  # what a scheduler does, before the derivative is taken
    found = float(torch.autograd.grad(values[W].sum(), group["lr"])[0])
    near(found, expected, 1e-6, why=EXTRAPOLATED)


def test_what_the_optimizer_does_not_hold_or_has_no_gradient_stays(device: torch.device) -> None:
    held, still, other = (parameter(device, i, 2) for i in range(3))
    optimizer = SGD([held, still], lr=0.1, momentum=0.9)
    rule, parameters = rule_of(optimizer, "test"), {W: held, M: still, IDLE: other}
    begun = rule.begin(optimizer, parameters)
    assert begun == {W: {}, M: {}, IDLE: {}}
    values = {k: p.detach() for k, p in parameters.items()}
    ones = {k: torch.ones_like(values[k]) for k in (W, IDLE)}
    moved, state = rule.step(optimizer, parameters, values, ones, begun)
    assert moved[M] is values[M]
    assert moved[IDLE] is values[IDLE]
    assert state[M] == state[IDLE] == {}
    assert begun == {W: {}, M: {}, IDLE: {}}
    rule.write(optimizer, parameters, {**state, IDLE: {"momentum_buffer": ones[W]}})
    assert set(optimizer.state) == {held}
    exact(moved[W], values[W] - 0.1, rounding(2))


def test_what_is_no_tensor_stays_in_the_state(device: torch.device) -> None:
    held, other = (parameter(device, i, 2) for i in range(2))
    optimizer = Adam([held, other], lr=0.1)
    for p in (held, other):
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in (held, other):
        optimizer.state[p]["name"] = "the user's own"
    rule, parameters = rule_of(optimizer, "test"), {W: held, M: other}
    begun = rule.begin(optimizer, parameters)
    assert "name" not in begun[W]
    rule.write(optimizer, parameters, begun)
    assert [*optimizer.state] == [held, other]
    assert {*optimizer.state[held]} == {"step", "exp_avg", "exp_avg_sq", "name"}
    rule.write(optimizer, parameters, {W: {}, M: begun[M]})
    assert optimizer.state[held] == {"name": "the user's own"}


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Rprop, type("Mine", (Adam,), {})])
def test_unknown_optimizers_are_refused(kind: type, device: torch.device) -> None:
    known = "SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta"
    with pytest.raises(mlopt.GraphError, match=f"^lower: .*{kind.__name__} .*{known}"):
        rule_of(kind([parameter(device, 1, 3)]), "lower")
