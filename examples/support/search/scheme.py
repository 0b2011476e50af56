"""What makes a search, in any search space: one scheme for each program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlopt.data import ImageData
from mlopt.nas import SearchSpace

from ..networks import search_space
from ..settings import Settings
from .search import Search


@dataclass(frozen=True)
class Scheme:
    """A way to search, in any search space.

        search = scheme(data, *loaders, s)                    # the first stage
        search = scheme(data, *loaders, s, spaces=spaces)     # a later one

    Attributes:
        title: what results call it; "" for a plain search, which has the name of its space.
        make: (space, data, *loaders, settings) -> `Search`; a group gets a list of spaces.
        plain: whether its training batches carry the images without augmentation too.
        unlabeled: whether it needs unlabeled images.
        group: whether several learners search, each in a space of its own.
        base: the plain search, which results are compared with.
    """

    title: str
    make: Callable[..., Search]
    plain: bool = False
    unlabeled: bool = False
    group: bool = False
    base: Scheme | None = None

    def of(self, s: Settings) -> Scheme:
        """This scheme; or the plain search, for a group of one learner, whom nobody teaches."""
        return self.base if self.base and self.group and s.learners == 1 else self

    def __call__(
        self, data: ImageData, *rest: Any, spaces: Sequence[SearchSpace] | None = None
    ) -> Search:
        """Networks, new ones, and the graph; `rest` are the loaders and the settings."""
        s: Settings = rest[-1]
        found = spaces or [search_space(data.name, s)] * (s.learners if self.group else 1)
        return self.make(list(found) if self.group else found[0], data, *rest)
