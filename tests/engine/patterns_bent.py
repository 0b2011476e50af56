"""Patterns of backward passes that are not those of their values, and of functions of one's own."""

from __future__ import annotations

from typing import Any

import torch
from engine.patterns import Pattern
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gumbel_softmax, linear, one_hot

__all__ = ["BENT", "Net"]


class Net(nn.Module):
    """Two layers with something between."""

    def __init__(self, between: Any = torch.tanh) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(3, 3), between, nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def rounded(h: Tensor) -> Tensor:
    return h + (torch.round(2 * h) / 2 - h).detach()


def chosen(h: Tensor) -> Tensor:
    soft = h.softmax(-1)
    return one_hot(soft.argmax(-1), 3).to(soft) + soft - soft.detach()


def faked(h: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(h, 0.1, 0, -128, 127)


def quantised() -> nn.Module:
    from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver

    return Net(FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255))


class Binary(nn.Module):
    """Weights of two values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return linear(x, w + (w.sign() - w).detach()).tanh()


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return -0.5 * cotangent


class Adversary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.label, self.domain = nn.Linear(3, 3), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return torch.cat([self.label(h), self.domain(Reversed.apply(h))], 1)


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


def hooked(h: Tensor) -> Tensor:
    h = h.tanh()
    h.register_hook(lambda g: 0.5 * g)
    return h


def backward_hook() -> nn.Module:
    net = Net(nn.Tanh())
    net.between.register_full_backward_hook(lambda m, into, out: (0.5 * into[0],))
    return net


def hard_draw(h: Tensor) -> Tensor:
    return gumbel_softmax(h, hard=True)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.two(x)
        return self.one(x).tanh() - target + self.two(x).detach() * self.one(x) + self.two(x)


_WARNED = "along its own gradient its value changes by"

BENT = {
    "straight through": Pattern(lambda: Net(rounded), differences=_WARNED),
    "hard choice": Pattern(lambda: Net(chosen), differences=_WARNED),
    "hard draw": Pattern(lambda: Net(hard_draw), differences=_WARNED),
    "fake quantisation": Pattern(lambda: Net(faked), differences=_WARNED),
    "quantisation aware": Pattern(quantised, differences=_WARNED),
    "binary weights": Pattern(Binary, differences=_WARNED),
    "reversed": Pattern(Adversary, differences=_WARNED),
    "own function": Pattern(lambda: Net(lambda h: Cubed.apply(0.5 * h))),
    "own function, once": Pattern(
        lambda: Net(lambda h: Once.apply(0.5 * h)), plain=lambda: Net(lambda h: (0.5 * h) ** 3),
        second="once_differentiable",
    ),
    "hook on a tensor": Pattern(lambda: Net(hooked), differences=_WARNED),
    "backward hook": Pattern(backward_hook, differences=_WARNED),
    "detached parts": Pattern(Detached, differences=_WARNED),
}  # fmt: skip
