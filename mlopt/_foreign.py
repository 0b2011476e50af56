"""Finds files of the other mlopt in this package's folder.

On the public index (PyPI) the name mlopt belongs to another project, "The Machine Learning
Optimizer". Both are imported as `mlopt`. If both are installed into one environment, their files
lie in one folder, and removing either breaks the other.
"""

from __future__ import annotations

import os

__all__ = ["refuse_foreign_files"]

# The top-level files of that project's releases, less __init__.py. None of them is a file here.
_FOREIGN = {
    "error.py",
    "filter.py",
    "kkt.py",
    "optimizer.py",
    "problem.py",
    "sampling.py",
    "settings.py",
    "strategy.py",
    "utils.py",
}


def refuse_foreign_files(folder: str) -> None:
    """Raise if files of the other project lie in the folder of this package.

    Args:
        folder: the folder that `mlopt` was imported from. One that cannot be listed, for example
            inside a zip file, is not checked.

    Raises:
        ImportError: there are such files.
    """
    try:
        found = _FOREIGN.intersection(os.listdir(folder))
    except OSError:
        return
    if found:
        raise ImportError(
            f"mlopt: {folder} also holds files of another project, which is called mlopt on PyPI: "
            f"{', '.join(sorted(found))}. The two cannot share an environment. Uninstall both with "
            "pip, delete what is left of that folder, and install this project again from its "
            "checkout (pip install .) or its wheel."
        )
