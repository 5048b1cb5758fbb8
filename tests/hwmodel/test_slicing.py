import itertools

import pytest
import torch

from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.slicing import decode_levels, encode_levels

CELL_BITS = (1, 2, 3, 4, 8)


def _spec(encoding: SignEncoding, *, weight_bits: int = 8, cell_bits: int = 2) -> CrossbarSpec:
    return CrossbarSpec(weight_bits=weight_bits, cell_bits=cell_bits, sign_encoding=encoding)


def _levels(weight: int, spec: CrossbarSpec) -> list[int]:
    encoded = encode_levels(torch.tensor([[[weight]]]), spec)
    assert encoded.dtype is torch.uint8
    return encoded.flatten().tolist()


@pytest.mark.parametrize(
    ("weight", "positive", "negative"),
    [
        (27, [3, 2, 1, 0], [0, 0, 0, 0]),  # 27 = 3 + 2 * 4 + 1 * 16
        (-27, [0, 0, 0, 0], [3, 2, 1, 0]),
        (127, [3, 3, 3, 1], [0, 0, 0, 0]),  # seven bits: the top slice is one bit wide
        (0, [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_differential_pair_holds_magnitude_on_the_polarity_of_its_sign(
    weight: int, positive: list[int], negative: list[int]
) -> None:
    assert _levels(weight, _spec(SignEncoding.DIFFERENTIAL)) == positive + negative


@pytest.mark.parametrize("encoding", [SignEncoding.OFFSET, SignEncoding.FLIPPED])
@pytest.mark.parametrize(
    ("weight", "levels"),
    [
        (0, [0, 0, 0, 2]),  # 128 = 2 * 64
        (-127, [1, 0, 0, 0]),
        (127, [3, 3, 3, 3]),
        (5, [1, 1, 0, 2]),  # 133 = 1 + 1 * 4 + 2 * 64
    ],
)
def test_offset_adds_half_scale_least_significant_slice_first(
    encoding: SignEncoding, weight: int, levels: list[int]
) -> None:
    assert _levels(weight, _spec(encoding)) == levels


def test_slices_lie_inside_polarities_inside_outputs() -> None:
    spec = _spec(SignEncoding.DIFFERENTIAL, weight_bits=5, cell_bits=2)
    encoded = encode_levels(torch.tensor([[[6, -9], [0, 15]]]), spec)
    assert encoded.tolist() == [
        [
            [[2, 0], [1, 0], [0, 1], [0, 2]],  # 6 = 2 + 1 * 4;  9 = 1 + 2 * 4
            [[0, 3], [0, 3], [0, 0], [0, 0]],
        ]
    ]


@pytest.mark.parametrize("encoding", SignEncoding)
@pytest.mark.parametrize("cell_bits", CELL_BITS)
@pytest.mark.parametrize("weight_bits", [2, 3, 5, 8, 9])
def test_decode_undoes_encode_for_every_weight(
    encoding: SignEncoding, cell_bits: int, weight_bits: int
) -> None:
    spec = _spec(encoding, weight_bits=weight_bits, cell_bits=cell_bits)
    matrix = torch.arange(-spec.weight_limit, spec.weight_limit + 1)[None, None]
    levels = encode_levels(matrix, spec)
    decoded = decode_levels(levels, spec)
    assert decoded.dtype is torch.int32
    assert torch.equal(decoded, matrix.int())


@pytest.mark.parametrize("encoding", SignEncoding)
def test_sixteen_bit_extremes_survive(encoding: SignEncoding) -> None:
    for cell_bits in CELL_BITS:
        spec = _spec(encoding, weight_bits=16, cell_bits=cell_bits)
        matrix = torch.tensor([[[-32767, -1, 0, 1, 32767]]])
        assert torch.equal(decode_levels(encode_levels(matrix, spec), spec), matrix.int())


@pytest.mark.parametrize("encoding", SignEncoding)
def test_slice_limit_is_the_largest_level_of_its_slice(encoding: SignEncoding) -> None:
    for weight_bits, cell_bits in itertools.product((3, 8), CELL_BITS):
        spec = _spec(encoding, weight_bits=weight_bits, cell_bits=cell_bits)
        matrix = torch.arange(-spec.weight_limit, spec.weight_limit + 1)[None, None]
        per_line = encode_levels(matrix, spec)[0, 0].amax(dim=-1)
        limits = [spec.slice_limit(index) for index in range(spec.slice_count)]
        assert per_line.tolist() == limits * spec.polarity_count


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_every_signed_integer_type_is_stored_alike(dtype: torch.dtype) -> None:
    spec = _spec(SignEncoding.OFFSET)
    matrix = torch.tensor([[[-127, -1, 0, 127]]])
    assert torch.equal(encode_levels(matrix.to(dtype), spec), encode_levels(matrix, spec))


def test_int8_minimum_is_stored_where_the_range_allows_it() -> None:
    spec = _spec(SignEncoding.DIFFERENTIAL, weight_bits=9, cell_bits=8)
    matrix = torch.tensor([[[-128]]], dtype=torch.int8)
    assert encode_levels(matrix, spec).flatten().tolist() == [0, 128]


def test_matrix_without_outputs_or_rows_has_no_levels() -> None:
    spec = _spec(SignEncoding.DIFFERENTIAL)
    assert encode_levels(torch.zeros(2, 0, 3, dtype=torch.int8), spec).shape == (2, 0, 8, 3)
    assert encode_levels(torch.zeros(2, 3, 0, dtype=torch.int8), spec).shape == (2, 3, 8, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_weights_that_are_not_integers_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(MappingError, match=rf"weights are {dtype}; allowed: integers"):
        encode_levels(torch.ones(1, 1, 1, dtype=dtype), _spec(SignEncoding.OFFSET))


@pytest.mark.parametrize("encoding", SignEncoding)
@pytest.mark.parametrize("weight", [128, -128, 40_000])
def test_weight_beyond_the_limit_is_refused_with_its_magnitude(
    encoding: SignEncoding, weight: int
) -> None:
    message = rf"magnitude {abs(weight)}; allowed with 8-bit weights: at most 127"
    with pytest.raises(MappingError, match=message):
        encode_levels(torch.tensor([[[1, weight]]]), _spec(encoding))


@pytest.mark.parametrize("weight", [2**32 + 5, -(2**31), -(2**63)])
def test_weight_beyond_int32_is_refused_too(weight: int) -> None:
    with pytest.raises(MappingError, match=str(abs(weight))):
        encode_levels(torch.tensor([[[weight]]]), _spec(SignEncoding.DIFFERENTIAL))
