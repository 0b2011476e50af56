"""Processes that are the ranks of a group of gloo, kept for many tests."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

_SAYS_TORCH_26 = "DTensor random operators may not"  # where tests shard a tensor of theirs

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What a process finds that is one rank of so many, on this machine."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
    }


class Processes:
    """So many processes, which call functions of the tests together.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        port = free_port()
        self._children: list[subprocess.Popen[bytes]] = []
        for rank in range(count):
            command = [sys.executable, "-W", "error", "-W", f"ignore:{_SAYS_TORCH_26}"]
            command += ["-m", "distributed.processes"]
            self._children.append(
                subprocess.Popen(
                    command,
                    env=environment(rank, count, port),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )

    def __call__(self, function: str, *args: Any, each: list[Any] | None = None) -> list[Any]:
        """Call a function on all ranks at once.

        Args:
            function: "module:name", below tests/.
            *args: its arguments, that can be pickled.
            each: one more argument for each rank.

        Returns:
            What it returned on each rank.
        """
        for rank, child in enumerate(self._children):
            own = args if each is None else (*args, each[rank])
            assert child.stdin is not None
            pickle.dump((function, own), child.stdin)
            child.stdin.flush()
        found = [pickle.load(child.stdout) for child in self._children]  # type: ignore[arg-type]
        failed = [f"rank {rank}:\n{text}" for rank, (ok, text) in enumerate(found) if not ok]
        assert not failed, "\n".join(failed)
        return [value for _, value in found]

    def close(self) -> None:
        """End them."""
        for child in self._children:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.close()
        for child in self._children:
            child.wait(60)
            assert child.stdout is not None
            child.stdout.close()


def main() -> None:
    """A process: calls what it is sent, in turn."""
    import torch.distributed as dist
    from distributed.here import join_group

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what functions print goes elsewhere
    join_group()
    while True:
        try:
            function, args = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        try:
            module, _, name = function.partition(":")
            answer = True, getattr(importlib.import_module(module), name)(*args)
        except BaseException:
            answer = False, traceback.format_exc()
        pickle.dump(answer, answers)
        answers.flush()
    dist.barrier()
    dist.destroy_process_group()
    answers.close()


if __name__ == "__main__":
    main()
