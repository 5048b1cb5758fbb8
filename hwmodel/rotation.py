"""Block-circulant weights: their defining vectors, their cells, and their rotated inputs.

The tensor side of `hwmodel.circulant`, which says what the blocks are. Blocks are indexed
`[groups, block rows, kernel positions, block columns]`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from hwmodel.circulant import fitting_block, lay_circulant
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import MappingError
from hwmodel.geometry import LayerShape
from hwmodel.mapping import MatrixLayout

__all__ = ["CirculantBlocks", "RotatedMapping", "rotated_mapping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CirculantBlocks:
    """The blocks of one layer.

    Attributes:
        groups: groups of the convolution, 1 for a linear layer.
        outputs: outputs per group.
        inputs: input channels per group, or inputs of a linear layer.
        kernel: kernel height x width.
        side: side of a block.
    """

    groups: int
    outputs: int
    inputs: int
    kernel: int
    side: int

    @classmethod
    def of(cls, weight: Tensor, groups: int, block_size: int) -> Self:
        """The largest blocks up to `block_size` that fit a weight `[outputs, inputs, ...]`."""
        outputs, inputs = weight.shape[0] // groups, weight.shape[1]
        side = fitting_block(block_size, inputs, outputs)
        kernel = weight[0, 0].numel()
        return cls(groups=groups, outputs=outputs, inputs=inputs, kernel=kernel, side=side)

    @property
    def block_rows(self) -> int:
        """Blocks from the first output of a group to the last."""
        return -(-self.outputs // self.side)

    @property
    def block_columns(self) -> int:
        """Blocks from the first input of a group to the last, of one kernel position."""
        return -(-self.inputs // self.side)

    def vectors(self, weight: Tensor) -> Tensor:
        """The defining vectors of the nearest block-circulant weight.

        That is the mean along every diagonal, over the weights that exist; 0 where none does.

        Args:
            weight: floats `[outputs, inputs, ...]`.

        Returns:
            `[groups, block rows, kernel, block columns, side]`.
        """
        sums = self._diagonal_sums(weight, self.kernel)
        if self.outputs % self.side == 0 and self.inputs % self.side == 0:
            return sums / self.side  # no block is cut, so that every diagonal is whole
        there = weight.new_ones(self.groups * self.outputs, self.inputs)
        return sums / self._diagonal_sums(there, 1).clamp(min=1)

    def expand(self, vectors: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """The weight of `shape` that defining vectors stand for."""
        blocks = (vectors @ self._diagonals(vectors).T).unflatten(-1, (self.side, self.side))
        tall: Tensor = blocks.permute(0, 1, 4, 3, 5, 2).reshape(
            self.groups, self.block_rows * self.side, self.block_columns * self.side, self.kernel
        )
        return tall[:, : self.outputs, : self.inputs].reshape(shape)

    def project(self, weight: Tensor) -> Tensor:
        """The nearest block-circulant weight, equal to the last bit along every diagonal."""
        exact = self.vectors(weight.double())  # so that projecting again changes nothing
        return self.expand(exact, weight.shape).to(weight.dtype)

    def _diagonal_sums(self, weight: Tensor, kernel: int) -> Tensor:
        """Sums along every diagonal, `[groups, block rows, kernel, block columns, side]`."""
        side, rows, columns = self.side, self.block_rows, self.block_columns
        matrix = weight.reshape(self.groups, self.outputs, self.inputs, kernel)
        below, right = rows * side - self.outputs, columns * side - self.inputs
        if below or right:
            matrix = functional.pad(matrix, (0, 0, 0, right, 0, below))
        blocks = matrix.reshape(self.groups, rows, side, columns, side, kernel)
        blocks = blocks.permute(0, 1, 5, 3, 2, 4)  # [..., in block: output, input]
        return blocks.flatten(4) @ self._diagonals(weight)

    def diagonals(self, device: torch.device) -> Tensor:
        """Which element of its vector each weight of a block is, int64 `[side, side]`."""
        steps = torch.arange(self.side, device=device)
        return (steps[:, None] - steps) % self.side

    def _diagonals(self, like: Tensor) -> Tensor:
        """The same as zeros and ones `[side * side, side]`: products are faster than gathering."""
        chosen = functional.one_hot(self.diagonals(like.device).flatten(), self.side)
        return chosen.to(like.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedMapping:
    """A block-circulant layer of which the first outputs of every block are stored.

    Attributes:
        blocks: the layer's blocks.
        duplication: outputs of every block that are stored.
        rotations: reads of one position.
    """

    blocks: CirculantBlocks
    duplication: int
    rotations: int

    @property
    def rows(self) -> int:
        """Rows per group as stored: kernel positions, block columns, places in the block."""
        return self.blocks.kernel * self.blocks.block_columns * self.blocks.side

    @property
    def outputs(self) -> int:
        """Outputs per group as stored: block rows, outputs of the block."""
        return self.blocks.block_rows * self.duplication

    @property
    def layout(self) -> MatrixLayout:
        """The layout of the stored matrix."""
        return MatrixLayout(groups=self.blocks.groups, outputs=self.outputs, rows=self.rows)

    def store(self, weight_q: Tensor) -> Tensor:
        """The weights that cells are programmed with, int32 `[groups * outputs, rows]` as stored.

        Args:
            weight_q: integer weights `[outputs, inputs, ...]`.

        Raises:
            MappingError: weights that are not block-circulant.
        """
        blocks = self.blocks
        vectors = blocks.vectors(weight_q.double())
        stray = int(torch.count_nonzero(blocks.expand(vectors, weight_q.shape) != weight_q))
        if stray:
            raise MappingError(
                f"{stray} weights differ from others on their diagonal; allowed: circulant blocks "
                f"of side {blocks.side}"
            )
        first = blocks.diagonals(weight_q.device)[: self.duplication]
        stored = vectors[..., first].permute(0, 1, 4, 2, 3, 5)
        return stored.reshape(blocks.groups * self.outputs, self.rows).to(torch.int32)

    def rotate(self, inputs: Tensor) -> Tensor:
        """The inputs of every read.

        Args:
            inputs: `[groups, vectors, rows]` of the dense layer.

        Returns:
            `[groups, vectors * rotations, rows]` as stored, rotations fastest.
        """
        blocks = self.blocks
        groups, count, _ = inputs.shape
        missing = blocks.block_columns * blocks.side - blocks.inputs
        channels = inputs.reshape(groups, count, blocks.inputs, blocks.kernel).transpose(2, 3)
        slices = functional.pad(channels, (0, missing)).unflatten(3, (-1, blocks.side))
        reads = [slices.roll(-turn * self.duplication, dims=-1) for turn in range(self.rotations)]
        return torch.stack(reads, dim=2).reshape(groups, count * self.rotations, self.rows)

    def collect(self, products: Tensor) -> Tensor:
        """The layer's outputs from those of every read.

        Args:
            products: `[groups, vectors * rotations, outputs]` as stored.

        Returns:
            `[groups, vectors, outputs]` of the dense layer.
        """
        blocks = self.blocks
        reads = products.unflatten(2, (blocks.block_rows, self.duplication))
        reads = reads.unflatten(1, (-1, self.rotations)).transpose(2, 3)
        whole: Tensor = reads.flatten(3)[..., : blocks.side]  # the last read may pass the block
        return whole.flatten(2)[..., : blocks.outputs]


def rotated_mapping(
    weight: Tensor, layout: MatrixLayout, spec: CrossbarSpec, block_size: int
) -> RotatedMapping | None:
    """How `hwmodel.circulant.lay_circulant` lays a layer out; None: as a dense one.

    Args:
        weight: `[outputs, inputs, ...]`.
        layout: the layer's, of which nothing has been removed unless `block_size` is 1.
        spec: the layer's crossbar.
        block_size: side of its circulant blocks; 1: none.
    """
    if block_size == 1:
        return None
    blocks = CirculantBlocks.of(weight, layout.groups, block_size)
    shape = LayerShape(
        name="circulant",
        rows=layout.rows,
        outputs=layout.outputs,
        groups=layout.groups,
        kernel=blocks.kernel,
    )
    laid = lay_circulant(shape, spec, block_size)
    if laid.rotations == 1:
        return None
    return RotatedMapping(blocks=blocks, duplication=laid.duplication, rotations=laid.rotations)
