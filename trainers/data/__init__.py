"""Data sets: found, decoded once, cached, memory-mapped and cut into minibatches; or streamed.

    dataset = load_dataset(DataConfig(train_count=2_000))
    for images, labels in dataset.train.batches(128, seed=0, device="cpu").epoch(0): ...

The default set is built in: 12,000 images of Fashion-MNIST (see `build_embedded`).
"""

from trainers.data.cache import cache_folder
from trainers.data.catalog import DataConfig, dataset_names, load_dataset
from trainers.data.dataset import Dataset, ImageSet
from trainers.data.encoded import read_image_folder
from trainers.data.loader import Batches
from trainers.data.parquet import read_parquet
from trainers.data.readers import read_cifar_binary, read_cifar_pickled, read_idx
from trainers.data.source import EpochBatches, ImageSource
from trainers.data.stream import StreamedImages, stream_folder, stream_parquet

__all__ = [
    "Batches",
    "DataConfig",
    "Dataset",
    "EpochBatches",
    "ImageSet",
    "ImageSource",
    "StreamedImages",
    "cache_folder",
    "dataset_names",
    "load_dataset",
    "read_cifar_binary",
    "read_cifar_pickled",
    "read_idx",
    "read_image_folder",
    "read_parquet",
    "stream_folder",
    "stream_parquet",
]
