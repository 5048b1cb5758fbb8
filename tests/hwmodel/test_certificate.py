from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.certificate import AdcCertificate, Witness, certify, certify_bitlines
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import CertificateError, MappingError
from hwmodel.geometry import LayerShape, plan_layer
from hwmodel.mapping import MatrixLayout, from_segments, to_bitlines, to_segments
from tests.strategies import Layer, layers

Place = tuple[int, int, int]  # group, tile, bitline


def _digits(stored: int, spec: CrossbarSpec) -> list[int]:
    """Digits of a stored integer, least significant first, in plain arithmetic."""
    base = 2**spec.cell_bits
    digits: list[int] = []
    while len(digits) < spec.slice_count:
        stored, digit = divmod(stored, base)
        digits.append(digit)
    assert stored == 0
    return digits


def _cells(weight: int, spec: CrossbarSpec) -> list[int]:
    """Levels of one weight over its bitlines."""
    if spec.sign_encoding is SignEncoding.DIFFERENTIAL:
        return _digits(max(weight, 0), spec) + _digits(max(-weight, 0), spec)
    return _digits(weight + 2 ** (spec.weight_bits - 1), spec)


def _brute_force_sums(layer: Layer) -> dict[Place, int]:
    """Sum of levels of every segment, weight by weight."""
    spec = layer.spec
    sums: dict[Place, int] = {}
    per_output = spec.bitlines_per_output
    full_scale = _digits(2**spec.stored_bits - 1, spec) * spec.polarity_count
    for group, outputs in enumerate(layer.matrix_q.tolist()):
        for output, weights in enumerate(outputs):
            for start in range(0, len(weights), spec.wordlines):
                cells = [_cells(w, spec) for w in weights[start : start + spec.wordlines]]
                for line, levels in enumerate(zip(*cells, strict=True)):
                    total, full = sum(levels), full_scale[line] * len(levels)
                    if spec.sign_encoding is SignEncoding.FLIPPED:
                        total = min(total, full - total)
                    sums[group, start // spec.wordlines, output * per_output + line] = total
    return sums


def _slice_of(place: Place, spec: CrossbarSpec) -> int:
    return place[2] % spec.slice_count


@settings(deadline=None)
@given(layer=layers())
def test_certificate_is_the_brute_force_worst_case(layer: Layer) -> None:
    spec, sums = layer.spec, _brute_force_sums(layer)
    certificate = certify(layer.weight_q, spec, layer.layout)
    for index in range(spec.slice_count):
        of_slice = [total for place, total in sums.items() if _slice_of(place, spec) == index]
        assert certificate.worst_sums[index] == max(of_slice) * (2**spec.dac_bits - 1)
        assert certificate.segments_per_slice[index] == sum(total > 0 for total in of_slice)
    assert certificate.worst_sum == max(sums.values()) * (2**spec.dac_bits - 1)


@settings(deadline=None)
@given(layer=layers())
def test_witness_names_a_segment_with_the_worst_sum(layer: Layer) -> None:
    sums = _brute_force_sums(layer)
    certificate = certify(layer.weight_q, layer.spec, layer.layout)
    for index, (witness, worst) in enumerate(
        zip(certificate.witnesses, certificate.worst_sums, strict=True)
    ):
        place = (witness.group, witness.tile, witness.bitline)
        assert _slice_of(place, layer.spec) == index
        assert sums[place] * layer.spec.digit_limit == worst


@pytest.mark.parametrize(
    ("reading", "bits"),
    [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (255, 8), (256, 9), (384, 9)],
)
def test_bits_are_the_rounded_up_logarithm_of_one_more_than_the_reading(
    reading: int, bits: int
) -> None:
    certificate = AdcCertificate(
        worst_sums=(reading, 0),
        witnesses=(Witness(group=0, tile=0, bitline=0),) * 2,
        segments_per_slice=(1, 0),
        unit_line_bits=0,
    )
    assert certificate.adc_bits_per_slice == (bits, 0)
    assert certificate.adc_bits == bits
    assert replace(certificate, unit_line_bits=11).adc_bits == 11


@pytest.mark.parametrize(
    ("dac_bits", "worst", "bits"), [(1, 9, 4), (2, 27, 5), (3, 63, 6), (4, 135, 8)]
)
def test_digits_of_the_input_scale_the_worst_reading(dac_bits: int, worst: int, bits: int) -> None:
    spec = CrossbarSpec(wordlines=4, dac_bits=dac_bits)
    certificate = certify(torch.tensor([[3, 3, 3, -1, 3, 1]]), spec)
    assert certificate.worst_sums == (worst, 0, 0, 0)
    assert certificate.adc_bits == bits


def test_all_zero_differential_layer_needs_no_conversion() -> None:
    certificate = certify(torch.zeros(3, 300, dtype=torch.int8), CrossbarSpec())
    assert certificate.adc_bits_per_slice == (0, 0, 0, 0)
    assert certificate.adc_bits == 0
    assert certificate.segments_per_slice == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("encoding", "worst_top", "unit_line_bits"),
    [(SignEncoding.OFFSET, 256, 0), (SignEncoding.FLIPPED, 128, 8)],  # levels 2 and 3 - 2
)
def test_all_zero_offset_layer_still_reads_its_top_slice(
    encoding: SignEncoding, worst_top: int, unit_line_bits: int
) -> None:
    spec = CrossbarSpec(sign_encoding=encoding)
    certificate = certify(torch.zeros(3, 300, dtype=torch.int8), spec)
    assert certificate.worst_sums == (0, 0, 0, worst_top)
    assert certificate.segments_per_slice == (0, 0, 0, 9)  # 3 outputs x 3 tiles
    assert certificate.unit_line_bits == unit_line_bits


@pytest.mark.parametrize("encoding", SignEncoding)
@pytest.mark.parametrize("what", ["rows", "outputs"])
def test_layer_that_is_pruned_away_needs_no_conversion(encoding: SignEncoding, what: str) -> None:
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    layout = MatrixLayout(groups=1, outputs=2, rows=3, **{f"kept_{what}": nothing})
    spec = CrossbarSpec(sign_encoding=encoding)
    certificate = certify(torch.ones(2, 3, dtype=torch.int64), spec, layout)
    assert certificate.adc_bits == 0
    assert certificate.segments_per_slice == (0,) * spec.slice_count


@pytest.mark.parametrize("rows", [1, 7, 8, 20])
def test_unit_line_reads_the_sum_of_its_inputs(rows: int) -> None:
    spec = CrossbarSpec(wordlines=8, dac_bits=2, sign_encoding=SignEncoding.FLIPPED)
    certificate = certify(torch.ones(1, rows, dtype=torch.int64), spec)
    assert certificate.unit_line_bits == (3 * min(rows, 8)).bit_length()


def test_weights_that_cannot_be_stored_are_not_certified() -> None:
    with pytest.raises(MappingError, match="magnitude 128"):
        certify(torch.tensor([[128]]), CrossbarSpec())


def test_check_names_the_segment_that_a_changed_weight_breaks() -> None:
    spec = CrossbarSpec(wordlines=4)
    weight_q = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, -1, -1, -1]])
    promised = certify(weight_q, spec).adc_bits_per_slice
    assert promised == (2, 0, 0, 0)
    certify(weight_q, spec).check("conv1", promised)
    weight_q[1, 4] = -1  # output 1, tile 1; its negative low slice is bitline 8 + 4
    with pytest.raises(
        CertificateError,
        match=r"^conv1: a reading of 4 is possible at tile 1, bitline 12 \(bit slice 0\), "
        r"limit 3 with a 2-bit ADC$",
    ):
        certify(weight_q, spec).check("conv1", promised)


def test_check_names_group_and_slice() -> None:
    weight_q = torch.tensor([[1, 0], [0, 2 * 16]])
    certificate = certify(weight_q, CrossbarSpec(), MatrixLayout.of(weight_q, groups=2))
    with pytest.raises(
        CertificateError, match=r"group 1, tile 0, bitline 2 \(bit slice 2\), limit 1 with a 1-bit"
    ):
        certificate.check("conv1", (1, 0, 1, 0))


def test_check_counts_a_slice_that_was_promised_empty() -> None:
    with pytest.raises(CertificateError, match=r"bit slice 3\), limit 0 with a 0-bit ADC"):
        certify(torch.tensor([[64]]), CrossbarSpec()).check("fc", (8, 8, 8, 0))


@settings(deadline=None)
@given(layer=layers(), data=st.data())
def test_check_holds_at_the_certified_bits_and_fails_below(
    layer: Layer, data: st.DataObject
) -> None:
    certificate = certify(layer.weight_q, layer.spec, layer.layout)
    promised = list(certificate.adc_bits_per_slice)
    certificate.check("layer", tuple(promised))
    read = [index for index, bits in enumerate(promised) if bits]
    if not read:
        return
    broken = data.draw(st.sampled_from(read), label="slice")
    promised[broken] -= 1
    witness = certificate.witnesses[broken]
    with pytest.raises(CertificateError, match=rf"bitline {witness.bitline} \(bit slice {broken}"):
        certificate.check("layer", tuple(promised))


@settings(deadline=None)
@given(layer=layers(), bound=st.integers(1, 7))
def test_count_bound_needs_at_most_the_planned_bits(layer: Layer, bound: int) -> None:
    bounded = _bounded(layer, bound)
    certificate = certify(bounded.weight_q, bounded.spec, bounded.layout)
    layout = bounded.layout
    shape = LayerShape(name="x", rows=layout.rows, outputs=layout.outputs, groups=layout.groups)
    planned = plan_layer(
        shape,
        bounded.spec,
        rows=layout.packed_rows,
        outputs=layout.packed_outputs,
        nonzeros=bound,
    )
    pairs = zip(certificate.adc_bits_per_slice, planned.adc_bits_per_slice, strict=True)
    assert all(certified <= plan for certified, plan in pairs)
    segments = zip(certificate.segments_per_slice, planned.segments_per_slice, strict=True)
    assert all(used <= plan for used, plan in segments)
    assert certificate.unit_line_bits == planned.unit_line_bits
    assert int(bounded.weight_q.count_nonzero()) <= planned.nonzeros


@pytest.mark.parametrize("encoding", SignEncoding)
@pytest.mark.parametrize("bound", [1, 2, 3, 8])
def test_planned_bits_are_reached_by_the_worst_weights(encoding: SignEncoding, bound: int) -> None:
    spec = CrossbarSpec(wordlines=8, cell_bits=3, weight_bits=4, sign_encoding=encoding)
    planned = plan_layer(LayerShape(name="x", rows=8, outputs=1), spec, nonzeros=bound)
    reached = [0] * spec.slice_count
    for value in range(-7, 8):
        for count in range(bound + 1):
            weight_q = torch.tensor([[value] * count + [0] * (8 - count)])
            bits = certify(weight_q, spec).adc_bits_per_slice
            reached = [max(pair) for pair in zip(reached, bits, strict=True)]
    assert tuple(reached) == planned.adc_bits_per_slice


def test_certificate_of_bitlines_is_that_of_their_weights() -> None:
    spec = CrossbarSpec(wordlines=2)
    weight_q = torch.tensor([[1, -2, 3]])
    assert certify_bitlines(to_bitlines(weight_q, spec), spec) == certify(weight_q, spec)


def _bounded(layer: Layer, bound: int) -> Layer:
    """The layer with the first `bound` non-zeros per segment and polarity, and no others."""
    segments = to_segments(layer.matrix_q, layer.spec.wordlines)
    if layer.spec.sign_encoding is SignEncoding.DIFFERENTIAL:
        counted = [segments > 0, segments < 0]
    else:
        counted = [segments != 0]
    kept = sum(segments * (one & (one.cumsum(dim=-1) <= bound)) for one in counted)
    assert isinstance(kept, torch.Tensor)
    matrix = from_segments(kept, layer.layout.packed_rows)
    return replace(layer, weight_q=layer.layout.unpack(matrix, layer.weight_q.shape))


@pytest.mark.parametrize("encoding", list(SignEncoding))
def test_large_layer_is_certified_in_pieces_as_in_one(
    monkeypatch: pytest.MonkeyPatch, encoding: SignEncoding
) -> None:
    spec = CrossbarSpec(wordlines=8, bitlines=16, sign_encoding=encoding)
    generator = torch.Generator().manual_seed(0)
    weight_q = torch.randint(-127, 128, (30, 20), generator=generator, dtype=torch.int32)
    layout = MatrixLayout.of(weight_q, groups=2)
    whole = certify(weight_q, spec, layout)
    monkeypatch.setattr("hwmodel.mapping._WEIGHTS_AT_ONCE", 200)  # pieces of 5 outputs a group
    pieces = certify(weight_q, spec, layout)
    assert pieces.worst_sums == whole.worst_sums
    assert pieces.segments_per_slice == whole.segments_per_slice
    assert pieces.unit_line_bits == whole.unit_line_bits
    sums = to_bitlines(weight_q, spec, layout).sums()
    for reading, at in zip(pieces.worst_sums, pieces.witnesses, strict=True):
        assert int(sums[at.group, at.tile, at.bitline]) == reading


@settings(deadline=None)
@given(layer=layers(), bits=st.integers(1, 9))
def test_level_sums_within_an_adc_are_what_was_planned_for_it(layer: Layer, bits: int) -> None:
    spec = replace(layer.spec, sign_encoding=SignEncoding.DIFFERENTIAL)
    limit = (2**bits - 1) // spec.digit_limit
    layer = replace(layer, spec=spec, weight_q=_within(layer, spec, limit))
    groups, outputs, rows = layer.matrix_q.shape
    shape = LayerShape(name="any", rows=rows, outputs=outputs, groups=groups)
    planned = plan_layer(shape, spec, adc_bits=bits)
    certify(layer.weight_q, spec, layer.layout).check("any", planned.adc_bits_per_slice)
    assert int(torch.count_nonzero(layer.matrix_q)) <= planned.nonzeros


def _within(layer: Layer, spec: CrossbarSpec, limit: int) -> torch.Tensor:
    """The layer's weights, but for those by which a level sum would exceed the limit."""
    matrix = layer.matrix_q
    for weights in matrix.flatten(0, 1):
        for start in range(0, len(weights), spec.wordlines):
            totals = [0] * spec.bitlines_per_output
            for row in range(start, min(start + spec.wordlines, len(weights))):
                sums = [a + b for a, b in zip(totals, _cells(int(weights[row]), spec), strict=True)]
                if max(sums) > limit:
                    weights[row] = 0
                else:
                    totals = sums
    return layer.layout.unpack(matrix, layer.weight_q.shape)
