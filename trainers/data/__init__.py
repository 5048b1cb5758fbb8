"""Data sets: found, decoded once, cached, memory-mapped and cut into minibatches.

    dataset = load_dataset(DataConfig(train_count=2_000))
    for images, labels in Batches(dataset.train, 128, seed=0, device="cpu"): ...

The default set is built in: 12,000 images of Fashion-MNIST (see `build_embedded`).
"""

from trainers.data.cache import cache_folder
from trainers.data.catalog import DataConfig, dataset_names, load_dataset
from trainers.data.dataset import Dataset, ImageSet
from trainers.data.loader import Batches
from trainers.data.readers import (
    read_cifar_binary,
    read_idx,
    read_image_folder,
    read_parquet,
)

__all__ = [
    "Batches",
    "DataConfig",
    "Dataset",
    "ImageSet",
    "cache_folder",
    "dataset_names",
    "load_dataset",
    "read_cifar_binary",
    "read_idx",
    "read_image_folder",
    "read_parquet",
]
