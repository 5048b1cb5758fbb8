"""Your own data: a callable that returns a training and a test set.

`[data] name = "my_data:bars"` in the configuration. Each set is a `torch.utils.data.Dataset` of
images, uint8 or float from 0 to 1, `[channels, height, width]`, and labels from 0.
"""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Bars(Dataset[tuple[Tensor, int]]):
    """Noisy pictures with a bright bar; the class is where it stands."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.pictures = torch.rand(count, 1, 16, 16, generator=generator) / 2

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        label = row % 4
        picture = self.pictures[row].clone()
        picture[:, :, 4 * label + 1 : 4 * label + 3] += 0.5
        return picture, label


def bars() -> tuple[Bars, Bars]:
    return Bars(400, seed=0), Bars(80, seed=1)
