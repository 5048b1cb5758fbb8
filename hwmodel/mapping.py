"""Weights onto crossbars and back: the one mapping that everything reads weights through.

A layer's weight tensor becomes `groups` matrices of `outputs x rows`. Structured pruning removes
rows and outputs; what is left is re-packed (`MatrixLayout`) and cut into tiles of `wordlines`.
Projections work on the weights of a segment (`to_segments`), certificates and the simulator on
the cell levels of a bitline (`to_bitlines`).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.slicing import decode_levels, encode_levels

__all__ = [
    "MatrixLayout",
    "StoredBitlines",
    "from_bitlines",
    "from_segments",
    "outputs_at_once",
    "segment_lengths",
    "to_bitlines",
    "to_segments",
]


_WEIGHTS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MatrixLayout:
    """Which rows and outputs of a layer's matrices lie on crossbars.

    Attributes:
        groups: groups of the convolution, 1 for a linear layer.
        outputs: outputs per group of the dense layer.
        rows: inputs per output of the dense layer.
        kept_outputs: int64 `[groups, kept outputs]`, ascending, or None where all are kept.
        kept_rows: int64 `[groups, kept rows]`, ascending, or None where all are kept.

    Raises:
        MappingError: kept indices of the wrong shape, order or range.
    """

    groups: int
    outputs: int
    rows: int
    kept_outputs: Tensor | None = None
    kept_rows: Tensor | None = None

    def __post_init__(self) -> None:
        for what, kept, dense in (
            ("outputs", self.kept_outputs, self.outputs),
            ("rows", self.kept_rows, self.rows),
        ):
            if kept is not None:
                _check_kept(what, kept, self.groups, dense)

    @classmethod
    def of(cls, weight: Tensor, groups: int = 1) -> Self:
        """The layout of a dense layer.

        Args:
            weight: `[outputs, inputs]` or `[outputs, inputs / groups, height, width]`.
            groups: groups of the convolution.

        Raises:
            MappingError: a tensor that is not a layer's, or outputs that `groups` do not divide.
        """
        if weight.ndim < 2 or groups < 1 or weight.shape[0] % groups:
            raise MappingError(
                f"weight of shape {tuple(weight.shape)} with {groups} groups; allowed: "
                "[outputs, inputs, ...] with outputs divisible by groups"
            )
        outputs = weight.shape[0] // groups
        return cls(groups=groups, outputs=outputs, rows=weight[0].numel())

    @property
    def packed_rows(self) -> int:
        """Rows per group that are left."""
        return self.rows if self.kept_rows is None else self.kept_rows.shape[1]

    @property
    def packed_outputs(self) -> int:
        """Outputs per group that are left."""
        return self.outputs if self.kept_outputs is None else self.kept_outputs.shape[1]

    def to(self, device: torch.device | str) -> Self:
        """The same layout with its indices on `device`."""
        return type(self)(
            groups=self.groups,
            outputs=self.outputs,
            rows=self.rows,
            kept_outputs=None if self.kept_outputs is None else self.kept_outputs.to(device),
            kept_rows=None if self.kept_rows is None else self.kept_rows.to(device),
        )

    def pack(self, weight: Tensor) -> Tensor:
        """The kept matrices `[groups, packed outputs, packed rows]` of a weight tensor.

        Raises:
            MappingError: a weight of another layer's shape.
        """
        if weight.shape[0] != self.groups * self.outputs or weight[0].numel() != self.rows:
            raise MappingError(
                f"weight of shape {tuple(weight.shape)}; the layout is of "
                f"[{self.groups * self.outputs}, {self.rows}]"
            )
        matrix = weight.reshape(self.groups, self.outputs, self.rows)
        if self.kept_outputs is not None:
            index = self.kept_outputs[:, :, None].expand(-1, -1, self.rows)
            matrix = matrix.gather(1, index)
        if self.kept_rows is not None:
            index = self.kept_rows[:, None, :].expand(-1, matrix.shape[1], -1)
            matrix = matrix.gather(2, index)
        return matrix

    def unpack(self, matrix: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
        """Undoes `pack`: a weight tensor of `shape`, zero where no cell exists."""
        if self.kept_rows is not None:
            wide = matrix.new_zeros(self.groups, matrix.shape[1], self.rows)
            index = self.kept_rows[:, None, :].expand(-1, matrix.shape[1], -1)
            matrix = wide.scatter(2, index, matrix)
        if self.kept_outputs is not None:
            tall = matrix.new_zeros(self.groups, self.outputs, self.rows)
            index = self.kept_outputs[:, :, None].expand(-1, -1, self.rows)
            matrix = tall.scatter(1, index, matrix)
        return matrix.reshape(shape)

    def mask(self, shape: torch.Size | tuple[int, ...], device: torch.device | str) -> Tensor:
        """Boolean weight tensor of `shape`: True where a cell exists."""
        kept = torch.ones(self.groups, self.packed_outputs, self.packed_rows, device=device)
        return self.unpack(kept, shape).bool()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredBitlines:
    """Cell levels as they are programmed.

    Attributes:
        levels: uint8 `[groups, tiles, bitlines, wordlines]`; bitlines run over (output, polarity,
            bit slice), the last fastest; unused wordlines of the last tile hold 0.
        flipped: bool `[groups, tiles, bitlines]`, True where a segment is stored inverted; None
            where the encoding never flips.
        lengths: int64 `[tiles]`, wordlines that are driven in each tile.
    """

    levels: Tensor
    flipped: Tensor | None
    lengths: Tensor

    def sums(self) -> Tensor:
        """Sum of levels per segment, int64 `[groups, tiles, bitlines]`."""
        return self.levels.sum(dim=-1, dtype=torch.int64)


def segment_lengths(rows: int, wordlines: int) -> list[int]:
    """Rows of each tile; only the last one may be shorter than `wordlines`."""
    return [min(wordlines, rows - start) for start in range(0, rows, wordlines)]


def outputs_at_once(matrix: Tensor) -> int:
    """How many outputs of `[groups, outputs, rows]` to work on at a time.

    Temporaries are several times as large as the weights; kept to a piece of a large layer they
    stay within what caches and allocator hand out cheaply, and time grows with the weights alone.
    """
    groups, _, rows = matrix.shape
    return max(1, _WEIGHTS_AT_ONCE // max(1, groups * rows))


def to_segments(matrix: Tensor, wordlines: int) -> Tensor:
    """Cuts rows into tiles: `[groups, lines, rows]` to `[groups, tiles, lines, wordlines]`.

    The last tile is padded with zeros.
    """
    groups, lines, rows = matrix.shape
    tiles = -(-rows // wordlines)
    padding = tiles * wordlines - rows
    padded = functional.pad(matrix, (0, padding)) if padding else matrix
    return padded.reshape(groups, lines, tiles, wordlines).transpose(1, 2)


def from_segments(segments: Tensor, rows: int) -> Tensor:
    """Undoes `to_segments`: `[groups, tiles, lines, wordlines]` to `[groups, lines, rows]`."""
    groups, tiles, lines, wordlines = segments.shape
    return segments.transpose(1, 2).reshape(groups, lines, tiles * wordlines)[..., :rows]


def to_bitlines(
    weight_q: Tensor, spec: CrossbarSpec, layout: MatrixLayout | None = None
) -> StoredBitlines:
    """Cell levels of integer weights.

    Args:
        weight_q: integers of at most `spec.weight_limit` in magnitude, `[outputs, inputs]` or
            `[outputs, inputs / groups, height, width]`.
        spec: the layer's crossbar.
        layout: what is left of the layer (default: all of it, one group).

    Raises:
        MappingError: weights that are not integers or exceed `spec.weight_limit`.
    """
    layout = MatrixLayout.of(weight_q) if layout is None else layout
    matrix = layout.pack(weight_q)
    levels = encode_levels(matrix, spec)  # [groups, outputs, polarities * slices, rows]
    tiled = to_segments(levels.flatten(1, 2), spec.wordlines)
    lengths = torch.tensor(
        segment_lengths(matrix.shape[-1], spec.wordlines), dtype=torch.int64, device=levels.device
    )
    if spec.sign_encoding is not SignEncoding.FLIPPED:
        return StoredBitlines(levels=tiled, flipped=None, lengths=lengths)
    limits = _slice_limits(spec, matrix.shape[1], levels.device)  # [bitlines]
    sums = tiled.sum(dim=-1, dtype=torch.int64)
    flipped = 2 * sums > limits * lengths[:, None]
    return StoredBitlines(
        levels=_flip(tiled, flipped, limits, lengths), flipped=flipped, lengths=lengths
    )


def from_bitlines(
    stored: StoredBitlines,
    spec: CrossbarSpec,
    shape: torch.Size | tuple[int, ...],
    layout: MatrixLayout | None = None,
) -> Tensor:
    """The integer weights, int32 of `shape`, that `to_bitlines` stored."""
    if layout is None:
        layout = MatrixLayout(groups=1, outputs=shape[0], rows=_product(tuple(shape[1:])))
    levels = stored.levels
    if stored.flipped is not None:
        limits = _slice_limits(spec, layout.packed_outputs, levels.device)
        levels = _flip(levels, stored.flipped, limits, stored.lengths)
    lines = from_segments(levels, layout.packed_rows)
    matrix = decode_levels(
        lines.unflatten(1, (layout.packed_outputs, spec.bitlines_per_output)), spec
    )
    return layout.unpack(matrix, shape)


def _flip(levels: Tensor, flipped: Tensor, limits: Tensor, lengths: Tensor) -> Tensor:
    """Inverts the flipped segments on their driven wordlines; applying it twice undoes it."""
    driven = torch.arange(levels.shape[-1], device=levels.device) < lengths[:, None]
    inverted = limits.to(levels.dtype)[:, None] - levels
    return torch.where(flipped[..., None] & driven[:, None, :], inverted, levels)


def _slice_limits(spec: CrossbarSpec, outputs: int, device: torch.device) -> Tensor:
    """Largest level of each bitline, int64 `[outputs * polarities * slices]`."""
    limits = [spec.slice_limit(index) for index in range(spec.slice_count)]
    return torch.tensor(limits * (outputs * spec.polarity_count), device=device)


def _check_kept(what: str, kept: Tensor, groups: int, dense: int) -> None:
    if kept.ndim != 2 or kept.shape[0] != groups or kept.dtype != torch.int64:
        raise MappingError(
            f"kept {what} are {kept.dtype} of shape {tuple(kept.shape)}; "
            f"allowed: int64 [{groups}, at most {dense}]"
        )
    ascending = bool((kept[:, 1:] > kept[:, :-1]).all())
    in_range = kept.numel() == 0 or (int(kept.min()) >= 0 and int(kept.max()) < dense)
    if not ascending or not in_range:
        raise MappingError(f"kept {what} must ascend within 0..{dense - 1}; got {kept.tolist()}")


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
