import csv
import json
import pickle
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwmodel.crossbar import (
    CrossbarPlan,
    CrossbarSpec,
    SignEncoding,
    largest_lossless_count,
    lossless_adc_bits,
    worst_level_sum,
)
from hwmodel.errors import SpecError

GOLDEN = Path(__file__).parents[1] / "golden"


def bits_rows() -> list[dict[str, int]]:
    lines = (GOLDEN / "adc_bits_golden.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return [{key: int(value) for key, value in row.items()} for row in rows]


def test_lossless_bits_match_the_golden_table() -> None:
    for row in bits_rows():
        level_sum = row["active_rows"] * (2 ** row["cell_bits"] - 1)
        digit = 2 ** row["input_slice_bits"] - 1
        assert digit * level_sum == row["max_code"]
        assert lossless_adc_bits(level_sum, row["input_slice_bits"]) == row["bits_exact"]
        assert row["bits_exact"] <= row["bits_isaac_rule"]


@given(level_sum=st.integers(0, 10**6), dac_bits=st.integers(1, 8))
def test_lossless_bits_are_enough_and_not_more(level_sum: int, dac_bits: int) -> None:
    bits, reading = lossless_adc_bits(level_sum, dac_bits), (2**dac_bits - 1) * level_sum
    assert reading < 2**bits
    assert bits == 0 or reading >= 2 ** (bits - 1)
    assert bits <= lossless_adc_bits(level_sum + 1, dac_bits)


def test_largest_counts_of_2_bit_cells() -> None:
    assert [largest_lossless_count(b) for b in range(2, 9)] == [1, 2, 5, 10, 21, 42, 85]


@given(bits=st.integers(1, 14), cell_bits=st.integers(1, 4), dac_bits=st.integers(1, 3))
def test_one_more_weight_than_the_largest_count_needs_another_bit(
    bits: int, cell_bits: int, dac_bits: int
) -> None:
    count, top = largest_lossless_count(bits, cell_bits, dac_bits), 2**cell_bits - 1
    assert lossless_adc_bits(count * top, dac_bits) <= bits
    assert lossless_adc_bits((count + 1) * top, dac_bits) > bits


def segment_sums(spec: CrossbarSpec, weights: tuple[int, ...], index: int) -> list[int]:
    def level(code: int) -> int:
        return (code >> (spec.cell_bits * index)) & ((1 << spec.cell_bits) - 1)

    if spec.sign_encoding is SignEncoding.DIFFERENTIAL:
        return [sum(level(max(sign * w, 0)) for w in weights) for sign in (1, -1)]
    total = sum(level(w + spec.zero_code) for w in weights)
    full = spec.slice_limit(index) * len(weights)
    flip = spec.sign_encoding is SignEncoding.FLIPPED and 2 * total > full
    return [full - total if flip else total]


@pytest.mark.parametrize("encoding", list(SignEncoding))
@pytest.mark.parametrize("weight_bits", [2, 3, 4])
@pytest.mark.parametrize("cell_bits", [1, 2])
def test_worst_level_sum_covers_every_tiny_segment(
    encoding: SignEncoding, weight_bits: int, cell_bits: int
) -> None:
    spec = CrossbarSpec(weight_bits=weight_bits, cell_bits=cell_bits, sign_encoding=encoding)
    values = range(-spec.weight_limit, spec.weight_limit + 1)
    for rows, index in product((1, 2, 3), range(spec.slice_count)):
        for nonzeros in range(rows + 1):
            worst = max(
                max(segment_sums(spec, weights, index))
                for weights in product(values, repeat=rows)
                if sum(map(bool, weights)) <= nonzeros
            )
            bound = worst_level_sum(spec, index, rows, nonzeros)
            assert worst <= bound
            if encoding is not SignEncoding.FLIPPED:
                assert worst == bound


def test_dense_isaac_crossbars_save_one_bit_by_flipping() -> None:
    bits = {
        encoding: lossless_adc_bits(
            worst_level_sum(CrossbarSpec(weight_bits=16, sign_encoding=encoding), 0, 128, 128)
        )
        for encoding in (SignEncoding.OFFSET, SignEncoding.FLIPPED)
    }
    assert bits == {SignEncoding.OFFSET: 9, SignEncoding.FLIPPED: 8}


def test_offset_zeros_cost_bits_where_differential_zeros_do_not() -> None:
    # 8 non-zeros of 128, 8-bit weights, 2-bit cells, top slice.
    sums = {e: worst_level_sum(CrossbarSpec(sign_encoding=e), 3, 128, 8) for e in SignEncoding}
    assert lossless_adc_bits(sums[SignEncoding.OFFSET]) == 9
    assert lossless_adc_bits(sums[SignEncoding.DIFFERENTIAL]) <= 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wordlines": 0}, "wordlines is 0; allowed: an integer from 1 to 4096"),
        ({"bitlines": 5000}, "bitlines is 5000; allowed"),
        ({"cell_bits": 2.0}, "cell_bits is 2.0; allowed"),
        ({"dac_bits": True}, "dac_bits is True; allowed"),
        ({"weight_bits": 1}, "weight_bits is 1; allowed: an integer from 2 to 16"),
        ({"input_bits": 17}, "input_bits is 17; allowed"),
        ({"sign_encoding": "ternary"}, "'ternary'; allowed: differential, offset, flipped"),
        ({"dac_bits": 4, "input_bits": 3}, "dac_bits is 4; allowed: at most input_bits, 3"),
        ({"bitlines": 7}, r"bitlines is 7; one output needs 8 \(2 polarities x 4 bit slices\)"),
    ],
)
def test_impossible_specs_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        CrossbarSpec(**fields)


@pytest.mark.parametrize(
    ("encoding", "stored", "slices", "lines", "zero"),
    [("differential", 7, 4, 8, 0), ("offset", 8, 4, 4, 128), ("flipped", 8, 4, 4, 128)],
)
def test_encodings_take_their_bitlines(
    encoding: SignEncoding, stored: int, slices: int, lines: int, zero: int
) -> None:
    spec = CrossbarSpec(sign_encoding=encoding, dac_bits=3)
    assert spec.stored_bits == stored
    assert spec.slice_count == slices
    assert spec.bitlines_per_output == lines
    assert spec.zero_code == zero
    assert (spec.weight_limit, spec.input_limit) == (127, 255)
    assert (spec.cycle_count, spec.digit_limit) == (3, 7)


def test_slice_limits_add_up_to_the_stored_integer() -> None:
    for weight_bits, cell_bits in product(range(2, 17), range(1, 9)):
        spec = CrossbarSpec(weight_bits=weight_bits, cell_bits=cell_bits)
        limits = [spec.slice_limit(s) << (cell_bits * s) for s in range(spec.slice_count)]
        assert sum(limits) == 2**spec.stored_bits - 1


def test_specs_and_plans_survive_json_and_pickle() -> None:
    spec = CrossbarSpec(wordlines=64, sign_encoding=SignEncoding.FLIPPED)
    plan = CrossbarPlan(per_layer={"conv1": spec})
    document = json.loads(json.dumps(plan.to_json()))
    assert CrossbarPlan.from_json(document) == plan
    assert CrossbarSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert CrossbarPlan.from_json({"default": spec.to_json()}).default == spec


def test_unknown_fields_and_layers_are_named() -> None:
    with pytest.raises(SpecError, match="unknown crossbar field 'rows'; allowed: wordlines"):
        CrossbarSpec.from_json({"rows": 3})
    plan = CrossbarPlan(per_layer={"conv9": CrossbarSpec()})
    plan.check_layers(["conv1", "conv9"])
    with pytest.raises(SpecError, match="'conv9'; layers: conv1, conv2"):
        plan.check_layers(["conv1", "conv2"])


def test_a_plan_answers_for_every_layer_and_keeps_its_own_copy() -> None:
    small = CrossbarSpec(wordlines=32)
    per_layer = {"a": small}
    plan = CrossbarPlan(per_layer=per_layer)
    per_layer.clear()
    assert plan["a"] == small
    assert plan["b"] == plan.default
