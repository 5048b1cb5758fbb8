"""The rotated mapping of block-circulant layers against their plain integer product."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwmodel.certificate import certify
from hwmodel.circulant import lay_circulant
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import MappingError
from hwmodel.geometry import LayerShape
from hwmodel.mapping import MatrixLayout
from hwmodel.rotation import CirculantBlocks, RotatedMapping, rotated_mapping
from hwmodel.simulator import simulate
from tests.strategies import crossbar_specs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Circulant:
    """A block-circulant integer layer, with edges that the blocks do not divide."""

    blocks: CirculantBlocks
    weight_q: Tensor
    spec: CrossbarSpec

    @property
    def layout(self) -> MatrixLayout:
        return MatrixLayout.of(self.weight_q, self.blocks.groups)


@st.composite
def circulants(draw: st.DrawFn) -> Circulant:
    spec = draw(crossbar_specs())
    kernel = draw(st.sampled_from(((), (1, 2), (2, 2))), label="kernel")
    groups = draw(st.integers(1, 2), label="groups") if kernel else 1
    outputs = draw(st.integers(1, 9), label="outputs per group")
    inputs = draw(st.integers(1, 9), label="inputs per group")
    block_size = draw(st.sampled_from((1, 2, 3, 4, 8)), label="block size")
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99), label="seed"))
    shape = (groups * outputs, inputs, *kernel)
    blocks = CirculantBlocks.of(torch.empty(shape), groups, block_size)
    size = (groups, blocks.block_rows, blocks.kernel, blocks.block_columns, blocks.side)
    vectors = torch.randint(-spec.weight_limit, spec.weight_limit + 1, size, generator=generator)
    return Circulant(blocks=blocks, weight_q=blocks.expand(vectors, shape), spec=spec)


@settings(deadline=None, max_examples=40)
@given(layer=circulants())
def test_weights_are_equal_along_the_diagonals_of_every_block(layer: Circulant) -> None:
    blocks, side = layer.blocks, layer.blocks.side
    weight = layer.weight_q.reshape(blocks.groups, blocks.outputs, blocks.inputs, blocks.kernel)
    seen: dict[tuple[int, ...], int] = {}
    for group in range(blocks.groups):
        for output in range(blocks.outputs):
            for channel in range(blocks.inputs):
                for place in range(blocks.kernel):
                    block = (group, output // side, channel // side, place)
                    key = (*block, (output % side - channel % side) % side)
                    value = int(weight[group, output, channel, place])
                    assert seen.setdefault(key, value) == value


@settings(deadline=None, max_examples=40)
@given(layer=circulants(), data=st.data())
def test_projection_is_the_mean_of_every_diagonal(layer: Circulant, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 99))
    weight = torch.randn(layer.weight_q.shape, generator=torch.Generator().manual_seed(seed))
    projected = layer.blocks.project(weight)
    distance = (weight - projected).square().sum()
    # Nearest in a linear space: the rest is orthogonal to every circulant weight.
    assert float(((weight - projected) * layer.weight_q).sum()) == pytest.approx(
        0, abs=1e-3 * max(1.0, float(layer.weight_q.abs().max()))
    )
    assert distance <= (weight - layer.weight_q).square().sum() + 1e-4
    assert torch.equal(layer.blocks.project(projected), projected)
    assert torch.equal(layer.blocks.project(layer.weight_q.double()), layer.weight_q.double())


@settings(deadline=None, max_examples=60)
@given(layer=circulants(), data=st.data())
def test_rotated_crossbars_give_the_circulant_product_bit_for_bit(
    layer: Circulant, data: st.DataObject
) -> None:
    blocks, spec = layer.blocks, layer.spec
    duplication = data.draw(st.integers(1, blocks.side), label="duplication")
    mapping = RotatedMapping(
        blocks=blocks, duplication=duplication, rotations=-(-blocks.side // duplication)
    )
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99), label="inputs"))
    size = (blocks.groups, 2, layer.layout.rows)
    inputs = torch.randint(0, spec.input_limit + 1, size, generator=generator)
    stored = mapping.store(layer.weight_q)
    certificate = certify(stored, spec, mapping.layout)
    products = simulate(
        mapping.rotate(inputs),
        stored,
        spec,
        certificate.adc_bits_per_slice,
        layout=mapping.layout,
        every_reading=True,
    )
    expected = inputs @ layer.layout.pack(layer.weight_q).transpose(1, 2)
    assert torch.equal(mapping.collect(products), expected)


def test_the_minimal_mapping_stores_one_rotation_of_each_vector() -> None:
    blocks = CirculantBlocks(groups=1, outputs=3, inputs=3, kernel=1, side=3)
    vectors = torch.tensor([5, 6, 7]).reshape(1, 1, 1, 1, 3)
    weight = blocks.expand(vectors, (3, 3))
    assert weight.tolist() == [[5, 7, 6], [6, 5, 7], [7, 6, 5]]
    mapping = RotatedMapping(blocks=blocks, duplication=1, rotations=3)
    assert mapping.store(weight).tolist() == [[5, 7, 6]]
    assert mapping.rotate(torch.tensor([[[1, 2, 3]]])).tolist() == [
        [[1, 2, 3], [2, 3, 1], [3, 1, 2]]
    ]


def test_weights_off_their_diagonal_are_not_stored() -> None:
    blocks = CirculantBlocks(groups=1, outputs=2, inputs=2, kernel=1, side=2)
    mapping = RotatedMapping(blocks=blocks, duplication=1, rotations=2)
    with pytest.raises(MappingError, match=r"4 weights differ .*; allowed: circulant blocks of"):
        mapping.store(torch.tensor([[1, 2], [3, 4]]))


@settings(deadline=None, max_examples=40)
@given(layer=circulants(), bitlines=st.integers(64, 200))
def test_sizes_are_those_that_the_counts_assume(layer: Circulant, bitlines: int) -> None:
    spec = CrossbarSpec(wordlines=4, bitlines=bitlines)
    blocks = layer.blocks
    shape = LayerShape(
        name="layer",
        rows=layer.layout.rows,
        outputs=blocks.outputs,
        groups=blocks.groups,
        kernel=blocks.kernel,
    )
    laid = lay_circulant(shape, spec, blocks.side)
    mapping = rotated_mapping(layer.weight_q, layer.layout, spec, blocks.side)
    if mapping is None:
        assert laid.rotations == 1
        return
    assert (mapping.rows, mapping.outputs) == (laid.rows, laid.outputs)
    assert (mapping.duplication, mapping.rotations) == (laid.duplication, laid.rotations)
    stored = mapping.store(blocks.project(layer.weight_q.double()).int())
    assert stored.shape == (blocks.groups * laid.outputs, laid.rows)
