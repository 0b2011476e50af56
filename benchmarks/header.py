"""The first lines of a result file: what was run, on what, with what, and when."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from pathlib import Path

import torch

__all__ = ["header"]


def header(title: str, device: str, extra: str) -> str:
    """The first lines of a result file.

    Args:
        title: of the file.
        device: that was measured, as in --device.
        extra: how it was measured, in a few sentences.

    Returns:
        Title, this program's command line, machine, versions, date and `extra`, as Markdown.
    """
    count = torch.get_num_threads()
    threads = f"{count} CPU thread{'s' if count > 1 else ''}"
    machine = torch.cuda.get_device_name(device) if device != "cpu" else threads
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return (
        f"# {title}\n\n`{command}`\n\n{machine}, {platform.machine()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {datetime.date.today()}; {extra}\n"
    )
