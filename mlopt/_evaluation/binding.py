"""`Binding`: where the tensors of one module live."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .._containers.contents import put, stands
from .._tensors import clone
from .copies import copied, laid_out, overlaps, separate
from .layouts import copy_into
from .listing import Listed, Listing, same_things

__all__ = ["Binding", "Slot", "Swap", "dicts_of", "marks_of"]

#: A dictionary, and a key in it.
Slot = tuple[dict[str, Any], str]

_training = operator.itemgetter("training")
_dicts = operator.attrgetter("_parameters", "_modules", "_buffers")


def dicts_of(parts: Iterable[nn.Module]) -> list[Any]:
    """The dictionaries in which parts of modules keep their tensors, and other parts."""
    return [*chain.from_iterable(map(_dicts, parts))]


@dataclass
class Binding:
    """Where the tensors of one module live, so that others can take their place for a while.

    The dictionaries are those in which `nn.Module` keeps its tensors. `torch.func.functional_call`
    swaps there as well, but finds each by a walk along its dotted name; here a swap is one
    assignment.
    """

    module: nn.Module
    parameters: dict[str, list[Slot]] = field(default_factory=dict)
    buffers: list[Slot] = field(default_factory=list)
    spare: list[list[Tensor]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    embeddings: list[dict[str, Any]] = field(default_factory=list)  # which may be sparse
    first: list[Slot] = field(default_factory=list)  # of each parameter
    dicts: list[dict[str, Any]] = field(default_factory=list)  # of parameters, and of parts
    buffer_dicts: list[dict[str, Any]] = field(default_factory=list)
    owners: list[nn.Module] = field(default_factory=list)  # of these dictionaries
    marks: dict[str, dict[str, Any]] = field(default_factory=dict)  # parameters' own attributes
    _listed: Listing = field(default_factory=lambda: Listing(()))
    _inside: Listed = ([], [])
    _own: list[Any] = field(default_factory=list)
    _looked: tuple[list[Any], bool] = ([], True)

    @classmethod
    def of(cls, module: nn.Module) -> Binding:
        """Find the slots of a module; a tied parameter has several."""
        binding = cls(module)
        name_of: dict[int, str] = {}
        for prefix, part in module.named_modules():
            for key, p in part._parameters.items():
                if p is not None:
                    name = name_of.setdefault(id(p), f"{prefix}.{key}" if prefix else key)
                    binding.parameters.setdefault(name, []).append((part._parameters, key))
            for key, _ in part._buffers.items():  # scripted modules have no dictionary
                binding.buffers.append((part._buffers, key))
            if isinstance(part, nn.Embedding | nn.EmbeddingBag):
                binding.embeddings.append(part.__dict__)
            if "training" in part.__dict__:
                binding.parts.append(part.__dict__)
            binding.dicts += [part._parameters, part._modules]
            binding.buffer_dicts.append(part._buffers)
            if "_parameters" in part.__dict__:  # scripted modules make theirs when asked
                binding.owners.append(part)
        binding._listed = Listing(binding.dicts, binding.buffer_dicts)
        binding._inside, binding._own = binding._listed(), dicts_of(binding.owners)
        binding.first = [slots[0] for slots in binding.parameters.values()]
        binding.mark()
        return binding

    def mark(self) -> None:
        """Find the attributes that the user has given to parameters, such as `no_decay`."""
        held = ((name, slots[0][0][slots[0][1]]) for name, slots in self.parameters.items())
        self.marks = {name: own for name, p in held if (own := marks_of(p))}

    def held(self) -> list[Any]:
        """The buffers that the module holds now; None where it has none yet."""
        return [slot[key] for slot, key in self.buffers]

    def modes(self) -> list[bool]:
        """Which parts of the module are in training mode."""
        return [*map(_training, self.parts)]

    def set_modes(self, modes: list[bool]) -> None:
        """Put its parts into these modes."""
        _set_modes(self.parts, modes)

    def stands(self) -> bool:
        """Whether the module has the parts and parameters that were found, and such buffers."""
        own = dicts_of(self.owners)
        return same_things(self._inside, self._listed()) and all(map(operator.is_, own, self._own))

    def scratch(self, start: list[Any] | None = None) -> list[Any]:
        """Copies of the buffers, or of what they are to start with, in spare memory if possible."""
        held = self.held() if start is None else start
        if not (self._are_separate(held) if start is None else separate(held)):
            return copied(held)
        if self.spare:
            copies = self.spare.pop()
            if all(
                c.shape == h.shape and c.device == h.device and c.dtype == h.dtype
                for c, h in zip(copies, held, strict=True)
            ):
                torch._foreach_copy_(copies, held)
                return copies
        return clone(held)

    def take_back(self, copies: list[Any]) -> None:
        """Copies that nobody uses any more; the memory of those that share none is used again."""
        if self._looked[1] and all(c is not None and not c._is_view() for c in copies):
            self.spare.append(copies)

    def write(self, tensors: list[Any]) -> None:
        """Let the buffers have these values: in their own memory, where that can hold them."""
        held = self.held()
        alone = self._are_separate(held)
        if alone and all(
            t is not None and t.shape == h.shape for t, h in zip(tensors, held, strict=True)
        ):
            torch._foreach_copy_(held, tensors)
        elif alone or any(map(overlaps, _present(held))) or laid_out(held) != laid_out(tensors):
            # One that grew or is new, or others share memory than before. The copies' own memory
            # is used again.
            for (slot, key), t in zip(self.buffers, copied(tensors), strict=True):
                slot[key] = t
        else:
            for h, t in zip(_present(held), _present(tensors), strict=True):
                copy_into(h, t)

    def _are_separate(self, held: list[Any]) -> bool:
        """`separate` of what the module holds, looked at once for the same tensors."""
        known, answer = self._looked
        if len(known) != len(held) or not all(map(operator.is_, known, held)):
            answer = separate(held)
            self._looked = held, answer
        return answer


def marks_of(tensor: Any) -> dict[str, Any]:
    """The attributes that a user has given to a tensor."""
    found = vars(tensor) if isinstance(tensor, Tensor) else {}
    return {k: v for k, v in found.items() if not k.startswith("_")} if found else found


def _present(tensors: list[Any]) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def _set_modes(parts: list[dict[str, Any]], modes: list[bool]) -> None:
    for part, mode in zip(parts, modes, strict=True):
        part["training"] = mode


class Swap:
    """What an evaluation has put into modules, and what to put back.

    Attributes:
        slots: with what they held before.
        modes: of parts of modules before.
        starts: copies of the buffers at the start, where they are needed later.
        opened: containers of a batch, and what they held before.
    """

    __slots__ = ("modes", "opened", "slots", "starts")

    def __init__(self, parts: list[dict[str, Any]] | None = None) -> None:
        self.slots: list[tuple[dict[str, Any], str, Any]] = []
        self.modes = [(parts, [*map(_training, parts)])] if parts else []
        self.starts: list[tuple[Binding, list[Tensor]]] = []
        self.opened: list[tuple[Any, Any]] = []

    def put(self, slot: dict[str, Any], key: str, value: Any) -> None:
        """Put something into a slot."""
        self.slots.append((slot, key, slot[key]))
        slot[key] = value

    def put_all(self, slots: Mapping[str, list[Slot]], values: Mapping[str, Tensor]) -> None:
        """Put tensors into the slots of their names."""
        for name, tensor in values.items():
            for slot, key in slots[name]:
                self.slots.append((slot, key, slot[key]))
                slot[key] = tensor

    def note_modes(self, parts: list[dict[str, Any]]) -> None:
        """Have the training modes of parts of modules put back; see `Binding.parts`."""
        self.modes.append((parts, [*map(_training, parts)]))

    def back(self) -> None:
        """Put everything back; again, if that was interrupted."""
        for parts, modes in self.modes:
            if [*map(_training, parts)] != modes:
                _set_modes(parts, modes)
        for slot, key, value in reversed(self.slots):
            slot[key] = value
        for held, content in self.opened:
            if not stands(held, content):
                put(held, content)
