"""The look-ahead by the real optimizer, and the derivative of its update, against torch itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from case_graphs import parameter, tensor
from cases import Recorder
from compare import exact, near, rounding
from optim.updates import (
    ADAMS,
    SGD,
    SGDS,
    Adam,
    AdamW,
    Setup,
    build,
    flat,
)
from optimizer_steps import decouples, numerical_derivative, torch_update
from oracles import moved_rounding, sweep_rounding
from torch import Tensor

import mlopt
from mlopt.optim import update_of

#: Differences of radius 1e-4 of an update of 20 operations, of values 50 times as large as steps.
DIFFERENCES = rounding(20, condition=50) / 1e-4


@pytest.mark.parametrize("name", [*SGDS, *ADAMS])
def test_look_ahead_is_torchs_own_update(name: str, device: torch.device) -> None:
    setup = Setup({**SGDS, **ADAMS}[name], device)
    expected = torch_update(setup.optimizer, setup.tensors, setup.gradients)
    state_before = str(setup.optimizer.state_dict())
    found = setup.rule.look_ahead(
        setup.optimizer, setup.named(setup.tensors), setup.named(setup.gradients)
    )
    for i, (old, new) in enumerate(zip(setup.tensors, expected, strict=True)):
        step = new - old.detach()
        exact(found["v", str(i)] - old.detach(), step, moved_rounding(old, step), what=name)
    assert str(setup.optimizer.state_dict()) == state_before
    # a parameter without gradient is not moved, though its momentum would move it
    partial = setup.rule.look_ahead(
        setup.optimizer, setup.named(setup.tensors), {("v", "1"): setup.gradients[1]}
    )
    expected = torch_update(setup.optimizer, setup.tensors, [None, setup.gradients[1]])
    assert torch.equal(expected[0], setup.tensors[0])
    assert set(partial) == {("v", "1")}
    exact(partial["v", "1"], expected[1], rounding(30))


@pytest.mark.parametrize("name", [n for n in (*SGDS, *ADAMS) if "tensor" in n or "zeros" in n])
def test_numbers_in_tensors_of_a_device_are_not_waited_for(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay tensors, as they do on a GPU, and give what numbers give."""
    made = {**SGDS, **ADAMS}[name]
    expected = Setup(made, device)
    steps = [expected.named(expected.tensors), expected.named(expected.gradients)]
    moved, derivative = expected.rule.look_ahead(expected.optimizer, *steps), expected.derivative()
    setup = Setup(made, device)
    with monkeypatch.context() as patch:
        far = lambda x: x.reshape(()) if torch.is_tensor(x) else x  # noqa: E731
        patch.setattr(mlopt.optim.numbers, "_fixed", far)
        patch.setattr(Tensor, "__bool__", None)
        patch.setattr(Tensor, "__float__", None)
        steps = [setup.named(setup.tensors), setup.named(setup.gradients)]
        found, d = setup.rule.look_ahead(setup.optimizer, *steps), setup.derivative()
    exact(found, moved, rounding(30, condition=10))
    exact(d, derivative, rounding(30, condition=10))


@pytest.mark.parametrize("name", SGDS)
def test_sgd_derivative(name: str, device: torch.device) -> None:
    setup = Setup(SGDS[name], device)

    def update(g: Tensor) -> Tensor:
        gradients = [g[:3], g[3:].view(2, 2)]
        return flat(torch_update(setup.optimizer, setup.tensors, gradients))

    # the update is linear: a large displacement has no error but rounding
    jacobian = numerical_derivative(update, flat(setup.gradients), h=1.0)
    expected = -jacobian.T @ flat(setup.cotangents)
    # differences of radius 1 of values around one, of which steps are a tenth
    exact(flat(setup.derivative()), expected, rounding(7 * 20, condition=10), what=name)


@pytest.mark.parametrize("name", ADAMS)
def test_adam_derivative_with_the_second_moment_held(name: str, device: torch.device) -> None:
    """Torch's own update at g + h, its old second moment set so that the new one is that at g."""
    setup = Setup(ADAMS[name], device)
    reference = setup.gradients

    def update(g: Tensor) -> Tensor:
        gradients = [g[:3], g[3:].view(2, 2)]

        def hold(optimizer: Any, clones: list[Tensor]) -> None:
            for p, g0, g1 in zip(clones, reference, gradients, strict=True):
                group = next(x for x in optimizer.param_groups if any(q is p for q in x["params"]))
                _start(optimizer, group, p)
                state = optimizer.state[p]
                b2 = group["betas"][1]
                squares = [_raw(optimizer, group, p.detach(), x) ** 2 for x in (g0, g1)]
                state["exp_avg_sq"] += (1 - b2) / b2 * (squares[0] - squares[1])

        return flat(torch_update(setup.optimizer, setup.tensors, gradients, hold))

    jacobian = numerical_derivative(update, flat(reference), h=1e-4)
    diagonal = torch.diag(jacobian.diag())
    near(jacobian, diagonal, DIFFERENCES, why="rounding / radius", what="D is diagonal")
    expected = -jacobian.T @ flat(setup.cotangents)
    near(flat(setup.derivative()), expected, DIFFERENCES, why="rounding / radius", what=name)


def _start(optimizer: Any, group: dict[str, Any], p: Tensor) -> None:
    """The state that torch makes at the first step."""
    if not optimizer.state.get(p):
        zeros = torch.zeros_like(p).detach()
        optimizer.state[p] = {
            "step": torch.tensor(0.0),
            "exp_avg": zeros.clone(),
            "exp_avg_sq": zeros.clone(),
        } | ({"max_exp_avg_sq": zeros.clone()} if group["amsgrad"] else {})


def _raw(optimizer: Any, group: dict[str, Any], w: Tensor, g: Tensor) -> Tensor:
    """What torch squares into the second moment."""
    d = -g if group["maximize"] else g
    return d if decouples(optimizer, group) else d + group["weight_decay"] * w


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_derivative_is_zero_where_the_second_moment_is(
    kind: type, device: torch.device
) -> None:
    setup = Setup(build(kind, 0, lr=0.1, weight_decay=0.0), device)
    setup.gradients[0][1] = 0.0
    found = setup.derivative()
    assert found[0][1] == 0.0
    others = flat(found)[[0, 2, 3, 4, 5, 6]]
    assert torch.isfinite(others).all()
    assert (others != 0).all()
    # at the first step sqrt(v / (1 - b2)) = |g|: D = lr / (|g| + eps)
    g, c = (flat(t)[[0, 2, 3, 4, 5, 6]] for t in (setup.gradients, setup.cotangents))
    exact(others, 0.1 * c / (g.abs() + 1e-8), rounding(30, condition=10))


@pytest.mark.parametrize("name", [*SGDS, *ADAMS])
def test_one_step_through_the_engine(name: str, device: torch.device) -> None:
    """The solution that readers see is torch's update; the pullback is - d/dr < dF/dw, D c >."""
    w, r = parameter(device, 1, 3), parameter(device, 2, 3)
    extra = parameter(device, 3, 2, 2)
    optimizer = {**SGDS, **ADAMS}[name]([w, extra])
    W, R = [mlopt.Variable(w, "w"), mlopt.Variable(extra, "x")], mlopt.Variable(r, "r")
    recorder = Recorder(mlopt.OneStep())
    c = [tensor(device, 5, 3), tensor(device, 6, 2, 2)]

    @mlopt.problem(over=W, given=[R], optimizer=optimizer, hypergrad=recorder)
    def lower(w, r):
        return (torch.sin(w[0]) * r**2).sum() + (w[1] ** 3).sum() * torch.cos(r).sum()

    @mlopt.problem(over=R, given=[W], optimizer=SGD([r], lr=0.1))
    def upper(r, w):
        return (c[0] * w[0]).sum() + (c[1] * w[1]).sum() + 0 * r.sum()

    gradient = [
        (torch.cos(w) * r**2).detach(),
        (3 * extra**2 * torch.cos(r).sum()).detach(),
    ]
    engine = mlopt.Engine([lower, upper])
    found = engine.hypergradient(upper)[R][""]
    expected = torch_update(optimizer, [w, extra], gradient)
    (response,) = recorder.responses
    solution = recorder.method.solution(response)
    for v, old, new in zip(W, (w, extra), expected, strict=True):
        step = new - old.detach()
        bound = moved_rounding(old, step) + rounding(30, condition=10)
        exact(solution[v, ""] - old.detach(), step, bound, what=name)
    moved = update_of(optimizer, "test").derivative(
        optimizer,
        {(v, ""): p for v, p in zip(W, (w, extra), strict=True)},
        {(v, ""): g for v, g in zip(W, gradient, strict=True)},
        {(v, ""): x for v, x in zip(W, c, strict=True)},
    )
    mixed = (
        torch.cos(w) * 2 * r * moved[W[0], ""]
        - torch.sin(r) * (3 * extra**2 * moved[W[1], ""]).sum()
    )
    exact(found, -mixed, sweep_rounding(1), what=name)
    engine.step()
    for p, new in zip((w, extra), expected, strict=True):
        exact(p, new, rounding(60, condition=10), what="the update that follows is the look-ahead")


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad])
def test_other_optimizers_are_refused_for_the_look_ahead_alone(
    kind: type, device: torch.device
) -> None:
    W = mlopt.Variable(parameter(device, 1, 3), "w")
    A = mlopt.Variable(parameter(device, 2, 3), "a")

    def nodes(method: Any) -> list[Any]:
        @mlopt.problem(over=W, given=[A], optimizer=kind(W.parameters(), lr=0.1), hypergrad=method)
        def lower(w, a):
            return ((w - a) ** 2).sum()

        @mlopt.problem(over=A, given=[W], optimizer=SGD(A.parameters(), lr=0.1))
        def upper(a, w):
            return (w * a).sum()

        return [lower, upper]

    with pytest.raises(mlopt.GraphError, match=kind.__name__):
        mlopt.Engine(nodes(mlopt.OneStep()))
    mlopt.Engine(nodes(mlopt.OneStep(lr=0.1))).step()
    # an optimizer of one's own may update otherwise, even if it inherits
    mine = type("Mine", (SGD,), {})
    with pytest.raises(mlopt.GraphError, match="Mine"):
        update_of(mine(W.parameters(), lr=0.1), "test")
