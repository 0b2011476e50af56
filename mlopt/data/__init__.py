"""Image data sets in memory, their search split, normalization, augmentation and loaders."""

from mlopt.data.augment import augmentation, standard_augmentation
from mlopt.data.batches import ImageBatches, loader
from mlopt.data.images import ImageData, ImagePart
from mlopt.data.normalization import Normalization
from mlopt.data.registry import NAMES, load
from mlopt.data.split import search_split, split_indices
from mlopt.data.unlabeled import hold_out, images_of

__all__ = [
    "NAMES",
    "ImageBatches",
    "ImageData",
    "ImagePart",
    "Normalization",
    "augmentation",
    "hold_out",
    "images_of",
    "load",
    "loader",
    "search_split",
    "split_indices",
    "standard_augmentation",
]
