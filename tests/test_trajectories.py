"""Optimizers as differentiable functions, against torch's own steps and differences of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import parameter, tensor, warmed
from oracles import assert_close
from torch import Tensor, nn

import mlopt
from mlopt.optim import rule_of

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
RMSprop, Adagrad, Adadelta = torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta
Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def build(kind: type, **options: Any) -> Build:
    return lambda parameters: kind(parameters, **copy.deepcopy(options))


def two_groups(kind: type, first: dict[str, Any], second: dict[str, Any], **shared: Any) -> Build:
    return lambda ps: kind(
        [{"params": ps[:1], **first}, {"params": ps[1:], **second}], lr=0.1, **shared
    )


def lr(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


BUILDS: dict[str, Build] = {
    "sgd": build(SGD, lr=0.1),
    "sgd_decay": build(SGD, lr=0.1, weight_decay=0.2),
    "sgd_maximize": build(SGD, lr=0.02, weight_decay=0.2, maximize=True),
    "sgd_momentum": build(SGD, lr=0.05, momentum=0.8, weight_decay=0.1),
    "sgd_dampening": build(SGD, lr=0.1, momentum=0.8, dampening=0.4),
    "sgd_nesterov": build(SGD, lr=0.05, momentum=0.7, nesterov=True, weight_decay=0.1),
    "sgd_nesterov_maximize": build(SGD, lr=0.02, momentum=0.5, nesterov=True, maximize=True),
    "sgd_lr_tensor": build(SGD, lr=lr(0.1), momentum=0.8, foreach=False),
    "sgd_groups": two_groups(
        SGD,
        {"lr": 0.05, "momentum": 0.8, "dampening": 0.2},
        {"lr": 0.1, "weight_decay": 0.1},
    ),
    "rmsprop": build(RMSprop, lr=0.03),
    "rmsprop_decay": build(RMSprop, lr=0.03, weight_decay=0.2, alpha=0.9),
    "rmsprop_momentum": build(RMSprop, lr=0.02, momentum=0.7),
    "rmsprop_centered": build(RMSprop, lr=0.02, centered=True),
    "rmsprop_all": build(
        RMSprop, lr=0.01, momentum=0.6, centered=True, weight_decay=0.1, maximize=True
    ),
    "rmsprop_lr_tensor": build(RMSprop, lr=lr(0.03)),
    "rmsprop_groups": two_groups(
        RMSprop, {"momentum": 0.5, "eps": 1e-3}, {"lr": 0.02, "centered": True, "alpha": 0.9}
    ),
    "adagrad": build(Adagrad, lr=0.2),
    "adagrad_decay": build(Adagrad, lr=0.2, lr_decay=0.1, weight_decay=0.2),
    "adagrad_initial": build(Adagrad, lr=0.2, initial_accumulator_value=0.3),
    "adagrad_maximize": build(Adagrad, lr=0.1, lr_decay=0.05, weight_decay=0.2, maximize=True),
    "adagrad_lr_tensor": build(Adagrad, lr=lr(0.2), lr_decay=0.1),
    "adagrad_groups": two_groups(
        Adagrad,
        {"lr_decay": 0.2},
        {"lr": 0.3, "weight_decay": 0.1, "maximize": True},
        initial_accumulator_value=0.1,
    ),
    "adadelta": build(Adadelta, lr=1.0),
    "adadelta_decay": build(Adadelta, lr=0.7, rho=0.8, weight_decay=0.2, eps=1e-3),
    "adadelta_maximize": build(Adadelta, lr=0.5, weight_decay=0.2, maximize=True),
}
for kind in (Adam, AdamW):
    name = kind.__name__.lower()
    BUILDS |= {
        name: build(kind, lr=0.05, weight_decay=0.0),
        f"{name}_decay": build(kind, lr=0.05, weight_decay=0.3, betas=(0.5, 0.9)),
        f"{name}_amsgrad": build(kind, lr=0.05, weight_decay=0.1, betas=(0.8, 0.9), amsgrad=True),
        f"{name}_maximize": build(kind, lr=0.02, weight_decay=0.2, maximize=True),
        f"{name}_lr_tensor": build(kind, lr=lr(0.05), foreach=False),
        f"{name}_fused": build(kind, lr=0.05, fused=True),
        f"{name}_groups": two_groups(
            kind,
            {"lr": 0.03, "betas": (0.5, 0.99)},
            {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "eps": 1e-3},
        ),
    }
if "decoupled_weight_decay" in inspect.signature(Adam).parameters:  # since torch 2.7
    BUILDS["adam_decoupled"] = build(Adam, lr=0.05, weight_decay=0.3, decoupled_weight_decay=True)

KEYS = [("v", "w"), ("v", "m"), ("v", "idle")]
W, M, IDLE = KEYS
#: An optimizer's state before the first step: none, or that of three steps.
PASTS = pytest.mark.parametrize("past", [0, 3])
EVERY = pytest.mark.parametrize("name", BUILDS)


def objective(values: dict[Any, Tensor], r: Tensor) -> Tensor:
    """Smooth, not quadratic, coupling everything; it does not use the third parameter."""
    w, m = values[W], values[M]
    t = torch.tensor([1.0, -2.0, 0.5], dtype=w.dtype, device=w.device)
    return (
        torch.log(torch.cosh(w - r * t)).sum()
        + torch.exp(0.3 * r) * torch.cos(m).sum()
        + 0.1 * torch.tanh(w.sum() + r) * (m**2).sum()
    )


class Run:
    """Three parameters and an optimizer of them with a past."""

    def __init__(self, made: Build, past: int, device: torch.device, eps: float | None = None):
        self.tensors = [
            nn.Parameter(tensor(device, 1, 3)),
            nn.Parameter(tensor(device, 2, 2, 2)),
            nn.Parameter(tensor(device, 3, 2)),
        ]
        self.parameters: dict[Any, Tensor] = dict(zip(KEYS, self.tensors, strict=True))
        self.optimizer = made(self.tensors)
        for group in self.optimizer.param_groups:
            if eps is not None and "eps" in group:
                group["eps"] = eps
        warmed(self.optimizer, past)
        self.rule = rule_of(self.optimizer, "test")

    def twin(self) -> Run:
        return copy.deepcopy(self)

    def values(self) -> dict[Any, Tensor]:
        return {k: p.detach().clone() for k, p in self.parameters.items()}

    def real(self, r: Tensor, steps: range, skip: int = 0) -> None:
        """Torch's own steps; every skip-th one without a gradient of m."""
        for i in steps:
            self.optimizer.zero_grad(set_to_none=True)
            objective(self.parameters, r.detach()).backward()
            if skip and i % skip == 0:
                self.parameters[M].grad = None
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def ours(
        self, values: dict[Any, Tensor], r: Tensor, steps: range, skip: int = 0, state: Any = None
    ) -> tuple[dict[Any, Tensor], Any]:
        state = self.rule.begin(self.optimizer, self.parameters) if state is None else state
        for i in steps:
            # a value that stayed is in the graph of the earlier steps too: an alias is not
            points = {k: v.clone().requires_grad_() for k, v in values.items()}
            found = torch.autograd.grad(
                objective(points, r), [points[W], points[M]], create_graph=True
            )
            gradients = dict(zip((W, M), found, strict=True))
            if skip and i % skip == 0:
                del gradients[M]
            values, state = self.rule.step(
                self.optimizer, self.parameters, values, gradients, state
            )
        return values, state

    def fingerprint(self) -> list[Any]:
        """All that must not change, with the counters of writes in place."""
        tensors = [*self.tensors, *(t for s in self.optimizer.state.values() for t in s.values())]
        return [str(self.optimizer.state_dict()), [(id(t), t._version) for t in tensors]]


def scalar(device: torch.device, x: float = 0.7) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, device=device)


def assert_same_state(found: Any, optimizer: Any, parameters: dict[Any, Tensor]) -> None:
    for key, p in parameters.items():
        expected = optimizer.state.get(p, {})
        assert set(found[key]) == set(expected), key
        for name, tensor_ in expected.items():
            ours = found[key][name]
            assert (ours.dtype, ours.device) == (tensor_.dtype, tensor_.device), name
            assert_close(ours.detach(), tensor_, 1e-12, f"{key} {name}")


@PASTS
@EVERY
def test_fifty_steps_are_torchs_own(name: str, past: int, device: torch.device) -> None:
    run, r = Run(BUILDS[name], past, device), scalar(device)
    twin, before = run.twin(), run.fingerprint()
    values, state = run.values(), None
    for start in range(0, 50, 10):
        values, state = run.ours(values, r, range(start, start + 10), 3, state)
        values = {k: v.detach() for k, v in values.items()}
        twin.real(r, range(start, start + 10), 3)
        for key, p in twin.parameters.items():
            assert_close(values[key], p.detach(), 1e-12, f"{name} {key} after {start + 10}")
    assert_same_state(state, twin.optimizer, twin.parameters)
    assert not torch.equal(values[W], run.parameters[W])
    assert torch.equal(values[IDLE], run.parameters[IDLE])
    assert run.fingerprint() == before


@PASTS
@EVERY
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
        assert_close(p.detach(), twin.parameters[key].detach(), 1e-12, f"{name} {key}")
    assert_same_state(
        run.rule.begin(run.optimizer, run.parameters), twin.optimizer, twin.parameters
    )
    # what was written is a copy: the real steps changed neither it nor the state at the beginning
    for key, tensors in kept.items():
        assert all(torch.equal(state[key][n], t) for n, t in tensors.items())
    # writing back what there was at the beginning leaves no trace
    run.rule.write(run.optimizer, run.parameters, begun)
    assert str(run.optimizer.state_dict()["state"]) == str(old[0]["state"])


def derivative_by_differences(f: Callable[[float], float], x: float) -> float:
    """Two central differences, extrapolated: the error is O(h^4)."""
    h = 2e-4
    one, two = (f(x + h) - f(x - h)) / (2 * h), (f(x + 2 * h) - f(x - 2 * h)) / (4 * h)
    return (4 * one - two) / 3


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@PASTS
@EVERY
def test_derivative_by_a_hyperparameter(
    name: str, past: int, steps: int, device: torch.device
) -> None:
    # From a fresh state the first step is nearly the gradient's sign, and its derivative would be
    # lost in the differences' rounding: a larger eps lets it be seen.
    run, r = Run(BUILDS[name], past, device, None if past else 0.05), scalar(device)
    c = {W: tensor(device, 5, 3), M: tensor(device, 6, 2, 2)}

    def final(x: float) -> float:
        twin = run.twin()
        twin.real(scalar(device, x), range(steps))
        return float(sum((c[k] * twin.parameters[k].detach()).sum() for k in c))

    values, _ = run.ours(run.values(), r.requires_grad_(), range(steps))
    found = torch.autograd.grad(sum((c[k] * values[k]).sum() for k in c), r)[0]
    expected = derivative_by_differences(final, 0.7)
    assert abs(expected) > 1e-4
    assert abs(float(found) - expected) <= 1e-6 * abs(expected), f"{name}: {found} {expected}"


def step_function(run: Run, fresh: bool) -> tuple[Callable[..., Any], list[Tensor]]:
    """Two steps as a function of all tensors that they depend on: value, two gradients, state."""
    device = run.parameters[M].device
    begun = run.rule.begin(run.optimizer, run.parameters)[M]
    names = [] if fresh else [n for n in begun if n != "step"]
    if "max_exp_avg_sq" in names:  # some maxima hold and some are overtaken, none is a near tie
        factors = torch.tensor([[2.0, 0.5], [2.0, 0.5]], dtype=torch.float64, device=device)
        begun["max_exp_avg_sq"] = begun["max_exp_avg_sq"] * factors
    inputs = [run.parameters[M].detach(), tensor(device, 8, 2, 2), tensor(device, 9, 2, 2)]
    inputs += [begun[n] for n in names]

    def steps(value: Tensor, first: Tensor, second: Tensor, *held: Tensor) -> tuple[Tensor, ...]:
        values, state = {M: value}, {M: {**begun, **dict(zip(names, held, strict=True))}}
        for gradient in (first, second):
            values, state = run.rule.step(
                run.optimizer, run.parameters, values, {M: gradient}, state
            )
        return values[M], *(t for n, t in state[M].items() if n != "step")

    return steps, [t.clone().requires_grad_() for t in inputs]


@PASTS
@EVERY
def test_first_and_second_derivatives_by_value_gradient_and_state(
    name: str, past: int, device: torch.device
) -> None:
    function, inputs = step_function(Run(BUILDS[name], past, device, 0.05), past == 0)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("name", ["adam", "adamw_amsgrad", "rmsprop_all", "adagrad", "adadelta"])
def test_third_derivatives(name: str, device: torch.device) -> None:
    function, inputs = step_function(Run(BUILDS[name], 3, device, 0.05), False)
    c = tensor(device, 10, 2, 2)

    def first_derivative(*tensors: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((c * function(*tensors)[0]).sum(), tensors, create_graph=True)

    assert torch.autograd.gradgradcheck(first_derivative, inputs)


# Where a gradient was zero all along.

DEAD = {
    "adam": build(Adam, lr=0.05),
    "adam_amsgrad": build(Adam, lr=0.05, amsgrad=True),
    "adamw": build(AdamW, lr=0.05, weight_decay=0.1),
    "rmsprop": build(RMSprop, lr=0.05),
    "rmsprop_all": build(RMSprop, lr=0.05, centered=True, momentum=0.5),
    "adagrad": build(Adagrad, lr=0.05),
    "adadelta": build(Adadelta, lr=0.5),
    "sgd": build(SGD, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("wakes", [False, True])
@pytest.mark.parametrize("name", DEAD)
def test_dead_units(name: str, wakes: bool, device: torch.device) -> None:
    """The gradient of the second coordinate is r[1], which is zero, but not its derivative by r."""
    p = parameter(device, 1, 3)
    optimizer, parameters = DEAD[name]([p]), {W: p}
    rule = rule_of(optimizer, "test")
    r0 = torch.tensor([0.5, 0.0, -0.8], dtype=torch.float64, device=device)

    def loss(w: Tensor, r: Tensor, i: int) -> Tensor:
        alive = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64, device=device)
        if wakes and i >= 3:
            alive = torch.ones_like(alive)
        return (torch.cosh(alive * w) * (1 + r**2) / 2 + r * w).sum()

    start, r = p.detach().clone().requires_grad_(), r0.clone().requires_grad_()
    w, state, values = start, rule.begin(optimizer, parameters), []
    for i in range(5):
        (g,) = torch.autograd.grad(loss(w, r, i), w, create_graph=True)
        moved, state = rule.step(optimizer, parameters, {W: w}, {W: g}, state)
        w = moved[W]
        values.append(w.detach())
    for i, value in enumerate(values):
        p.grad = None
        loss(p, r0, i).backward()
        optimizer.step()
        assert_close(value, p.detach(), 1e-12, f"{name} step {i}")
    c = tensor(device, 5, 3)
    total = (c * w).sum() + sum((c * t).sum() for s in state.values() for t in s.values())
    derivatives: list[Tensor] = [total]
    for order in (1, 2, 3):
        derivatives = list(
            torch.autograd.grad(sum(d.sum() for d in derivatives), (start, r), create_graph=True)
        )
        for d in derivatives:
            assert d.isfinite().all(), f"{name} order {order}: {d}"
            assert d[[0, 2]].all(), f"{name} order {order}: {d}"
    if not wakes and name not in ("adadelta", "sgd"):
        assert torch.autograd.grad(w[1], r)[0][1] == 0.0, "the derivative is defined as zero"


@pytest.mark.parametrize("name", [n for n in DEAD if n not in ("adadelta", "sgd")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivative_by_a_gradient_of_zero_or_of_underflow_is_zero(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    tiny = torch.finfo(dtype).tiny
    p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype, device=device))
    # squares: zero, zero by underflow, below the normal numbers, normal
    g0 = torch.tensor([0.0, tiny**0.75, tiny**0.5 / 100, 0.5], dtype=dtype, device=device)
    optimizer, parameters = DEAD[name]([p]), {W: p}
    optimizer.param_groups[0]["eps"] = 1e-3
    rule, g = rule_of(optimizer, "test"), g0.clone().requires_grad_()
    moved, state = rule.step(optimizer, parameters, {W: p.detach()}, {W: g}, {})
    p.grad = g0
    optimizer.step()
    torch.testing.assert_close(moved[W].detach(), p.detach(), rtol=1e-6, atol=0)
    assert_same_dtype(state, dtype)
    (first,) = torch.autograd.grad(moved[W].sum(), g, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), g)
    for d in (first.detach(), second):
        assert torch.equal(d[:3], torch.zeros_like(d[:3])), d
        assert d[3].isfinite()
        assert d[3] != 0


def assert_same_dtype(state: Any, dtype: torch.dtype) -> None:
    for held in state.values():
        assert all(t.dtype == dtype for n, t in held.items() if n != "step")


@pytest.mark.parametrize("kind", [Adam, Adagrad])
def test_first_step_from_a_fresh_state_is_the_sign_but_for_eps(
    kind: type, device: torch.device
) -> None:
    """The update is lr g / (|g| + eps), its derivative lr eps / (|g| + eps)^2."""
    p = parameter(device, 1, 3)
    optimizer = kind([p], lr=0.1, eps=1e-8)
    g = torch.tensor([1e-7, -1e-8, 1e-6], dtype=torch.float64, device=device, requires_grad=True)
    moved, _ = rule_of(optimizer, "test").step(optimizer, {W: p}, {W: p.detach()}, {W: g}, {})
    found = torch.autograd.grad(moved[W].sum(), g)[0]
    expected = -0.1 * 1e-8 / (g.detach().abs() + 1e-8) ** 2
    assert_close(found, expected, 1e-9)


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
    assert abs(found - expected) <= 1e-6 * abs(expected)


@pytest.mark.parametrize("name", DEAD)
def test_a_scalar_parameter_keeps_its_precision(name: str, device: torch.device) -> None:
    p = nn.Parameter(torch.tensor(1.0, device=device))
    optimizer = DEAD[name]([p])
    optimizer.param_groups[0]["lr"] = lr(0.1)
    rule, g = rule_of(optimizer, "test"), torch.tensor(0.3, device=device)
    moved, state = rule.step(optimizer, {W: p}, {W: p.detach()}, {W: g}, {})
    assert moved[W].dtype is torch.float32
    assert moved[W].shape == ()
    assert_same_dtype(state, torch.float32)


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
    assert_close(moved[W], values[W] - 0.1, 1e-15)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Rprop, type("Mine", (Adam,), {})])
def test_unknown_optimizers_are_refused(kind: type, device: torch.device) -> None:
    known = "SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta"
    with pytest.raises(mlopt.GraphError, match=f"^lower: .*{kind.__name__} .*{known}"):
        rule_of(kind([parameter(device, 1, 3)]), "lower")


def test_complex_parameters_are_refused() -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(mlopt.GraphError, match="^lower: Adam holds a complex parameter"):
        rule_of(Adam([p]), "lower")
