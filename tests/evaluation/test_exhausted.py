"""Where memory or the stack runs out, that is said, and no other way is taken for the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import F64, sgd
from torch import Tensor, nn

import mlopt
from mlopt import Dense, Implicit, OneStep, Unrolled
from mlopt._errors import exhausted

X = torch.linspace(-1.0, 1.5, 24, dtype=F64).reshape(8, 3)

CPU = (
    "[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = {
    "of a device": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "of the host": RuntimeError(CPU),
    "of Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    "of a library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    "of Python": MemoryError(),
    "of the stack": RecursionError("maximum recursion depth exceeded"),
    "an interrupt": KeyboardInterrupt(),
}


class Failing:
    """An identity that raises something when a derivative of an order is first taken."""

    def __init__(self, order: int, error: BaseException) -> None:
        self.order, self.error, self.left = order, error, 1

    def __call__(self, x: Tensor) -> Tensor:
        return _Identity.apply(x, self, 1)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, failing: Failing, order: int) -> Tensor:
        ctx.failing, ctx.order = failing, order
        return x * 1

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        failing = ctx.failing
        if ctx.order == failing.order and failing.left:
            failing.left -= 1
            raise failing.error
        return _Identity.apply(cotangent, failing, ctx.order + 1), None, None


def world(identity: Any, method: Any, levels: int) -> mlopt.Engine:
    torch.manual_seed(0)
    B, A = (nn.Parameter(torch.full((1,), v, dtype=F64)) for v in (0.3, 0.7))
    W = mlopt.Variable(nn.Linear(3, 1, dtype=F64), "w")
    V, U = mlopt.Variable(B, "b"), mlopt.Variable(A, "a")

    @mlopt.problem(over=W, given=[V], optimizer=sgd(W, 0.1))
    def low(w, b):
        return ((identity(w(X) * b.exp()) - 1) ** 2).mean()

    @mlopt.problem(over=V, given=[W, U] if levels == 3 else [W], optimizer=sgd(V, 0.1))
    def middle(b, w, a=None):
        return ((w(X) - 2) ** 2).mean() + (b**4).sum() * (1 if a is None else a.exp().sum())

    @mlopt.problem(over=U, given=[V, W], optimizer=sgd(U, 0.1))
    def top(a, b, w):
        return (b * w(X)).mean() + (a**2).sum()

    return mlopt.Engine([low, middle, top][:levels], hypergrad=method)


METHODS = {
    "one step": OneStep(),
    "unrolled": Unrolled(2),
    "implicit": Implicit(Dense(), damping=2.0),
}


@pytest.mark.parametrize(
    ("name", "method", "order", "levels"),
    [
        *((name, "one step", 2, 2) for name in ERRORS),
        ("of the host", "unrolled", 2, 2),
        ("of a device", "one step", 1, 2),
        ("of a device", "implicit", 3, 3),
        ("of the stack", "unrolled", 3, 3),
    ],
)
def test_it_is_raised_as_it_is_and_nothing_changes(
    name: str, method: str, order: int, levels: int
) -> None:
    error = ERRORS[name]
    engine, plain = (
        world(identity, METHODS[method], levels)
        for identity in (Failing(order, error), lambda x: x * 1)
    )
    methods = dict(engine.graph.methods)
    with pytest.raises(type(error)) as raised:
        engine.step()
    assert raised.value is error
    assert engine.graph.methods == methods
    assert not engine.graph.notes
    for found, expected in zip(engine.step().values(), plain.step().values(), strict=True):
        assert torch.equal(found, expected)


def test_it_is_not_what_functions_get_wrong() -> None:
    wrong = "derivative for aten::_flash_attention_backward is not implemented"
    for error in (RuntimeError(wrong), ValueError("out of memory"), NotImplementedError()):
        assert not exhausted(error)


def test_the_host_says_so() -> None:
    """The words are torch's."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert exhausted(raised.value)


def test_an_audit_does_not_take_it_for_another_precision() -> None:
    """In float64 numbers take twice the memory."""

    class Greedy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.weight.dtype == F64:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

    W = mlopt.Variable(Greedy(3, 1), "w")
    V = mlopt.Variable(nn.Parameter(torch.zeros(1)), "b")
    x = X.float()

    @mlopt.problem(over=W, given=[V], optimizer=sgd(W, 0.1))
    def low(w, b):
        return ((w(x.to(b.dtype)) * b.exp() - 1) ** 2).mean()

    @mlopt.problem(over=V, given=[W], optimizer=sgd(V, 0.1))
    def up(b, w):
        return ((w(x.to(b.dtype)) - 2) ** 2).mean()

    with pytest.raises(torch.OutOfMemoryError):
        mlopt.audit(mlopt.Engine([low, up], hypergrad=OneStep()))
