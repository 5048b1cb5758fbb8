"""A model of torch.hub: whatever a repository's `hubconf.py` offers, here one that lies on disk.

`source = "github"` and `repository = "owner/name"` fetch, and run, somebody else's code; they do so
wherever the network is built, unless torch's cache holds it. A folder (`source = "local"`) needs no
network.
"""

from pathlib import Path

import torch
from torch import nn


def network(
    input_shape: tuple[int, int, int],
    classes: int,
    entry: str = "tiny_cnn",
    repository: str = str(Path(__file__).parent / "hub"),
    source: str = "local",
) -> nn.Module:
    made: nn.Module = torch.hub.load(
        repository, entry, source=source, in_channels=input_shape[0], num_classes=classes
    )
    return made
