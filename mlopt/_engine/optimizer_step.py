"""`optimizer_step`: an optimizer's step, without what torch puts around it for others."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch.autograd import profiler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["optimizer_step"]


def _wrapping() -> Any:
    """The code of what torch puts around each `step`, which calls hooks and tells profilers."""
    try:
        return torch.optim.Optimizer.profile_hook_step(lambda: None).__code__
    except Exception:  # of a torch that has no such thing
        return None


_WRAPPING = _wrapping()


def optimizer_step(optimizer: Any) -> None:
    """Let an optimizer step.

    Where no profiler asks and there are no hooks, what torch's wrapper is around is called by
    itself: in a small step the wrapper takes longer than that. An observer that is none of torch's
    profilers (`ExecutionTraceObserver` alone) then sees the operations without the step's name.

    Args:
        optimizer: any that has a `step()`.
    """
    kind = type(optimizer)
    step = getattr(kind, "step", None)
    if _is_wrapped(step) and not (
        kind.__getattribute__ is not object.__getattribute__  # which may give another
        or "step" in vars(optimizer)  # its own, or counted by a scheduler
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or getattr(profiler, "_is_profiler_enabled", True)
    ):
        step.__wrapped__(optimizer)  # type: ignore[union-attr]
        if optimizer._optimizer_step_post_hooks or _global_optimizer_post_hooks:  # by this step
            own = optimizer._optimizer_step_post_hooks.values()
            for hook in chain(own, _global_optimizer_post_hooks.values()):
                hook(optimizer, (optimizer,), {})
    else:
        optimizer.step()


def _is_wrapped(step: Any) -> bool:
    """Whether it is torch's wrapper: the same code is around each step, and is nobody else's."""
    return _WRAPPING is not None and getattr(step, "__code__", None) is _WRAPPING
