"""Options and fixtures for all tests."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

# The same examples on every run, so that a failure is seen where it was made and not by whoever
# comes next. To look for new ones: pytest --hypothesis-profile default.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

# The workers of pytest-xdist share the cores; networks as small as those here gain nothing from
# several threads each.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        help="device for the tests that compute, for example cuda (default: cpu)",
    )
    parser.addoption(
        "--runs",
        default="",
        help="folder of examples/experiments.py, whose finished runs the slow tests of the matrix "
        "check instead of running them again (default: none)",
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that was asked for with --device."""
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda, but torch sees no GPU on this machine")
    return device


@pytest.fixture(autouse=True)
def _no_global_setting_leaks():
    """A test that changes torch's global settings changes the tests after it: name it instead."""
    before = _global_settings()
    yield
    after = _global_settings()
    leaked = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    if "default dtype" in leaked:
        torch.set_default_dtype(before["default dtype"])
    assert not leaked, f"global torch settings (before, after) were not restored: {leaked}"


def _global_settings() -> dict:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
