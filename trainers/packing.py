"""Crossbar-aware structured pruning: which rows and outputs of a layer stay.

Crossbars are saved only in whole heights and widths, so kept counts come from
`hwmodel.geometry.whole_crossbars`; the weakest rows and outputs by L2 norm go first.

Source: the structured half of TinyADC (DATE 2021) and of the memristor ADMM framework
(ISLPED 2019), as norm ranking.
"""

import torch
from torch import Tensor

from hwmodel.mapping import MatrixLayout

__all__ = ["strongest_layout"]


def strongest_layout(
    weight: Tensor, groups: int, rows: int | None = None, outputs: int | None = None
) -> MatrixLayout:
    """The layout that keeps the strongest outputs, then the strongest rows over those.

    Args:
        weight: `[outputs, inputs, ...]`.
        groups: groups of the convolution.
        rows: rows per group to keep (default: all).
        outputs: outputs per group to keep (default: all).
    """
    dense = MatrixLayout.of(weight, groups)
    matrix = dense.pack(weight.detach())
    kept_outputs = _strongest(matrix.square().sum(dim=2), outputs)
    if kept_outputs is not None:
        matrix = matrix.gather(1, kept_outputs[:, :, None].expand(-1, -1, dense.rows))
    return MatrixLayout(
        groups=groups,
        outputs=dense.outputs,
        rows=dense.rows,
        kept_outputs=kept_outputs,
        kept_rows=_strongest(matrix.square().sum(dim=1), rows),
    )


def _strongest(energies: Tensor, count: int | None) -> Tensor | None:
    """Ascending indices of the `count` largest of each row, or None where all stay."""
    if count is None or count >= energies.shape[1]:
        return None
    return torch.topk(energies, count, dim=1).indices.sort(dim=1).values
