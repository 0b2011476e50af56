"""Fixtures of the tests that compile."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def fresh_compiler() -> None:
    """Nothing is compiled yet."""
    torch._dynamo.reset()
