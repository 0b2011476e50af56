"""What is sharded, and how it may be."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .._errors import GraphError
from .._graph.graph import Graph
from .._graph.problem import Problem
from .._variable import Variable
from ..distributed.ranks import Ranks
from ..hypergrad.interface import foreign

__all__ = [
    "check_hooks", "check_optimizer", "check_options", "check_sharded", "fsdp_modules",
    "is_sharded",
]  # fmt: skip

#: Hooks that torch calls for every optimizer.
_EVERYONES = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
#: Optimizers that step each number by itself.
_BY_NUMBERS = {
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "ASGD",
    "Rprop",
}  # fmt: skip


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "_local_tensor") and hasattr(tensor, "placements")


def fsdp_modules(module: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was called for."""
    return [m for m in module.modules() if any(k.__name__ == "FSDPModule" for k in type(m).__mro__)]


def check_sharded(graph: Graph, ranks: Ranks | None) -> None:
    """Refuse what is sharded in a way that is not served.

    Args:
        graph: of which some variables are sharded.
        ranks: of the engine.

    Raises:
        GraphError: something is; the message names it, and says what to do.
    """
    for variable in graph.variables:
        if any(map(is_sharded, variable.parameters())):
            _check_variable(variable, ranks)
            _check_readers(graph, variable)
    for problem in graph.problems:
        if problem.optimizer is not None:
            check_optimizer(problem)


def check_options(compile: Any, dtypes: Collection[torch.dtype]) -> None:
    """Refuse what an engine of sharded variables does not do.

    Args:
        compile: as the engine was given it.
        dtypes: the low precisions in which nodes are computed.

    Raises:
        GraphError: it is asked for.
    """
    if compile is not False:
        raise GraphError(
            "Engine: compile= takes functions that hold whole parameters, and some of these are "
            "sharded, which are gathered as they are read. Leave it out."
        )
    if torch.float16 in dtypes:
        raise GraphError(
            "Engine: precision='fp16' scales each rank's gradients by their own length, which "
            "sharded variables have no gradients for. Take precision='bf16', or do not shard."
        )


def check_optimizer(problem: Problem) -> None:
    """Refuse an optimizer that does not step each number by itself, over sharded parameters.

    Raises:
        GraphError: it is one.
    """
    optimizer: Any = problem.optimizer
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_sharded, held)):
        return
    kind = type(optimizer)
    if kind.__name__ not in _BY_NUMBERS or not kind.__module__.startswith("torch.optim."):
        raise GraphError(
            f"{problem.name}: its optimizer, a {kind.__name__}, is not known to step each number "
            "by itself, and sharded parameters are stepped by the rows that each rank has. Take "
            f"one of torch's {', '.join(sorted(_BY_NUMBERS))}, or do not shard the module."
        )
    if any(
        (*_EVERYONES, optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    ):
        raise GraphError(
            f"{problem.name}: its optimizer has step hooks, and steps sharded parameters: a hook "
            "would see the rows of one rank for the whole. Use problem(clip=) to clip gradients, "
            "and a callback to look at them."
        )


def check_hooks(parameter: Any) -> None:
    """Refuse hooks of a sharded parameter: they would see rows, or nothing.

    Raises:
        GraphError: it has one.
    """
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise GraphError(
            f"A sharded parameter, of shape {tuple(parameter.shape)}, has a hook on its gradient, "
            "which is not called where an engine takes gradients by rows. Let the objective change "
            "the gradient; to look at it, use a callback."
        )


def _check_variable(variable: Variable, ranks: Ranks | None) -> None:
    name = variable.name
    if not isinstance(variable.value, nn.Module):
        raise GraphError(
            f"{name}: a single DTensor is no sharded variable: its rows would be read as the whole "
            "tensor. Give a module that fully_shard was called for, or a plain tensor."
        )
    if ranks is None:
        raise GraphError(
            f"{name}: its parameters are sharded over ranks, and this engine has none: it takes "
            "steps with several processes, see Engine(ranks=). On one process, or with "
            "ranks=False, give the module as it was before fully_shard."
        )
    within = {id(part) for root in fsdp_modules(variable.value) for part in root.modules()}
    places: dict[int, str] = {}
    for path, part in variable.value.named_modules():
        for key, p in part._parameters.items():
            if not is_sharded(p):
                continue
            where = f"{name}.{path}.{key}" if path else f"{name}.{key}"
            if id(part) not in within:
                raise GraphError(
                    f"{where} is a DTensor that fully_shard has not made: tensor parallelism, "
                    "say. Give a module of plain tensors, or one that fully_shard was called for."
                )
            _check_parameter(where, p, ranks)
            if isinstance(part, nn.RNNBase):
                raise GraphError(
                    f"{where}: {type(part).__name__} keeps its parameters in a list besides, past "
                    "which they cannot be gathered. Leave it out of fully_shard (ignored_params=)."
                )
            other = places.setdefault(id(p), where)
            if other != where:
                raise GraphError(
                    f"{where} is tied to {other}, and sharded: a function that goes through the "
                    "parameters would meet two tensors for one. Leave tied parameters out of "
                    "fully_shard (ignored_params=)."
                )
    for root in fsdp_modules(variable.value):
        _check_policies(name, root)


def _check_parameter(where: str, p: Any, ranks: Ranks) -> None:
    from torch.distributed.tensor import Shard

    mesh = p.device_mesh
    if mesh.ndim != 1:
        raise GraphError(
            f"{where} lies on a mesh of {mesh.ndim} dimensions (hybrid sharding, or tensor "
            "parallelism besides). Call fully_shard with a mesh of one dimension, of the ranks of "
            "the engine."
        )
    if tuple(p.placements) != (Shard(0),):
        raise GraphError(
            f"{where} is placed as {p.placements[0]}, and only Shard(0) is served: rows. Leave out "
            "shard_placement_fn=."
        )
    members = dist.get_process_group_ranks(mesh.get_group())
    own = dist.get_process_group_ranks(ranks.group)
    if list(members) != list(own):
        raise GraphError(
            f"{where} is sharded over the ranks {list(members)}, and the engine has "
            f"{list(own)}: give Engine(ranks=) the group of its mesh."
        )
    if not (p.is_floating_point() or p.is_complex()):
        raise GraphError(f"{where} is {p.dtype}: only floating-point parameters may be sharded.")
    if p.is_complex():
        raise GraphError(f"{where} is complex, which is not served where it is sharded.")


def _check_policies(name: str, root: Any) -> None:
    state = root._get_fsdp_state()
    policy = getattr(state, "_mp_policy", None)
    given = ("param_dtype", "reduce_dtype", "output_dtype")
    if any(getattr(policy, k, None) is not None for k in given):
        raise GraphError(
            f"{name}: fully_shard(mp_policy=) is past what an engine sees, which gathers the "
            "parameters by itself. Leave it out, and give Engine(precision='bf16')."
        )
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        groups = [getattr(state, "_fsdp_param_group", None)]
    for group in groups:
        offload = type(getattr(group, "offload_policy", None)).__name__
        if group is not None and offload == "CPUOffloadPolicy":
            raise GraphError(
                f"{name}: fully_shard(offload_policy=) keeps parameters on the host, where an "
                "engine on a device does not find them. Leave it out."
            )


def _check_readers(graph: Graph, variable: Variable) -> None:
    """Refuse methods that are not known to compute of rows what they compute of the whole."""
    owner: Any = graph.owner[variable]
    if graph.numbers.get(owner):
        raise GraphError(
            f"{owner.name}: a number of its optimizer is a variable, and {variable.name} is "
            "sharded: its gradient would be that of a rank's rows. Do not shard it, or do not "
            "learn the number."
        )
    method = graph.methods[owner]
    if method.reads:
        raise GraphError(
            f"{owner.name}: its steps start at another variable, and {variable.name} is sharded. "
            "Do not shard it, or let the steps start where it stands."
        )
    if (held := foreign(method)) is not None:
        raise GraphError(
            f"{owner.name}: {type(held).__name__} is a method, product or solver of your own, "
            f"which would see the rows of {variable.name} that each rank has for the whole. Do "
            "not shard it, or take one of the library's."
        )
