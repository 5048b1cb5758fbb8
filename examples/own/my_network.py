"""Your own network: a callable that takes `input_shape` and `classes` and returns a Module.

`[network] name = "my_network:small_cnn"`, `arguments = { width = 8 }` in the configuration. It
starts from your weights with `checkpoint = "weights.safetensors"`. `timm_network.py` and
`hub_network.py` do the same for models of timm and torch.hub.
"""

from torch import nn


def small_cnn(input_shape: tuple[int, int, int], classes: int, width: int = 8) -> nn.Module:
    channels, height, _ = input_shape
    side = height // 4
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, classes),
    )
