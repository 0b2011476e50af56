"""Patterns of parameters: reparametrised, shared, frozen, adapted, of other types and places."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from engine.patterns import Pattern, rows
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

__all__ = ["WEIGHTS"]


def around(layer: Callable[[nn.Linear], nn.Module]) -> Callable[[], nn.Module]:
    """A network with a middle layer of another kind."""

    def make() -> nn.Module:
        with warnings.catch_warnings():  # of what is deprecated
            warnings.simplefilter("ignore")
            return nn.Sequential(layer(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 1))

    return make


class Directed(nn.Module):
    """What weight norm is, written out: torch's second derivatives of its own are wrong."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        w = layer.weight.detach()
        self.bias, self.length = layer.bias, nn.Parameter(w.norm(dim=1, keepdim=True))
        self.direction = nn.Parameter(w.clone())

    def forward(self, x: Tensor) -> Tensor:
        size = self.direction.square().sum(1, keepdim=True).sqrt()
        return nn.functional.linear(x, self.length * self.direction / size, self.bias)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).T


def symmetric(layer: nn.Linear) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def cached(w: Any, x: Tensor) -> Tensor:
    with parametrize.cached():
        return w(x) + w(x.sin())


class Lora(nn.Module):
    """A frozen layer and what is learned beside it."""

    def __init__(self, base: nn.Linear, narrow: bool = False) -> None:
        super().__init__()
        self.base, self.narrow = base.requires_grad_(requires_grad=False), narrow
        self.down = nn.Parameter(torch.randn(1, 3))
        self.up = nn.Parameter(torch.randn(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        beside = x @ self.down.T @ self.up.T
        if self.narrow:
            return self.base(x.bfloat16()).to(x.dtype) + beside
        return self.base(x) + beside


def narrow_base(net: nn.Module) -> nn.Module:
    net.double()[0].base.bfloat16()
    return net


def frozen_part() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    net[0].requires_grad_(requires_grad=False)
    net[2].bias.requires_grad_(requires_grad=False)
    return net


class Tied(nn.Module):
    """One weight in three places, once transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.two(self.one(x).tanh()).tanh()
        return nn.functional.linear(h, self.one.weight.T)


class Twice(nn.Module):
    """One module in two places."""

    def __init__(self) -> None:
        super().__init__()
        part = nn.Linear(3, 3)
        self.all = nn.ModuleList([part, nn.Tanh(), part])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.all:
            x = part(x)
        return x


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ParameterList([torch.randn(3, 3), torch.randn(3), torch.randn(())])

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, scale = self.all
        return scale * (x @ weight + bias).tanh()


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ParameterDict({"weight": torch.randn(3, 2), "bias": torch.randn(2)})
        self.more = nn.ModuleDict({"tanh": nn.Tanh()})

    def forward(self, x: Tensor) -> Tensor:
        return self.more["tanh"](x @ self.all["weight"] + self.all["bias"])


class Absent(nn.Module):
    """Parameters that are None, of no size, never used, and outputs that are None."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2, bias=False)
        self.register_parameter("nothing", None)
        self.register_buffer("nowhere", None)
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.unused = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return torch.cat([self.layer(x), (x @ self.empty.T)], 1).sin(), None


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))
        self.bias = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs().square().sin() + self.bias


class Spectrum(nn.Module):
    """A filter in frequencies, whose parameters are pairs of real numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(self.filter), n=3).tanh()


class Hyper(nn.Module):
    """The weights of a template, computed by a network."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(2, 8)
        self.template = [nn.Linear(3, 2, dtype=torch.float64)]  # its own weights are never used

    def forward(self, x: Tensor) -> Tensor:
        flat = self.code(x[:, :2].mean(0)).tanh()
        weights = {"weight": flat[:6].view(2, 3), "bias": flat[6:]}
        return functional_call(self.template[0], weights, (x,))


class Ensemble(nn.Module):
    """Members as one, by vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(2, 3, 2)), nn.Parameter(torch.randn(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        one = torch.func.vmap(lambda w, b: (x @ w + b).tanh())
        return one(self.weight, self.bias).movedim(0, 1)


def lazy(dry: bool) -> nn.Module:
    net = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.LazyLinear(1))
    if dry:
        net(rows(0, dtype=torch.float32))
    return net


class Mixed(nn.Module):
    """A part in float32 in a network of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.float()).tanh().double())


def mixed(net: nn.Module) -> nn.Module:
    net.last.double()
    return net


class Marked(nn.Parameter):
    """A parameter of a class of its own."""


class OwnClass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = Marked(torch.randn(3, 2))
        self.stretched = nn.Parameter(torch.randn(2, 4).T[::2])

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).sin() @ self.stretched


class Averaged(nn.Module):
    """A student drawn to the mean of its past, which is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("mean", torch.zeros(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        teacher = nn.functional.linear(x, self.mean.clone())
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(self.layer.weight, 0.1)
        return self.layer(x).tanh() - teacher


class Teacher(nn.Module):
    """A frozen copy beside it, of torch's own averaging."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(3, 2)
        self.teacher = torch.optim.swa_utils.AveragedModel(copy.deepcopy(self.student))
        self.teacher.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x).tanh() - 0.5 * self.teacher(x)


class Counting(nn.Module):
    """Buffers that are replaced, counted in, and that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(1, 3))
        self.register_buffer("flag", torch.tensor(False), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.flag = ~self.flag
        shift = self.seen.mean()
        self.seen = torch.cat([self.seen, x.detach()])
        return self.layer(x + shift).sin() * (1 + 0.1 * self.calls)


def half(net: nn.Module) -> nn.Module:
    return net.half()


def bfloat(net: nn.Module) -> nn.Module:
    return net.bfloat16()


def narrow(kind: torch.dtype) -> Any:
    return lambda k: rows(k, dtype=kind)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))


_NARROW = "it computes in"
#: The vectors of spectral norm have not converged to 1e-2, whose square counts.
_VECTORS = 1e-4

WEIGHTS = {
    "weight norm, old": Pattern(around(weight_norm), plain=around(Directed)),
    "weight norm, new": Pattern(around(parametrizations.weight_norm), plain=around(Directed)),
    "spectral norm, old": Pattern(around(spectral_norm), constants=_VECTORS),
    "spectral norm, new": Pattern(around(parametrizations.spectral_norm), constants=_VECTORS),
    "parametrisation": Pattern(around(symmetric)),
    "parametrisation, cached": Pattern(around(symmetric), out=cached),
    "orthogonal": Pattern(around(parametrizations.orthogonal)),
    "pruned": Pattern(around(lambda m: prune.l1_unstructured(m, "weight", 4))),
    "lora": Pattern(around(Lora)),
    "lora on bfloat16": Pattern(
        around(lambda m: Lora(m, narrow=True)), cast=narrow_base, differences=_NARROW
    ),
    "frozen parts": Pattern(frozen_part),
    "tied": Pattern(Tied),
    "one module twice": Pattern(Twice),
    "parameter list": Pattern(Listed),
    "parameter dict": Pattern(Named),
    "none": Pattern(Absent, out=lambda w, x: w(x)[0]),
    "complex": Pattern(Complex),
    "frequencies": Pattern(Spectrum),
    "functional call": Pattern(Hyper),
    "vmap": Pattern(Ensemble),
    "lazy": Pattern(lambda: lazy(dry=False), refused="w.0 is a LazyLinear that has seen no input"),
    "lazy, called before": Pattern(lambda: lazy(dry=True)),
    "float32 in float64": Pattern(Mixed, cast=mixed, dtype=torch.float32),
    "float16": Pattern(
        plain, narrow(torch.float16), cast=half, differences=_NARROW, dtype=torch.float16
    ),
    "bfloat16": Pattern(
        plain, narrow(torch.bfloat16), cast=bfloat, differences=_NARROW, dtype=torch.bfloat16
    ),
    "own class and strides": Pattern(OwnClass),
    "moving average": Pattern(Averaged),
    "teacher": Pattern(Teacher),
    "buffers that change": Pattern(Counting),
}
