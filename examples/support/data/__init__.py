"""The data set of a run, and the batches of its search.

Start with loaders.py. datasets.py reads a data set.

May import: settings.
"""

from .datasets import cut, load_data
from .loaders import batches, fresh, search_loaders

__all__ = ["batches", "cut", "fresh", "load_data", "search_loaders"]
