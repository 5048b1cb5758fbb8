from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwmodel import simulator
from hwmodel.certificate import certify
from hwmodel.crossbar import CrossbarSpec, SignEncoding
from hwmodel.errors import MappingError
from hwmodel.mapping import MatrixLayout, to_bitlines, to_segments
from hwmodel.nonideality import Nonideality, effective_levels
from hwmodel.simulator import CrossbarSimulator, simulate
from tests.strategies import Layer, inputs_of, layers

ENOUGH_BITS = 30


def _product(inputs_q: Tensor, layer: Layer) -> Tensor:
    """The integer product `[groups, vectors, outputs]`."""
    return inputs_q @ layer.matrix_q.transpose(1, 2)


def _read(weights: list[int], inputs: list[int], spec: CrossbarSpec, bits: int | list[int]) -> int:
    """Every reading of one output for one input vector."""
    inputs_q, weight_q = torch.tensor([[inputs]]), torch.tensor([weights])
    return int(simulate(inputs_q, weight_q, spec, bits, every_reading=True))


@settings(deadline=None)
@given(layer=layers(), data=st.data())
def test_certified_bits_give_the_integer_product_on_both_paths(
    layer: Layer, data: st.DataObject
) -> None:
    inputs_q = data.draw(inputs_of(layer), label="inputs")
    expected = _product(inputs_q, layer)
    certificate = certify(layer.weight_q, layer.spec, layer.layout)
    for bits in (certificate.adc_bits_per_slice, max(certificate.adc_bits_per_slice)):
        crossbars = CrossbarSimulator(layer.weight_q, layer.spec, bits, layout=layer.layout)
        assert crossbars.lossless
        for every_reading in (False, True):
            result = crossbars(inputs_q, every_reading=every_reading)
            assert result.dtype is torch.int64
            assert torch.equal(result, expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dac_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("encoding", SignEncoding)
def test_grouped_convolution_is_exact_at_certified_bits(
    encoding: SignEncoding, dac_bits: int, packed: bool
) -> None:
    spec = CrossbarSpec(wordlines=7, dac_bits=dac_bits, sign_encoding=encoding)
    generator = torch.Generator().manual_seed(2)
    weight_q = torch.randint(-127, 128, (6, 2, 3, 3), generator=generator)
    layout = MatrixLayout.of(weight_q, groups=3)
    if packed:
        kept = torch.arange(0, 18, 2).repeat(3, 1)
        layout = MatrixLayout(groups=3, outputs=2, rows=18, kept_rows=kept)
    inputs_q = torch.randint(0, 256, (3, 5, layout.packed_rows), generator=generator)
    bits = certify(weight_q, spec, layout).adc_bits_per_slice
    expected = inputs_q @ layout.pack(weight_q).transpose(1, 2)
    for every_reading in (False, True):
        result = simulate(
            inputs_q, weight_q, spec, bits, layout=layout, every_reading=every_reading
        )
        assert torch.equal(result, expected)


@settings(deadline=None)
@given(layer=layers(), data=st.data())
def test_one_bit_fewer_loses_exactly_what_the_witness_clips(
    layer: Layer, data: st.DataObject
) -> None:
    spec = layer.spec
    certificate = certify(layer.weight_q, spec, layer.layout)
    bits = list(certificate.adc_bits_per_slice)
    read = [index for index, needed in enumerate(bits) if needed]
    assume(read)
    index = data.draw(st.sampled_from(read), label="slice")
    bits[index] -= 1
    witness = certificate.witnesses[index]
    inputs_q = _witness_inputs(layer, index)

    crossbars = CrossbarSimulator(layer.weight_q, spec, bits, layout=layer.layout)
    assert not crossbars.lossless
    lost = (_product(inputs_q, layer) - crossbars(inputs_q))[witness.group, 0]
    output, line = divmod(witness.bitline, spec.bitlines_per_output)
    clipped = (certificate.worst_sums[index] - (2 ** bits[index] - 1)) << spec.cell_bits * index
    flipped = crossbars.stored.flipped
    inverted = flipped is not None and flipped[witness.group, witness.tile, witness.bitline]
    negative = line >= spec.slice_count or bool(inverted)
    assert int(lost[output]) == (-clipped if negative else clipped)


def _witness_inputs(layer: Layer, index: int) -> Tensor:
    """The largest digit on the wordlines that the slice's witness has a level on, else 0.

    Driving the wordlines of zero cells too would change nothing on the witness, but could make the
    other polarity of a differential pair clip as much, and so hide the loss.
    """
    witness = certify(layer.weight_q, layer.spec, layer.layout).witnesses[index]
    levels = to_bitlines(layer.weight_q, layer.spec, layer.layout).levels
    driven = levels[witness.group, witness.tile, witness.bitline].nonzero().flatten()
    inputs_q = torch.zeros(layer.layout.groups, 1, layer.layout.packed_rows, dtype=torch.int64)
    first = witness.tile * layer.spec.wordlines
    inputs_q[witness.group, 0, first + driven] = layer.spec.digit_limit
    return inputs_q


@pytest.mark.parametrize(("adc_bits", "reading"), [(0, 0), (1, 1), (2, 3), (3, 7), (4, 9), (5, 9)])
@pytest.mark.parametrize("sign", [1, -1])
def test_reading_saturates_at_the_largest_code(adc_bits: int, reading: int, sign: int) -> None:
    assert _read([3 * sign] * 3, [1, 1, 1], CrossbarSpec(), adc_bits) == sign * reading


def test_each_cycle_tile_and_slice_is_clipped_on_its_own() -> None:
    cycles = _read([3, 3, 3], [3, 3, 3], CrossbarSpec(), 3)
    assert cycles == 7 + 2 * 7  # two cycles of 9
    tiles = _read([3, 3, 3], [1, 1, 1], CrossbarSpec(wordlines=2), 2)
    assert tiles == 3 + 3  # readings 6 and 3
    slices = _read([5, 5], [1, 1], CrossbarSpec(), [1, 2, 0, 0])
    assert slices == 1 + 4 * 2  # readings 2 and 2


def test_wide_digits_are_clipped_in_one_cycle() -> None:
    spec = CrossbarSpec(dac_bits=2)
    assert _read([3, 3, 3], [3, 3, 3], spec, 5) == 27
    assert _read([3, 3, 3], [3, 3, 3], spec, 4) == 15


@pytest.mark.parametrize(
    ("encoding", "bits", "result"),
    [
        (SignEncoding.OFFSET, [0, 2], 0),  # the top slice reads 2: 2 * 4 - 8
        (SignEncoding.OFFSET, [0, 1], -4),  # 1 * 4 - 8
        (SignEncoding.FLIPPED, [0, 1], 0),  # stored 3 - 2 = 1, read 1: (3 - 1) * 4 - 8
        (SignEncoding.FLIPPED, [0, 0], 4),  # read 0: (3 - 0) * 4 - 8
    ],
)
def test_zero_weight_under_offset_is_clipped_by_its_encoding(
    encoding: SignEncoding, bits: list[int], result: int
) -> None:
    spec = CrossbarSpec(weight_bits=4, sign_encoding=encoding)
    assert _read([0], [1], spec, bits) == result


def test_clipped_results_never_take_the_fast_path() -> None:
    weight_q, inputs_q = torch.tensor([[3, 3, 3]]), torch.ones(1, 1, 3, dtype=torch.int64)
    assert simulate(inputs_q, weight_q, CrossbarSpec(), 3).tolist() == [[[7]]]


def test_lossless_means_every_slice_has_its_bits() -> None:
    weight_q = torch.tensor([[3 + 4 * 1] * 3])  # readings up to 9 and 3
    for bits, lossless in (((4, 2, 0, 0), True), ((3, 2, 0, 0), False), ((4, 1, 8, 8), False)):
        assert CrossbarSimulator(weight_q, CrossbarSpec(), bits).lossless is lossless


def test_fast_path_uses_float64_where_float32_would_be_wrong() -> None:
    spec = CrossbarSpec(weight_bits=16, input_bits=16)
    weight_q, inputs_q = torch.tensor([[32767, 32767, 1]]), torch.full((1, 1, 3), 65535)
    exact = 65535 * 65535
    assert int(inputs_q.float() @ weight_q.float().T) != exact
    assert int(simulate(inputs_q, weight_q, spec, ENOUGH_BITS)) == exact


def test_readings_use_float64_where_float32_would_be_wrong() -> None:
    spec = CrossbarSpec(wordlines=512, cell_bits=8, dac_bits=8, weight_bits=9)
    weight_q, inputs_q = torch.full((1, 299), 255), torch.full((1, 1, 299), 255)
    exact = 299 * 255 * 255
    assert exact > 2**24
    assert int(inputs_q.float() @ weight_q.float().T) != exact
    for bits in (ENOUGH_BITS, certify(weight_q, spec).adc_bits_per_slice):
        assert int(simulate(inputs_q, weight_q, spec, bits, every_reading=True)) == exact


def test_int8_minimum_is_exact_on_the_fast_path() -> None:
    spec = CrossbarSpec(weight_bits=9, input_bits=16)
    weight_q = torch.tensor([[-128, -128, -127]], dtype=torch.int8)
    inputs_q = torch.full((1, 1, 3), 65535)
    assert int(simulate(inputs_q, weight_q, spec, ENOUGH_BITS)) == -383 * 65535


@pytest.mark.parametrize("encoding", SignEncoding)
@pytest.mark.parametrize("adc_bits", [2, ENOUGH_BITS])
def test_chunks_join_to_the_same_result(
    monkeypatch: pytest.MonkeyPatch, encoding: SignEncoding, adc_bits: int
) -> None:
    spec = CrossbarSpec(wordlines=3, sign_encoding=encoding)
    generator = torch.Generator().manual_seed(3)
    weight_q = torch.randint(-127, 128, (2, 8), generator=generator)
    inputs_q = torch.randint(0, 256, (1, 7, 8), generator=generator)
    crossbars = CrossbarSimulator(weight_q, spec, adc_bits)
    with _chunks(monkeypatch) as sizes:
        whole = crossbars(inputs_q, every_reading=True)
    assert sizes == [7]
    readings = 3 * 2 * spec.bitlines_per_output  # per vector: three tiles, two outputs
    for at_once, expected in ((1, [1] * 7), (3 * readings + 1, [3, 3, 1])):
        monkeypatch.setattr(simulator, "_READINGS_AT_ONCE", at_once)
        with _chunks(monkeypatch) as sizes:
            assert torch.equal(crossbars(inputs_q, every_reading=True), whole)
        assert sizes == expected


@pytest.mark.parametrize("every_reading", [False, True])
@pytest.mark.parametrize("adc_bits", [2, ENOUGH_BITS])
def test_largest_chunk_does_not_grow_with_the_vectors(
    monkeypatch: pytest.MonkeyPatch, adc_bits: int, every_reading: bool
) -> None:
    monkeypatch.setattr(simulator, "_READINGS_AT_ONCE", 1000)
    weight_q = torch.randint(-127, 128, (2, 8), generator=torch.Generator().manual_seed(3))
    crossbars = CrossbarSimulator(weight_q, CrossbarSpec(wordlines=3), adc_bits)
    largest = []
    for vectors in (200, 2000):
        with _chunks(monkeypatch) as sizes:
            crossbars(torch.ones(1, vectors, 8), every_reading=every_reading)
        assert sum(sizes) == vectors
        largest.append(max(sizes))
    per_vector = 3 * 2 * 8 if every_reading else max(8 + 2, crossbars._lines.most_cut_off)
    assert largest == [1000 // per_vector] * 2


@contextmanager
def _chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Vectors of each chunk, whichever way its products come about."""
    sizes: list[int] = []

    def recording(work: Callable[[CrossbarSimulator, Tensor], Tensor]) -> object:
        def record(crossbars: CrossbarSimulator, inputs_q: Tensor) -> Tensor:
            sizes.append(inputs_q.shape[1])
            return work(crossbars, inputs_q)

        return record

    with monkeypatch.context() as patched:
        for name in ("_product", "_product_less_cut_off", "_read"):
            patched.setattr(CrossbarSimulator, name, recording(getattr(CrossbarSimulator, name)))
        yield sizes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.float32])
def test_inputs_of_every_type_are_read_alike(dtype: torch.dtype) -> None:
    weight_q, inputs_q = torch.tensor([[5, -3]]), torch.tensor([[[255, 7]]], dtype=dtype)
    for every_reading in (False, True):
        result = simulate(inputs_q, weight_q, CrossbarSpec(), 8, every_reading=every_reading)
        assert result.tolist() == [[[255 * 5 - 7 * 3]]]


@pytest.mark.parametrize("every_reading", [False, True])
@pytest.mark.parametrize("encoding", SignEncoding)
@pytest.mark.parametrize(
    ("kept_rows", "kept_outputs", "vectors"), [(0, 2, 4), (3, 0, 4), (3, 2, 0), (0, 0, 0)]
)
def test_nothing_to_read_gives_zeros(
    kept_rows: int, kept_outputs: int, vectors: int, encoding: SignEncoding, every_reading: bool
) -> None:
    layout = MatrixLayout(
        groups=1,
        outputs=2,
        rows=3,
        kept_rows=torch.arange(kept_rows)[None],
        kept_outputs=torch.arange(kept_outputs)[None],
    )
    result = simulate(
        torch.ones(1, vectors, kept_rows, dtype=torch.int64),
        torch.ones(2, 3, dtype=torch.int64),
        CrossbarSpec(sign_encoding=encoding),
        8,
        layout=layout,
        every_reading=every_reading,
    )
    assert result.dtype is torch.int64
    assert torch.equal(result, torch.zeros(1, vectors, kept_outputs, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(1, 3), (1, 2, 4), (2, 2, 3), (1, 1, 2, 3)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    crossbars = CrossbarSimulator(torch.ones(2, 3, dtype=torch.int8), CrossbarSpec(), 8)
    sizes = ", ".join(map(str, shape))
    with pytest.raises(MappingError, match=rf"\({sizes}\); allowed: \[1, vectors, 3\]"):
        crossbars(torch.zeros(shape))


@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0, 256)])
def test_inputs_out_of_range_are_refused(low: int, high: int) -> None:
    crossbars = CrossbarSimulator(torch.ones(1, 2, dtype=torch.int8), CrossbarSpec(), 8)
    with pytest.raises(MappingError, match=rf"inputs from {low} to {high}; allowed: 0 to 255"):
        crossbars(torch.tensor([[[low, high]]]))


@pytest.mark.parametrize("value", [1.5, float("nan")])
@pytest.mark.parametrize("every_reading", [False, True])
def test_inputs_that_are_not_integers_are_refused(value: float, every_reading: bool) -> None:
    crossbars = CrossbarSimulator(torch.ones(1, 2, dtype=torch.int8), CrossbarSpec(), 8)
    with pytest.raises(MappingError, match=str(value)):
        crossbars(torch.full((1, 1, 2), value), every_reading=every_reading)


def test_resolutions_come_one_or_one_per_slice() -> None:
    with pytest.raises(MappingError, match=r"3 ADC resolutions; allowed: one, or 4"):
        CrossbarSimulator(torch.ones(1, 2, dtype=torch.int8), CrossbarSpec(), (8, 8, 8))


def test_weights_that_cannot_be_stored_are_refused() -> None:
    with pytest.raises(MappingError, match="magnitude 128"):
        CrossbarSimulator(torch.tensor([[128]]), CrossbarSpec(), 8)


# Devices that are not ideal.


@settings(deadline=None)
@given(layer=layers(), data=st.data(), seed=st.integers(0, 5))
def test_device_without_defects_is_the_exact_path(
    layer: Layer, data: st.DataObject, seed: int
) -> None:
    inputs_q = data.draw(inputs_of(layer), label="inputs")
    bits = data.draw(
        st.integers(0, 12)
        | st.just(certify(layer.weight_q, layer.spec, layer.layout).adc_bits_per_slice)
    )
    for every_reading in (False, True):
        results = [
            simulate(
                inputs_q,
                layer.weight_q,
                layer.spec,
                bits,
                layout=layer.layout,
                nonideality=device,
                every_reading=every_reading,
            )
            for device in (None, Nonideality(seed=seed))
        ]
        assert torch.equal(*results)


@settings(deadline=None)
@given(
    layer=layers(),
    data=st.data(),
    bits=st.integers(0, 12),
    on=st.sampled_from((0.0, 0.05, 0.5)),
    off=st.sampled_from((0.0, 0.05, 0.5)),
)
def test_product_less_what_is_cut_off_is_every_reading(
    layer: Layer, data: st.DataObject, bits: int, on: float, off: float
) -> None:
    inputs_q = data.draw(inputs_of(layer), label="inputs")
    device = Nonideality(stuck_on_rate=on, stuck_off_rate=off, seed=1)
    crossbars = CrossbarSimulator(
        layer.weight_q, layer.spec, bits, layout=layer.layout, nonideality=device
    )
    assert torch.equal(crossbars(inputs_q), crossbars(inputs_q, every_reading=True))


@settings(deadline=None, max_examples=60)
@given(layer=layers(), data=st.data(), bits=st.integers(0, 12), leaky=st.booleans())
def test_readings_of_a_lossy_device_are_those_of_a_plain_loop(
    layer: Layer, data: st.DataObject, bits: int, leaky: bool
) -> None:
    inputs_q = data.draw(inputs_of(layer), label="inputs")
    device = Nonideality(
        stuck_on_rate=0.1, variation=0.2, ir_drop=1e-5, on_off_ratio=20.0 if leaky else 1e9
    )
    found = simulate(
        inputs_q, layer.weight_q, layer.spec, bits, layout=layer.layout, nonideality=device
    )
    assert torch.equal(found, _looped(inputs_q, layer, bits, device))


def _looped(inputs_q: Tensor, layer: Layer, bits: int, device: Nonideality) -> Tensor:
    """Reading by reading in Python, written from the encodings and not from the simulator."""
    spec, stored = layer.spec, to_bitlines(layer.weight_q, layer.spec, layer.layout)
    cells = effective_levels(stored.levels, spec, device)
    tiled = to_segments(inputs_q, spec.wordlines)
    outputs = layer.matrix_q.shape[1]
    result = torch.zeros(inputs_q.shape[0], inputs_q.shape[1], outputs, dtype=torch.int64)
    for group, tile, line in torch.cartesian_prod(*map(torch.arange, cells.shape[:3])).tolist():
        output, place = divmod(line, spec.bitlines_per_output)
        polarity, index = divmod(place, spec.slice_count)
        for vector in range(inputs_q.shape[1]):
            for cycle in range(spec.cycle_count):
                digits = (tiled[group, tile, vector] >> (spec.dac_bits * cycle)) & spec.digit_limit
                # The same kind of product, so that float32 rounds alike near a half.
                reading = int((digits.float() @ cells[group, tile, line]).round())
                reading = min(max(reading, 0), 2**bits - 1)
                if not bool(stored.levels[group, tile, line].any()):
                    reading = 0  # never converted
                if stored.flipped is not None and bool(stored.flipped[group, tile, line]):
                    reading = spec.slice_limit(index) * int(digits.sum()) - reading
                worth = (-1) ** polarity << (spec.cell_bits * index + spec.dac_bits * cycle)
                result[group, vector, output] += worth * reading
    return result - spec.zero_code * inputs_q.sum(dim=-1, keepdim=True)


def test_stuck_cell_in_the_narrow_top_slice_sticks_at_the_level_of_a_cell() -> None:
    device = Nonideality(stuck_on_rate=1.0)
    weight_q, inputs_q = torch.tensor([[64]]), torch.ones(1, 1, 1)
    assert int(simulate(inputs_q, weight_q, CrossbarSpec(), 8, nonideality=device)) == 3 * 64


def test_segment_that_stores_nothing_is_not_converted() -> None:
    device = Nonideality(stuck_on_rate=0.5, read_noise=3.0, on_off_ratio=5.0)
    result = simulate(
        torch.full((1, 50, 4), 255),
        torch.zeros(3, 4, dtype=torch.int8),
        CrossbarSpec(),
        8,
        nonideality=device,
    )
    assert not bool(result.any())


def test_stuck_cells_beyond_the_adc_are_cut_off() -> None:
    device = Nonideality(stuck_on_rate=1.0)
    weight_q, inputs_q = torch.tensor([[1, 1, 1]]), torch.ones(1, 1, 3)
    for bits, reading in ((2, 3), (3, 7), (4, 9)):
        crossbars = CrossbarSimulator(weight_q, CrossbarSpec(), bits, nonideality=device)
        assert not crossbars.lossless
        assert int(crossbars(inputs_q)) == reading


def test_read_noise_is_fresh_per_reading_and_seeded() -> None:
    weight_q, inputs_q = torch.full((1, 8), 3), torch.ones(1, 400, 8)
    noisy = [
        CrossbarSimulator(
            weight_q,
            CrossbarSpec(input_bits=1),
            8,
            nonideality=Nonideality(read_noise=2, seed=seed),
        )
        for seed in (0, 0, 1)
    ]
    first, again, other = (crossbars(inputs_q) for crossbars in noisy)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, noisy[0](inputs_q))  # time goes on
    assert len(first.unique()) > 5
    assert float(first.double().mean()) == pytest.approx(24, abs=5 * 2 / 20)
    assert float(first.double().std()) == pytest.approx(2, rel=0.2)


def test_noise_below_half_a_step_is_rounded_away() -> None:
    device = Nonideality(read_noise=0.02)
    weight_q, inputs_q = torch.tensor([[5, -3, 7]]), torch.randint(0, 256, (1, 20, 3))
    found = simulate(inputs_q, weight_q, CrossbarSpec(), 8, nonideality=device)
    assert torch.equal(found, inputs_q @ weight_q.T)


def test_faults_are_the_same_for_every_input_and_call() -> None:
    generator = torch.Generator().manual_seed(0)
    weight_q = torch.randint(-127, 128, (4, 30), generator=generator)
    device = Nonideality(stuck_on_rate=0.05, variation=0.1, seed=4)
    crossbars = CrossbarSimulator(weight_q, CrossbarSpec(wordlines=8), 8, nonideality=device)
    inputs_q = torch.randint(0, 256, (1, 1, 30), generator=generator)
    together = crossbars(inputs_q.expand(1, 5, 30))
    assert torch.equal(together, crossbars(inputs_q).expand(1, 5, 4))


def test_differential_pair_cancels_leakage_and_offset_does_not() -> None:
    device = Nonideality(on_off_ratio=4.0)  # each cell leaks one level
    weight_q, inputs_q = torch.tensor([[85, -85, 85]]), torch.tensor([[[1, 1, 0]]])
    for encoding, expected in ((SignEncoding.DIFFERENTIAL, 0), (SignEncoding.OFFSET, 2 * 85)):
        spec = CrossbarSpec(sign_encoding=encoding)
        assert int(simulate(inputs_q, weight_q, spec, 8, nonideality=device)) == expected
