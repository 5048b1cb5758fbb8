"""Paths that structured pruning made dead, and their exact removal.

A removed output leaves a constant channel: its bias, and what batch norm and activations make of
it. The rows of the next layer that it feeds multiply this constant in every image, so they are
removed and their sum goes into that layer's bias. Where a convolution pads, its border sees zeros
instead of the constant: there the rows stay, unless the constant is zero. Then, from the last layer
to the first: rows without any weight are removed, and outputs whose every reader has removed the
rows that they feed.

Source: unused path removal of Ma et al. (ASP-DAC 2020). differs: what is removed changes no output
of the network, so no score decides; residual additions end a path.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from hwmodel.mapping import MatrixLayout
from trainers.dataflow import Reader, follow_channels
from trainers.integer import ConvGeometry
from trainers.tracing import CrossbarModule

__all__ = ["DeadPaths"]


class DeadPaths:
    """The dead paths of a pruned network.

    Args:
        network: its removed outputs have zero weights.
        modules: its crossbar layers by name.
        layouts: what structured pruning left of each.
    """

    def __init__(
        self,
        network: nn.Module,
        modules: Mapping[str, CrossbarModule],
        layouts: Mapping[str, MatrixLayout],
    ) -> None:
        self.modules = modules
        self.layouts = dict(layouts)
        self.reasons: dict[str, str] = {}
        self.channels, untraced = follow_channels(network, modules)
        if untraced:
            self.reasons = dict.fromkeys(modules, untraced)

    @torch.no_grad()
    def removed(self) -> tuple[dict[str, MatrixLayout], dict[str, str]]:
        """Removes what is dead; biases of the layers behind it take up its constants, in place.

        Returns:
            The layouts that are left, and by layer the reason why some of its dead outputs are
            still read.
        """
        for name, channels in self.channels.items():
            dead = _removed_outputs(self.layouts[name], self.modules[name])
            if not dead.any():
                continue
            if channels.obstacles:
                self.reasons[name] = f"read by {channels.obstacles[0]}"
            for reader in channels.readers:
                self._remove_rows(name, dead, reader)
        for name in reversed(self.channels):
            self._remove_empty_rows(name)
            self._remove_unread(name)
        return self.layouts, self.reasons

    def _remove_rows(self, producer: str, dead: Tensor, reader: Reader) -> None:
        """Folds the constants of dead channels, bool `[channels]`, into the reader's bias."""
        module, layout = self.modules[reader.layer], self.layouts[reader.layer]
        constants = reader.arriving(_constants(self.modules[producer]))
        padded = isinstance(module, nn.Conv1d | nn.Conv2d) and any(ConvGeometry.of(module).padding)
        if padded and bool((dead & (constants != 0)).any()):
            self.reasons[producer] = f"{reader.layer} pads: its border sees no constant"
            dead = dead & (constants == 0)
        matrix = layout.mask(module.weight.shape, module.weight.device) * module.weight
        sums = matrix.flatten(1).unflatten(1, (-1, reader.rows_per_channel)).sum(dim=2)
        shift = sums[:, dead] @ constants[dead]
        if module.bias is None and bool(shift.any()):
            self.reasons[producer] = f"{reader.layer} has no bias to take up its constants"
            return
        live = ~dead.repeat_interleave(reader.rows_per_channel)
        if not self._keep_rows(reader.layer, live):
            self.reasons[producer] = f"{reader.layer} would have no row left"
        elif module.bias is not None:
            module.bias += shift

    def _remove_empty_rows(self, name: str) -> None:
        """Removes rows whose every kept weight is zero, and so multiply nothing."""
        module, layout = self.modules[name], self.layouts[name]
        if layout.groups == 1:
            matrix = layout.mask(module.weight.shape, module.weight.device) * module.weight
            self._keep_rows(name, (matrix.flatten(1) != 0).any(dim=0))

    def _remove_unread(self, name: str) -> None:
        """Removes outputs that feed no row any more."""
        channels, layout = self.channels[name], self.layouts[name]
        if channels.obstacles or not channels.readers or layout.groups > 1:
            return
        read = torch.zeros(
            layout.outputs, dtype=torch.bool, device=self.modules[name].weight.device
        )
        for reader in channels.readers:
            rows = _kept(self.layouts[reader.layer].kept_rows, self.layouts[reader.layer].rows)
            read[
                torch.div(rows.to(read.device), reader.rows_per_channel, rounding_mode="floor")
            ] = True
        before = _kept(layout.kept_outputs, layout.outputs).to(read.device)
        after = before[read[before]]
        if 0 < len(after) < len(before):
            self.layouts[name] = replace(layout, kept_outputs=after[None])

    def _keep_rows(self, name: str, wanted: Tensor) -> bool:
        """Keeps the wanted ones of a layer's rows, bool `[rows]`; False where none would stay."""
        layout = self.layouts[name]
        before = _kept(layout.kept_rows, layout.rows).to(wanted.device)
        after = before[wanted[before]]
        if len(after) == 0:
            return False
        if len(after) < len(before):
            self.layouts[name] = replace(layout, kept_rows=after[None])
        return True


def _constants(module: CrossbarModule) -> Tensor:
    """The output of each channel of which every weight is removed, `[channels]`."""
    if module.bias is None:
        return torch.zeros(module.weight.shape[0], device=module.weight.device)
    return module.bias.detach()


def _removed_outputs(layout: MatrixLayout, module: CrossbarModule) -> Tensor:
    """Bool `[groups * outputs]`: True where structured pruning removed the output."""
    mask = layout.mask(module.weight.shape, module.weight.device)
    return ~mask.flatten(1).any(dim=1)


def _kept(indices: Tensor | None, count: int) -> Tensor:
    """Kept indices of a layer with one group, all of them where none was removed."""
    return torch.arange(count) if indices is None else indices[0]
