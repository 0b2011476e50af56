from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from distributed.processes import Processes


@pytest.fixture(scope="session")
def two() -> Iterator[Processes]:
    """Two ranks."""
    yield from _ranks(2)


@pytest.fixture(scope="session")
def three() -> Iterator[Processes]:
    """Three ranks."""
    yield from _ranks(3)


def _ranks(count: int) -> Iterator[Processes]:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    processes = Processes(count)
    yield processes
    processes.close()
