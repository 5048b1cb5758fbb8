"""Hypothesis strategies that several test modules share: small crossbars and layers on them."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.mapping import MatrixLayout

__all__ = ["Layer", "crossbar_specs", "inputs_of", "layers"]

_KERNELS = ((), (1, 1), (1, 3), (2, 2), (3, 3))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """Integer weights, the crossbar they lie on and what structured pruning left of them."""

    weight_q: Tensor
    spec: CrossbarSpec
    layout: MatrixLayout

    @property
    def matrix_q(self) -> Tensor:
        """Packed weights, int64 `[groups, outputs, rows]`."""
        return self.layout.pack(self.weight_q).long()


@st.composite
def crossbar_specs(draw: st.DrawFn) -> CrossbarSpec:
    """Crossbars of a few wordlines, with every encoding and cell and DAC width."""
    dac_bits = draw(st.integers(1, 4), label="dac_bits")
    return CrossbarSpec(
        wordlines=draw(st.integers(1, 7), label="wordlines"),
        bitlines=128,
        cell_bits=draw(st.sampled_from((1, 2, 3, 4, 8)), label="cell_bits"),
        dac_bits=dac_bits,
        weight_bits=draw(st.sampled_from((2, 3, 4, 5, 7, 8, 16)), label="weight_bits"),
        input_bits=draw(st.integers(dac_bits, 9), label="input_bits"),
        sign_encoding=draw(st.sampled_from(SignEncoding), label="sign_encoding"),
    )


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Linear layers and plain, grouped and depthwise convolutions, whole or packed."""
    spec = draw(crossbar_specs())
    kernel = draw(st.sampled_from(_KERNELS), label="kernel")
    groups = draw(st.integers(1, 3), label="groups") if kernel else 1
    outputs = draw(st.integers(1, 3), label="outputs per group")
    inputs = draw(st.integers(1, 2 if kernel else 15), label="inputs per group")
    shape = (groups * outputs, inputs, *kernel)
    layout = draw(_layouts(MatrixLayout.of(torch.empty(shape), groups)))
    weight_q = draw(_integers(shape, -spec.weight_limit, spec.weight_limit))
    return Layer(weight_q=weight_q, spec=spec, layout=layout)


@st.composite
def inputs_of(draw: st.DrawFn, layer: Layer) -> Tensor:
    """Inputs of one to three vectors for a layer, int64 `[groups, vectors, packed rows]`."""
    shape = (layer.layout.groups, draw(st.integers(1, 3)), layer.layout.packed_rows)
    return draw(_integers(shape, 0, layer.spec.input_limit))


@st.composite
def _layouts(draw: st.DrawFn, dense: MatrixLayout) -> MatrixLayout:
    """The dense layout or one that keeps at least one output and one row per group."""
    return MatrixLayout(
        groups=dense.groups,
        outputs=dense.outputs,
        rows=dense.rows,
        kept_outputs=draw(st.none() | _kept(dense.groups, dense.outputs), label="kept outputs"),
        kept_rows=draw(st.none() | _kept(dense.groups, dense.rows), label="kept rows"),
    )


@st.composite
def _kept(draw: st.DrawFn, groups: int, dense: int) -> Tensor:
    count = draw(st.integers(1, dense))
    chosen = st.permutations(range(dense)).map(lambda order: sorted(order[:count]))
    return torch.tensor([draw(chosen) for _ in range(groups)])


@st.composite
def _integers(draw: st.DrawFn, shape: tuple[int, ...], low: int, high: int) -> Tensor:
    """An int64 tensor of `shape`, with more zeros and extremes than a uniform draw has."""
    count = torch.Size(shape).numel()
    value = st.sampled_from((low, 0, high)) | st.integers(low, high)
    drawn = draw(st.lists(value, min_size=count, max_size=count))
    return torch.tensor(drawn, dtype=torch.int64).reshape(shape)
