"""Image data sets, their search split, normalization, augmentation and loaders.

An island of plain PyTorch: it imports nothing of mlopt but its errors and checks. Start reading at
`registry.py`, then `images.py`.
"""

from mlopt.data.augment import CropAndFlip, WholeBatch, augmentation, standard_augmentation
from mlopt.data.batches import ImageBatches
from mlopt.data.cutout import Cutout
from mlopt.data.files import ImageFiles
from mlopt.data.images import ImageData, ImagePart
from mlopt.data.normalization import Normalization
from mlopt.data.passes import loader
from mlopt.data.registry import NAMES, load
from mlopt.data.split import search_split, split_indices
from mlopt.data.unlabeled import hold_out, images_of

__all__ = [
    "NAMES",
    "CropAndFlip",
    "Cutout",
    "ImageBatches",
    "ImageData",
    "ImageFiles",
    "ImagePart",
    "Normalization",
    "WholeBatch",
    "augmentation",
    "hold_out",
    "images_of",
    "load",
    "loader",
    "search_split",
    "split_indices",
    "standard_augmentation",
]
