from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from distributed.here import DEVICE
from distributed.processes import Processes


@pytest.fixture(scope="session")
def on_the_device(device: torch.device) -> None:
    """Ranks that are started compute on the device that was asked for."""
    os.environ[DEVICE] = str(device)


@pytest.fixture(scope="session")
def one_of_nccl(on_the_device: None, device: torch.device) -> Iterator[Processes]:
    """One rank, by the collectives of a GPU: two of them need two GPUs."""
    if device.type != "cuda" or not dist.is_nccl_available():
        pytest.skip("NCCL is for GPUs: --device cuda")
    yield from _ranks(1)


@pytest.fixture(scope="session")
def two(on_the_device: None) -> Iterator[Processes]:
    """Two ranks."""
    yield from _ranks(2)


@pytest.fixture(scope="session")
def three(on_the_device: None) -> Iterator[Processes]:
    """Three ranks."""
    yield from _ranks(3)


def _ranks(count: int) -> Iterator[Processes]:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    processes = Processes(count)
    yield processes
    processes.close()


@pytest.fixture
def shards(device: torch.device) -> None:
    """Ranks over which modules are sharded: each has a device of its own."""
    if device.type == "cuda" and torch.cuda.device_count() < 3:
        pytest.skip("modules are sharded over several GPUs")
