"""The data set of a run, and the batches of its search.

Start with loaders.py. datasets.py reads a data set.

May import: settings.
"""

from .datasets import cut, load_data
from .loaders import batches, search_loaders

__all__ = ["batches", "cut", "load_data", "search_loaders"]
