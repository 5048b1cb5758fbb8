import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.certificate import certify
from hwmodel.crossbar import CrossbarSpec, lossless_adc_bits
from hwmodel.errors import SpecError
from hwmodel.mapping import to_bitlines
from hwmodel.slice_statistics import SliceStatistics, merge_statistics, slice_statistics
from tests.strategies import Layer, layers

SPEC = CrossbarSpec(wordlines=4, bitlines=16, weight_bits=5)


def histogram(*segments_by_bits: int) -> SliceStatistics:
    return SliceStatistics(weights=1, nonzero_cells=0, segments_by_bits=segments_by_bits)


def test_digits_are_counted_where_they_lie() -> None:
    # 7 = 3 + 1 * 4 and -4 = -(0 + 1 * 4): one digit in the lower slice, two in the upper.
    low, high = slice_statistics(torch.tensor([[7, -4, 0, 0]]), SPEC)
    assert (low.nonzero_cells, high.nonzero_cells) == (1, 2)
    assert (low.nonzero_share, high.nonzero_share) == (0.25, 0.5)
    assert low.segments_by_bits == (1, 0, 1)  # negative half empty, 3 of the positive: two bits
    assert high.segments_by_bits == (0, 2)


@settings(deadline=None)
@given(layer=layers())
def test_counts_agree_with_the_stored_bitlines_and_the_certificate(layer: Layer) -> None:
    found = slice_statistics(layer.weight_q, layer.spec, layer.layout)
    certificate = certify(layer.weight_q, layer.spec, layer.layout)
    stored = to_bitlines(layer.weight_q, layer.spec, layer.layout)
    assert len(found) == layer.spec.slice_count
    for index, statistics in enumerate(found):
        levels = stored.levels[:, :, index :: layer.spec.slice_count]
        segments = levels.sum(dim=-1).flatten().tolist()
        bits = [lossless_adc_bits(s, layer.spec.dac_bits) for s in segments]
        counts = dict(enumerate(statistics.segments_by_bits))
        assert {b: c for b, c in counts.items() if c} == {b: bits.count(b) for b in set(bits)}
        assert statistics.max_bits == certificate.adc_bits_per_slice[index]
        assert statistics.mean_bits == pytest.approx(sum(bits) / len(bits) if bits else 0.0)
        assert statistics.nonzero_cells == int((levels > 0).sum())
        assert statistics.weights == layer.matrix_q.numel()


@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any),
    share=st.floats(0.001, 1.0),
)
def test_covering_bits_are_the_fewest_that_cover_the_share(counts: list[int], share: float) -> None:
    bits = histogram(*counts).covering_bits(share)
    assert sum(counts[: bits + 1]) >= share * sum(counts)
    assert bits == 0 or sum(counts[:bits]) < share * sum(counts)


def test_one_segment_in_a_thousand_is_left_out() -> None:
    assert histogram(0, 999, 0, 1).covering_bits(0.999) == 1
    assert histogram(0, 998, 0, 2).covering_bits(0.999) == 3
    assert histogram(0, 999, 0, 1).max_bits == 3


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(SpecError, match=f"share of segments is {share}; allowed: above 0, up to 1"):
        histogram(1).covering_bits(share)


def test_merging_layers_adds_their_slices_one_by_one() -> None:
    first = slice_statistics(torch.tensor([[7, -4, 0, 0]]), SPEC)
    second = slice_statistics(torch.tensor([[1, 1]]), CrossbarSpec(wordlines=4, weight_bits=3))
    low, high = merge_statistics([first, second])
    assert (low.weights, low.nonzero_cells) == (6, 3)
    assert low.segments_by_bits == (2, 0, 2)
    assert high == first[1]


def test_layer_of_which_nothing_is_left_has_no_share_and_no_bits() -> None:
    empty = SliceStatistics(weights=0, nonzero_cells=0, segments_by_bits=(0,))
    assert (empty.nonzero_share, empty.mean_bits, empty.max_bits) == (0.0, 0.0, 0)


def test_json_names_what_is_reported() -> None:
    low, _ = slice_statistics(torch.tensor([[7, -4, 0, 0]]), SPEC)
    assert low.to_json() == {
        "weights": 4,
        "nonzero_share": 0.25,
        "segments": 2,
        "max_bits": 2,
        "bits_99_9": 2,
        "mean_bits": 1.0,
    }
