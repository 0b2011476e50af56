"""An optimizer is given gradients as torch's own backward leaves them: to read, and to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64
from torch import Tensor, nn

import mlopt
from mlopt._engine.gradients import given


class Old(torch.optim.Optimizer):
    """Decays weights in the gradient itself, as optimizers of older days do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            p.grad.add_(p, alpha=0.5)
            p.sub_(p.grad, alpha=0.1)


class Given(torch.autograd.Function):
    """The product with a tensor, which its backward returns as it is."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return (w * x).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return ctx.saved_tensors[0], None


def hooked(write: Callable[[Tensor], Any]) -> Callable[[Any], torch.optim.Optimizer]:
    """SGD whose hook writes into the gradients."""

    def make(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.1)

        def hook(of: Any, *_: Any) -> None:
            for p in (p for group in of.param_groups for p in group["params"]):
                write(p.grad)

        optimizer.register_step_pre_hook(hook)
        return optimizer

    return make


C = torch.linspace(1, 2, 9, dtype=F64).view(3, 3).sin()
#: Terms whose gradients repeat a number, are one tensor for two parameters, or parts of one, or
#: are laid out otherwise than the parameters.
TERMS: dict[str, Callable[..., Tensor]] = {
    "a sum": lambda a, b: a.sum() + b.sum(),
    "means": lambda a, b: a.mean(0).sum() + b.mean(),
    "one sum of both": lambda a, b: ((a + b - 1) ** 2).sum(),
    "parts of one": lambda a, b: (torch.cat([a, b]) ** 2).sum() + a.sum(),
    "transposed": lambda a, b: (
        (torch.linspace(1, 2, 9, dtype=F64).view(3, 3) @ a.t()).sin().sum() + (b.t() @ b.t()).sum()
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "fused SGD": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "fused Adam": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "halved": hooked(lambda g: g.mul_(0.5)),
    "clamped": hooked(lambda g: g.clamp_(-0.1, 0.1)),
    "old": Old,
}


def parameters() -> nn.ParameterList:
    start = torch.linspace(-1, 1, 9, dtype=F64).view(3, 3)
    return nn.ParameterList([start.clone(), (2 * start).sin().t()])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("term", TERMS)
def test_steps_are_torchs(term: str, optimizer: str) -> None:
    ours, theirs = parameters(), parameters()
    W = mlopt.Variable(ours, "w")
    fit = mlopt.problem(over=W, optimizer=OPTIMIZERS[optimizer](ours.parameters()), name="fit")(
        lambda w: TERMS[term](*w)
    )
    engine = mlopt.Engine([fit])
    plain = OPTIMIZERS[optimizer](theirs.parameters())
    for _ in range(3):
        engine.step()
        plain.zero_grad()
        TERMS[term](*theirs).backward()
        plain.step()
    exact([*ours], [*theirs], rounding(100))


@pytest.mark.parametrize("optimizer", ["fused Adam", "old"])
def test_a_convolution_in_another_order_of_memory(optimizer: str) -> None:
    x = torch.linspace(-1, 1, 64, dtype=F64).view(1, 2, 4, 8)
    weights = torch.linspace(-1, 1, 54, dtype=F64).view(3, 2, 3, 3)

    def loss(net: Any) -> Tensor:
        return (net(x) ** 2).mean() + (net.weight * weights).sum()

    torch.manual_seed(0)
    ours = nn.Conv2d(2, 3, 3, dtype=F64).to(memory_format=torch.channels_last)
    theirs = nn.Conv2d(2, 3, 3, dtype=F64).to(memory_format=torch.channels_last)
    theirs.load_state_dict(ours.state_dict())
    W = mlopt.Variable(ours, "w")
    make = OPTIMIZERS[optimizer]
    engine = mlopt.Engine([mlopt.problem(over=W, optimizer=make(ours.parameters()))(loss)])
    plain = make(theirs.parameters())
    for _ in range(3):
        engine.step()
        plain.zero_grad()
        loss(theirs).backward()
        plain.step()
    exact([*ours.parameters()], [*theirs.parameters()], rounding(2000))


def test_what_a_backward_of_the_users_returns_stays_the_users() -> None:
    w, x = nn.Parameter(torch.ones(3, dtype=F64)), torch.full((3,), 2.0, dtype=F64)
    fit = mlopt.problem(over=mlopt.Variable(w, "w"), optimizer=Old([w]), data=[x], name="fit")(
        Given.apply
    )
    mlopt.Engine([fit]).step()
    assert torch.equal(x, torch.full((3,), 2.0, dtype=F64))
    exact(w, torch.full((3,), 1 - 0.1 * (2 + 0.5), dtype=F64), rounding(10))


def test_gradients_that_are_as_they_have_to_be_are_not_copied() -> None:
    own = {("w", str(i)): p for i, p in enumerate(parameters())}
    gradient = {k: p.detach() + 1 for k, p in own.items()}
    found = given(own, gradient, False)
    assert all(found[k] is gradient[k] for k in own)
    flat = torch.ones(3, 1, 1, 1).expand(3, 1, 1, 1)
    thin = {("w", ""): nn.Parameter(torch.ones(3, 1, 1, 1))}
    other = {("w", ""): flat.as_strided((3, 1, 1, 1), (1, 3, 3, 3))}  # where one number is, none is
    assert given(thin, other, False)["w", ""] is other["w", ""]


class Bare(torch.optim.Optimizer):
    """Passes an optimizer on, and never calls `Optimizer.__init__`."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.count = inner, 0
        self.defaults, self.state = inner.defaults, inner.state
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.count += 1
        self.inner.step()


def test_a_wrapper_that_never_became_an_optimizer() -> None:
    w = nn.Parameter(torch.ones(2, dtype=F64))
    optimizer = Bare(torch.optim.SGD([w], lr=0.1, momentum=0.9))
    fit = mlopt.problem(over=mlopt.Variable(w, "w"), optimizer=optimizer)(lambda w: (w**2).sum())
    engine = mlopt.Engine([fit])
    engine.step()
    engine.step()
    assert optimizer.count == 2
    exact(w, torch.full((2,), 1 - 0.2 - (0.16 + 0.18), dtype=F64), rounding(20))
