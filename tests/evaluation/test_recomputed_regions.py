"""What is computed again is computed as it was first: by the same kernels, written out or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, seeded, sgd
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import weight_norm
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils.checkpoint import checkpoint

import mlopt
from mlopt import Dense, Implicit, OneStep, Unrolled

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(6, 4)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)[None, None]
        return nn.functional.scaled_dot_product_attention(h, h, h)[0, 0]


#: Each is evaluated otherwise where second derivatives are taken, or third ones.
BLOCKS = {
    "attention": Attention,
    "weight norm": lambda: weight_norm(nn.Linear(4, 4)),
    "layer norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
}
METHODS = {
    "one step": OneStep(),
    "unrolled": Unrolled(2),
    "implicit": Implicit(Dense(), damping=2.0),
}


class Again(torch.autograd.Function):
    """A block that is computed once more in its backward, as often differentiable as the block."""

    @staticmethod
    def forward(ctx: Any, block: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.block = block
        ctx.save_for_backward(x)
        return block(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        parameters = list(ctx.block.parameters())
        with torch.enable_grad():
            y = ctx.block(*ctx.saved_tensors)
            return None, None, *torch.autograd.grad(y, parameters, cotangent, create_graph=True)


class Net(nn.Module):
    def __init__(self, block: str, again: str) -> None:
        super().__init__()
        self.block, self.last, self.again = BLOCKS[block](), nn.Linear(4, 1), again

    def forward(self, x: Tensor) -> Tensor:
        if self.again == "checkpoint":
            h = checkpoint(self.block, x, use_reentrant=False)
        elif self.again == "function":
            h = Again.apply(self.block, x, *self.block.parameters())
        else:
            h = self.block(x)
        return self.last(h.tanh())


def world(net: nn.Module, method: Any, levels: int) -> mlopt.Engine:
    B, A = (nn.Parameter(torch.full((1,), v, dtype=F64)) for v in (0.3, 0.7))
    W, V, U = mlopt.Variable(net, "w"), mlopt.Variable(B, "b"), mlopt.Variable(A, "a")

    @mlopt.problem(over=W, given=[V], optimizer=sgd(W, 0.3))
    def low(w, b):
        return ((w(X) * b.exp() - 1) ** 2).mean() + 0.1 * sum((p**2).sum() for p in w.parameters())

    @mlopt.problem(over=V, given=[W, U] if levels == 3 else [W], optimizer=sgd(V, 0.3))
    def middle(b, w, a=None):
        return ((w(X) - 2) ** 2).mean() + (b**4).sum() * (1 if a is None else a.exp().sum())

    @mlopt.problem(over=U, given=[V, W], optimizer=sgd(U, 0.3))
    def top(a, b, w):
        return (b * w(X)).mean() + (a**2).sum()

    return mlopt.Engine([low, middle, top][:levels], hypergrad=method)


@pytest.fixture(autouse=True)
def _kernels() -> Any:
    """What is put back: the kernels of attention, and the modes of functions."""
    before = torch.backends.cuda.flash_sdp_enabled(), _get_current_function_mode()
    yield
    assert (torch.backends.cuda.flash_sdp_enabled(), _get_current_function_mode()) == before


def found(block: str, again: str, method: str, levels: int) -> list[Tensor]:
    """The hypergradient, and what two steps make of the network."""
    net = seeded(4, lambda: Net(block, again))
    engine = world(net, METHODS[method], levels)
    top = engine.graph.problems[-1]
    gradient = engine.hypergradient(top)[top.over[0]][""].clone()
    engine.run(steps=2, progress=False)
    return [gradient, *(t.detach() for t in (*net.parameters(), *net.buffers()))]


@pytest.mark.filterwarnings("ignore:.*mathematical kernel:mlopt.CapabilityWarning")
@pytest.mark.parametrize(
    ("block", "method", "levels", "again"),
    [
        ("attention", "one step", 2, "checkpoint"), ("attention", "unrolled", 2, "function"),
        ("weight norm", "one step", 2, "checkpoint"), ("weight norm", "unrolled", 2, "function"),
        ("weight norm", "unrolled", 3, "checkpoint"), ("layer norm", "one step", 3, "checkpoint"),
        ("layer norm", "implicit", 3, "checkpoint"), ("layer norm", "implicit", 3, "function"),
        ("batch norm", "implicit", 3, "checkpoint"), ("batch norm", "unrolled", 3, "checkpoint"),
    ],
)  # fmt: skip
def test_it_is_as_if_it_were_computed_once(
    block: str, method: str, levels: int, again: str
) -> None:
    plain = found(block, "no", method, levels)
    for a, b in zip(found(block, again, method, levels), plain, strict=True):
        exact(a, b, rounding(2000, condition=100))


class Mine(TorchFunctionMode):
    """One of the user's own, around all of a run."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:.*mathematical kernel:mlopt.CapabilityWarning")
@pytest.mark.parametrize("block", ["attention", "weight norm"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_is_raised_while_it_is_computed_again_leaves_it(block: str, error: Any) -> None:
    net = seeded(4, lambda: Net(block, "checkpoint"))
    engine = world(net, OneStep(), 2)
    engine.step()
    calls = [0]

    def falls(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 2:  # the first call is the forward one
            raise error

    handle = net.block.register_forward_pre_hook(falls)
    with Mine() as mine:
        with pytest.raises(error):
            engine.step()
        assert _get_current_function_mode() is mine
        handle.remove()
        assert torch.backends.cuda.flash_sdp_enabled()
        engine.step()
        assert _get_current_function_mode() is mine


def test_the_kernels_of_the_user_stay() -> None:
    """Around a backward pass that enters regions of its own."""
    net = seeded(4, lambda: Net("weight norm", "checkpoint"))
    engine = world(net, OneStep(), 2)
    with sdpa_kernel(SDPBackend.MATH):
        engine.run(steps=2, progress=False)
        assert not torch.backends.cuda.flash_sdp_enabled()
