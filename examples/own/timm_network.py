"""A model of timm: `pip install '.[timm]'` in the checkout, then `crossfront search timm.toml`.

Pretrained weights are fetched once, into a file that the configuration names:

    python timm_network.py resnet10t weights.safetensors

and `[network] checkpoint = "weights.safetensors"`. `arguments = { pretrained = true }` works too,
but asks the hub anew wherever the network is built: on every worker, and in `crossfront verify`.
"""

import argparse
from collections import OrderedDict
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
from torch import nn

from trainers.networks.normalise import Normalise
from trainers.weights import save_weights


def network(
    input_shape: tuple[int, int, int],
    classes: int,
    model: str = "resnet10t",
    pretrained: bool = False,
    **others: Any,
) -> nn.Module:
    """Takes pixels from 0 to 1, normalised as the model's weights expect; `others` are timm's."""
    channels = input_shape[0]
    body = timm.create_model(model, pretrained, in_chans=channels, num_classes=classes, **others)
    mean, std = (body.pretrained_cfg[key] for key in ("mean", "std"))
    if channels != len(mean):
        mean, std = [fmean(mean)] * channels, [fmean(std)] * channels
    return nn.Sequential(OrderedDict(normalise=Normalise(channels, mean=mean, std=std), model=body))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("to", type=Path)
    parser.add_argument("--image", default="1x28x28", help="channels x height x width")
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args()
    channels, height, width = map(int, given.image.split("x"))
    pretrained = network((channels, height, width), given.classes, given.model, pretrained=True)
    save_weights(pretrained, given.to)
