from dataclasses import replace

import pytest

from hwmodel.components import EVENTS
from hwmodel.crossbar import CrossbarSpec
from hwmodel.events import event_counts, is_read
from hwmodel.geometry import LayerShape, plan_layer


def test_events_of_a_small_layer_by_hand() -> None:
    spec = CrossbarSpec(wordlines=4, bitlines=16, weight_bits=8, input_bits=8)
    layer = plan_layer(LayerShape(name="l", rows=6, outputs=3, positions=5), spec)
    assert (layer.crossbars, spec.bitlines_per_output, spec.cycle_count) == (4, 8, 8)
    assert event_counts(layer, 16) == {
        "conversion": 2 * 3 * 8 * 5 * 8,
        "row_cycle": 6 * 2 * 5 * 8,
        "cell_cycle": 6 * 3 * 8 * 5 * 8,
        "register_input_byte": 6 * 2 * 5,
        "partial_output_byte": 3 * 2 * 5 * 2,
        "buffer_byte": (6 + 3) * 5,
        "bus_byte": (6 + 3 * 2 * 2) * 5,
        "router_byte": 3 * 5,
        "output_value": 3 * 5,
        "masked_conversion": 0,
    }


def test_a_shift_mask_shifts_every_conversion_once() -> None:
    layer = plan_layer(LayerShape(name="l", rows=6, outputs=3, positions=5), CrossbarSpec())
    plain, masked = (event_counts(replace(layer, mask_bits=bits), 16) for bits in (0, 3))
    assert masked == {**plain, "masked_conversion": layer.conversions}


@pytest.mark.parametrize("kept", [{"rows": 0}, {"outputs": 0}])
def test_a_layer_pruned_away_makes_nothing_happen(kept: dict[str, int]) -> None:
    layer = plan_layer(LayerShape(name="l", rows=6, outputs=3, positions=5), CrossbarSpec(), **kept)
    assert event_counts(layer, 16) == dict.fromkeys(EVENTS, 0.0)


def test_a_layer_of_zeros_makes_nothing_happen() -> None:
    layer = plan_layer(LayerShape(name="l", rows=6, outputs=3, positions=5), CrossbarSpec())
    zeros = replace(layer, adc_bits_per_slice=(0,) * 4, segments_per_slice=(0,) * 4, nonzeros=0)
    assert event_counts(zeros, 16) == dict.fromkeys(EVENTS, 0.0)


def test_copies_share_the_positions_and_change_no_count() -> None:
    shape = LayerShape(name="l", rows=6, outputs=3, positions=5)
    one, three = (plan_layer(shape, CrossbarSpec(), replication=n) for n in (1, 3))
    assert event_counts(one, 16) == event_counts(three, 16)
    assert is_read(three)
