"""What a run ran on: versions, machine, commit and command line, for its run folder."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import torch

__all__ = ["environment"]


def environment() -> dict[str, Any]:
    """Describe the machine and the software of this process.

    Returns:
        A mapping that can be written as JSON; what is not known is None.
    """
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "git_commit": _git_commit(),
        "mlopt": sys.modules[__name__.partition(".")[0]].__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
        "cuda": torch.version.cuda if cuda else None,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit that is checked out where the run was started, marked if files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit} with local changes" if _git("status", "--porcelain", "-uno") else commit


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
