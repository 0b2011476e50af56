"""The options of a command line that say where cells are run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import mlopt

from ..tables import Runner
from .in_turn import InTurn
from .launch import Launcher
from .on_ray import OnRay
from .processes import Processes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `launcher_of` reads."""
    group = parser.add_argument_group("where the cells are run")
    group.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="so many at a time, in a process each of this machine; torch gets the cores divided "
        "by N (OMP_NUM_THREADS, if it is set, says how many)",
    )  # fmt: skip
    group.add_argument(
        "--launcher", default="local", choices=("local", "ray"),
        help="ray: as tasks of a Ray cluster that is there, as many at a time as it has room for",
    )  # fmt: skip
    group.add_argument(
        "--retries", type=int, default=3, metavar="N",
        help="how often a cell whose process died is tried again, from its checkpoint "
        "(default: 3; with --jobs and ray)",
    )  # fmt: skip
    group.add_argument(
        "--cpus", type=float, metavar="X", help="of a cell on Ray, and its threads (default: 1)"
    )
    group.add_argument(
        "--gpus", type=float, metavar="X",
        help="of a cell on Ray; 0.5 lets two cells share one (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--address",
        help="host:port of the Ray cluster (default: RAY_ADDRESS, or the one on this machine)",
    )
    group.add_argument("--cell", help=argparse.SUPPRESS)  # of a process of --jobs


def launcher_of(
    options: argparse.Namespace, command: Sequence[str], start: Runner, device: str
) -> Launcher:
    """The launcher that is asked for.

    Args:
        options: of `add_options`.
        command: of this process, which runs the program.
        start: runs an example.
        device: of all cells.

    Raises:
        SettingsError: options do not go together, or there is no such cluster.
    """
    for name, least in {"jobs": 1, "retries": 0}.items():
        if (value := getattr(options, name)) < least:
            raise mlopt.SettingsError(f"--{name} = {value} must be at least {least}.")
    if options.launcher == "ray":
        if options.jobs != 1:
            raise mlopt.SettingsError(
                "--jobs is for this machine alone; with --launcher ray, the resources of the "
                "cluster, --cpus and --gpus say how many cells run at a time."
            )
        return _on_ray(options, start, device)
    for name in ("cpus", "gpus", "address"):
        if getattr(options, name) is not None:
            raise mlopt.SettingsError(f"--{name} is for Ray: give --launcher ray, too.")
    return InTurn(start) if options.jobs == 1 else Processes(command, options.jobs)


def _on_ray(options: argparse.Namespace, start: Runner, device: str) -> OnRay:
    cpus = 1.0 if options.cpus is None else options.cpus
    gpus = 0.0 if options.gpus is None else options.gpus
    for name, value in {"cpus": cpus, "gpus": gpus}.items():
        if not 0 <= value < float("inf") or (value > 1 and value % 1):
            raise mlopt.SettingsError(
                f"--{name} = {value:g} must be a fraction of one, or a whole number."
            )
    on_gpu = device.startswith("cuda")
    if gpus and not on_gpu:
        raise mlopt.SettingsError(
            f"--gpus {gpus:g}: the cells compute on {device}; give --device cuda, too."
        )
    if on_gpu and not gpus:
        raise mlopt.SettingsError(
            f"--device {device}: Ray gives a cell no GPU; give --gpus 1, or a fraction."
        )
    return OnRay(start, options.address or "", cpus, gpus)
