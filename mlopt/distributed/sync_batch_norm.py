"""`sync_batch_norm`: BatchNorm over the samples of all ranks, which can be differentiated."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode

from .._arguments import checked
from .._batch_norm import Normalisation
from .._errors import SettingsError
from .shared_sums import Together, current

__all__ = ["sync_batch_norm", "takes_all_ranks"]

_M = TypeVar("_M", bound=nn.Module)


@checked(SettingsError)
def sync_batch_norm(module: _M) -> _M:
    """Let the BatchNorm of a module take the samples of all ranks, where an engine has several.

        y = gain * (x - mean) / sqrt(variance + eps) + offset

    with the mean and the variance of all ranks' samples. N ranks then give what one rank gives for
    the whole batch, to rounding, whatever each has of it; running statistics too. Without it each
    rank normalises its own samples, as the parts of a batch do, and running statistics are the mean
    of those of the ranks. In an evaluation that is not of all ranks, and in evaluation mode, such a
    layer is the plain one to the bit: outside of an engine, on one rank, in a problem with
    `split=False`.

    It can be differentiated to any order, on the CPU and on CUDA, which `torch.nn.SyncBatchNorm`
    cannot. A layer sends three times as many numbers as it has channels for each rank, once in each
    pass through it. All ranks must have samples of every batch, in one part, and must call the
    same layers in the same order.

    Args:
        module: whose layers are changed in place: torch's BatchNorm1d, 2d and 3d, classes made of
            them, and those of `mlopt.nas` and `mlopt.generators`. Parameters, buffers, hooks and
            the keys of `state_dict()` stay as they are.

    Returns:
        The module.

    Raises:
        SettingsError: it has a layer that cannot be changed.

    Do not use it for networks that skip layers at random, for each rank draws its own numbers; nor
    where batches are so large that the statistics of a rank's samples will do: it is slower.

    Reference: Peng et al., "MegDet: a large mini-batch object detector", CVPR 2018.
    """
    for name, part in module.named_modules():
        if isinstance(part, _Synchronised) or not isinstance(part, _BatchNorm | Normalisation):
            continue
        where = f"sync_batch_norm: {name or 'the module'} is a {type(part).__name__}"
        if isinstance(part, nn.SyncBatchNorm):
            raise SettingsError(
                f"{where}, which has no second derivative and nothing for the CPU. Give the "
                "network as it was before torch converted it, with BatchNorm."
            )
        if isinstance(part, LazyModuleMixin):
            raise SettingsError(
                f"{where} that has seen no input, and changes its class when it does. Call the "
                "module once on a batch before."
            )
        part.__class__ = _kind(type(part))
    return module


def takes_all_ranks(module: nn.Module) -> bool:
    """Whether a module, as it stands, normalises the samples of all ranks together."""
    return any(
        isinstance(part, _Synchronised) and (part.training or part.running_mean is None)
        for part in module.modules()
    )


class _Synchronised(nn.Module):
    """A layer of BatchNorm: as its class has it, but for the function that it ends in."""

    of: ClassVar[type]
    running_mean: Tensor | None

    def forward(self, *args: Any, **named: Any) -> Tensor:
        evaluation = current()
        if evaluation is None:
            return super().forward(*args, **named)
        with _Synchronising(evaluation) as synchronising:
            result = super().forward(*args, **named)
        if not synchronising.met:
            raise SettingsError(
                f"sync_batch_norm: a {self.of.__name__} does not call "
                "torch.nn.functional.batch_norm, so that it cannot be synchronised over ranks. "
                "Leave the modules that have one as they are."
            )
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        _, (_, *made), *state = super().__reduce_ex__(protocol)  # type: ignore[misc]
        return _new, (self.of, *made), *state


@functools.cache
def _kind(of: type) -> type:
    """The class of a layer's that is synchronised."""
    return type(f"Sync{of.__name__}", (_Synchronised, of), {"of": of, "__module__": of.__module__})


def _new(of: type, *args: Any) -> Any:
    kind = _kind(of)
    return kind.__new__(kind, *args)


class _Synchronising(TorchFunctionMode):
    """A block in which `batch_norm` takes the samples of all ranks.

    Attributes:
        met: whether it has been called.
    """

    def __init__(self, evaluation: Together) -> None:
        super().__init__()
        self._evaluation, self.met = evaluation, False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        del types
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        self.met = True
        return _batch_norm(self._evaluation, *args, **(kwargs or {}))


def _batch_norm(
    evaluation: Together,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of the samples of all ranks."""
    if not training:
        held = running_mean, running_var, weight, bias
        return F.batch_norm(input, *held, training, momentum, eps)
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    over, shape = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2))
    count = x.numel() // x.shape[1]
    shift = x.detach().sum(over) / max(count, 1)
    x = x - shift.view(shape)
    here = torch.cat([shift.new_full((1,), count), shift, x.sum(over), x.square().sum(over)])
    total, near, beside, variance = _statistics(evaluation, here, len(shift))
    if count < 2 and not total > 1:  # which no rank has to ask that has more
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.shape} "
            "and none on the other ranks"
        )
    with torch.no_grad():
        found = near + beside, variance * total / (total - 1)  # that of a sample is unbiased
        for held, value in zip((running_mean, running_var), found, strict=True):
            if held is not None:
                held.mul_(1 - momentum).add_(value.to(held.dtype), alpha=momentum)
    slope = (variance + eps).rsqrt()
    slope = slope if weight is None else slope * weight
    offset = (shift - near - beside) * slope
    offset = offset if bias is None else offset + bias
    return torch.addcmul(offset.view(shape), x, slope.view(shape)).to(input.dtype)


def _statistics(
    evaluation: Together, here: Tensor, channels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The number of values that a channel has on all ranks, their mean and their variance.

    A rank adds up what is left after a shift of its own, a constant near its mean, and has a row by
    itself in the one collective. So nothing cancels where means are large.

    Args:
        evaluation: of all ranks.
        here: the number of this rank's values, the shifts, and the sums of what is left and of its
            squares.
        channels: how many there are.

    Returns:
        The number; a constant near the mean, and the mean without it; the variance.
    """
    ranks = evaluation.sums.ranks
    rows = F.pad(here[None], (0, 0, ranks.rank, ranks.size - 1 - ranks.rank))
    rows = evaluation.added(rows)
    counts, shifts = rows[:, :1].detach(), rows[:, 1 : 1 + channels].detach()
    sums, squares = rows[:, 1 + channels :].split(channels, dim=1)
    total, near = counts.sum(), shifts[0]
    means = sums / counts.clamp(min=1)
    apart = shifts - near + means
    beside = (counts * apart).sum(0) / total
    within = squares - sums * means
    variance = (within + counts * (apart - beside).square()).sum(0) / total
    return total, near, beside, variance
