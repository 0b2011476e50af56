"""A stack whose members become different after the first step is refused, as it is before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, sgd
from torch import Tensor, nn

import mlopt
from mlopt import GraphError


class Pair:
    """Two networks of one kind, each with its problem."""

    def __init__(self, stacked: bool) -> None:
        x = torch.linspace(-1, 1, 8, dtype=F64).view(8, 1)
        self.nets = [self.net(i) for i in range(2)]
        problems = [self.problem(i, net, x) for i, net in enumerate(self.nets)]
        self.engine = mlopt.Engine([mlopt.Stack(problems)] if stacked else problems)

    @staticmethod
    def net(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        parts = [
            nn.Linear(1, 3),
            nn.LeakyReLU(0.1),
            nn.BatchNorm1d(3),
            nn.Dropout(0.0),
            nn.Linear(3, 1),
        ]
        return nn.Sequential(*parts).double()

    @staticmethod
    def problem(i: int, net: nn.Module, x: Tensor) -> mlopt.Problem:
        W = mlopt.Variable(net, f"w{i}")
        return mlopt.problem(over=W, optimizer=sgd(W), name=f"fit{i}")(
            lambda w: ((w(x) - 1) ** 2).mean()
        )


def tripled(module: Any, arguments: Any, result: Tensor) -> Tensor:
    return 3 * result


#: What one member becomes.
CHANGES: dict[str, Callable[[nn.Sequential], Any]] = {
    "eval": lambda net: net.eval(),
    "slope": lambda net: setattr(net[1], "negative_slope", 0.9),
    "eps": lambda net: setattr(net[2], "eps", 1.0),
    "momentum": lambda net: setattr(net[2], "momentum", 0.9),
    "hook": lambda net: net[0].register_forward_hook(tripled),
    "another hook": lambda net: net[0].register_forward_pre_hook(lambda m, x: (2 * x[0],)),
    "forward": lambda net: setattr(net[1], "forward", torch.tanh),
    "layer": lambda net: net.__setitem__(1, nn.Tanh()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_member_becomes_another(change: str) -> None:
    pair = Pair(stacked=True)
    pair.engine.step()
    before = [p.detach().clone() for net in pair.nets for p in net.parameters()]
    CHANGES[change](pair.nets[1])
    for _ in range(2):  # as long as it is so
        with pytest.raises(GraphError, match="fit1 is evaluated by the function of fit0"):
            pair.engine.step()
    after = [p for net in pair.nets for p in net.parameters()]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("change", [c for c in CHANGES if c != "layer"])
def test_all_members_become_the_same(change: str) -> None:
    stacked, listed = Pair(stacked=True), Pair(stacked=False)
    for pair in (stacked, listed):
        pair.engine.step()
        for net in pair.nets:
            CHANGES[change](net)
        pair.engine.step()
    found, expected = (
        [t.detach().double() for net in pair.nets for t in net.state_dict().values()]
        for pair in (stacked, listed)
    )
    exact(found, expected, rounding(2000))


def test_a_buffer_that_one_member_moves_at_another_pace_is_refused_at_once() -> None:
    pair = Pair(stacked=True)
    pair.nets[1][2].momentum = 0.9
    with pytest.raises(GraphError, match="other numbers into its buffers"):
        pair.engine.step()


def test_attributes_of_parameters_are_seen() -> None:
    """One of the parameters of a network, and a tensor that is a variable of its own."""

    def learners(stacked: bool) -> tuple[mlopt.Engine, list[mlopt.Variable]]:
        nets = [Pair.net(i) for i in range(2)]
        scales = [nn.Parameter(torch.full((), 0.5 + i, dtype=F64)) for i in range(2)]
        problems, variables = [], []
        for i, (net, scale) in enumerate(zip(nets, scales, strict=True)):
            net[0].bias.no_decay = True  # type: ignore[union-attr]
            scale.decay = 0.3  # type: ignore[attr-defined]
            over = [mlopt.Variable(net, f"w{i}"), mlopt.Variable(scale, f"s{i}")]
            optimizer = torch.optim.SGD([p for v in over for p in v.parameters()], lr=0.1)
            problems.append(mlopt.problem(over=over, optimizer=optimizer, name=f"fit{i}")(decayed))
            variables += over
        return mlopt.Engine([mlopt.Stack(problems)] if stacked else problems), variables

    def decayed(of: list[Any]) -> Tensor:
        net, scale = of
        free = [p for p in net.parameters() if not getattr(p, "no_decay", False)]
        return sum((p**2).sum() for p in free) + scale.decay * scale**2

    (one, found), (other, expected) = learners(True), learners(False)
    one.step()
    other.step()
    assert one.graph.stacks
    values = [[p for v in of for p in v.parameters()] for of in (found, expected)]
    exact(*values, rounding(100))


@pytest.mark.parametrize("value", [None, False, 2.0])
def test_attributes_of_parameters_that_differ_are_refused(value: Any) -> None:
    pair = Pair(stacked=True)
    pair.nets[0][0].bias.no_decay = True  # type: ignore[union-attr]
    if value is not None:
        pair.nets[1][0].bias.no_decay = value  # type: ignore[union-attr]
    shown = "none" if value is None else value
    with pytest.raises(
        GraphError, match=rf"w1.0.bias and w0.0.bias .* \.no_decay, {shown} and True"
    ):
        pair.engine.step()


def test_what_is_kept_on_a_parameter_may_differ() -> None:
    pair = Pair(stacked=True)
    pair.nets[1][0].bias.slow = torch.zeros(3)  # type: ignore[union-attr]
    pair.engine.step()
    assert pair.engine.graph.stacks
