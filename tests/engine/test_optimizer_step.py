"""Whoever looks at an optimizer's steps sees each one, though torch's wrapper is left out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.profiler import ProfilerActivity, profile

import mlopt

Steps = list[str]
Look = Callable[[torch.optim.Optimizer, Steps, pytest.MonkeyPatch], AbstractContextManager[None]]
NAME = "Optimizer.step#SGD.step"


@contextmanager
def _hooks(sgd: torch.optim.Optimizer, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    sgd.register_step_pre_hook(lambda *_: steps.append("before"))
    yield


@contextmanager
def _after(sgd: torch.optim.Optimizer, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    sgd.register_step_post_hook(lambda *_: steps.append("after"))
    yield


@contextmanager
def _all_before(sgd: object, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    handle = register_optimizer_step_pre_hook(lambda *_: steps.append("before all"))
    yield
    handle.remove()


@contextmanager
def _all_after(sgd: object, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    handle = register_optimizer_step_post_hook(lambda *_: steps.append("after all"))
    yield
    handle.remove()


@contextmanager
def _profiler(sgd: object, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        yield
    steps += [event.name for event in seen.events() or () if event.name == NAME]


@contextmanager
def _old_profiler(sgd: object, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with torch.autograd.profiler.profile() as seen:
        yield
    assert seen is not None
    steps += [event.name for event in seen.function_events or () if event.name == NAME]


@contextmanager
def _in_the_class(sgd: object, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    held = torch.optim.SGD.step

    @functools.wraps(held)
    def step(self: torch.optim.SGD) -> object:
        steps.append("class")
        return held(self)

    patch.setattr(torch.optim.SGD, "step", step)
    yield


@contextmanager
def _in_the_object(
    sgd: torch.optim.Optimizer, steps: Steps, patch: pytest.MonkeyPatch
) -> Iterator[None]:
    held = sgd.step

    def step() -> object:
        steps.append("object")
        return held()

    patch.setattr(sgd, "step", step)
    yield


@contextmanager
def _scheduler(
    sgd: torch.optim.Optimizer, steps: Steps, patch: pytest.MonkeyPatch
) -> Iterator[None]:
    torch.optim.lr_scheduler.StepLR(sgd, 10)
    yield
    steps += ["counted"] * getattr(sgd, "_opt_called", False)


@contextmanager
def _nobody(sgd: torch.optim.Optimizer, steps: Steps, patch: pytest.MonkeyPatch) -> Iterator[None]:
    code = type(sgd)._optimizer_step_code  # which the wrapper calls

    def called(self: torch.optim.Optimizer) -> None:
        steps.append("wrapper")
        code(self)

    patch.setattr(torch.optim.SGD, "_optimizer_step_code", called)
    yield


LOOKS: dict[str, tuple[Look, Steps]] = {
    "nobody": (_nobody, []),
    "hooks before": (_hooks, ["before"]),
    "hooks after": (_after, ["after"]),
    "hooks of all, before": (_all_before, ["before all"]),
    "hooks of all, after": (_all_after, ["after all"]),
    "profiler": (_profiler, [NAME]),
    "autograd's profiler": (_old_profiler, [NAME]),
    "a patched class": (_in_the_class, ["class"]),
    "a patched object": (_in_the_object, ["object"]),
    "a scheduler": (_scheduler, ["counted"]),
}


@pytest.mark.parametrize("who", LOOKS)
@pytest.mark.filterwarnings("ignore:Warning.*Profiler clears events")
def test_whoever_looks_sees_the_step(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look, expected = LOOKS[who]
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    plain = torch.nn.Parameter(w.detach().clone())
    W = mlopt.Variable(w, "w")
    sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01)

    @mlopt.problem(over=W, optimizer=sgd)
    def inner(w: torch.Tensor) -> torch.Tensor:
        return (w**4).sum()

    engine, steps = mlopt.Engine([inner]), Steps()
    engine.step()  # with its check
    with look(sgd, steps, monkeypatch):
        engine.step()
    assert steps == expected

    monkeypatch.undo()
    other = torch.optim.SGD([plain], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        other.zero_grad()
        (plain**4).sum().backward()
        other.step()
    assert torch.equal(w, plain)


def test_a_subclass_steps_as_it_says() -> None:
    class Halved(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.div_(2)
            super().step()

    w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    W = mlopt.Variable(w, "w")

    @mlopt.problem(over=W, optimizer=Halved([w], lr=0.5))
    def inner(w: torch.Tensor) -> torch.Tensor:
        return w * 3

    mlopt.Engine([inner]).step()
    assert w.item() == 1 - 0.5 * 1.5


class GivesAnother(torch.optim.SGD):
    """Whose `step` is not that of the class, which is found first by who asks the class."""

    def __getattribute__(self, name: str) -> object:
        if name == "step":
            return lambda: self.param_groups[0]["params"][0].data.sub_(0.25)
        return super().__getattribute__(name)


class HooksItself(torch.optim.SGD):
    """Which gets a hook in its first step; torch calls it after that step already."""

    def step(self) -> None:  # type: ignore[override]
        super().step()
        if not self._optimizer_step_post_hooks:
            self.register_step_post_hook(lambda sgd, args, kwargs: self._halve(args, kwargs))

    def _halve(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        assert args == (self,)
        assert not kwargs
        self.param_groups[0]["params"][0].data.mul_(0.5)


@pytest.mark.parametrize(("kind", "end"), [(GivesAnother, 0.75), (HooksItself, 0.125)])
def test_whatever_torch_would_call_is_called(kind: type[torch.optim.SGD], end: float) -> None:
    for plain in (True, False):
        w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        sgd = kind([w], lr=0.25)
        if plain:
            (3 * w).backward()
            sgd.step()
        else:
            W = mlopt.Variable(w, "w")
            inner = mlopt.problem(over=W, optimizer=sgd)(lambda w: 3 * w)
            mlopt.Engine([inner]).step()
        assert w.item() == end
