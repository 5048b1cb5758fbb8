import csv
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodel.accelerator import CostModel, ratio
from hwmodel.adc import ADC_LAWS, adc_law
from hwmodel.components import Component, load_preset
from hwmodel.crossbar import CrossbarSpec
from hwmodel.errors import ConfigError, OutOfRangeError
from hwmodel.geometry import LayerShape, MappedLayer, plan_layer

GOLDEN = Path(__file__).parents[1] / "golden"
ISAAC = load_preset("isaac")
SMALL = load_preset("isaac-8bit-weights")
SAR = adc_law("sar_split")


def golden(name: str) -> list[dict[str, str]]:
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def layer(
    name: str = "conv", *, size: int = 128, nonzeros: int | None = None, **shape: int
) -> MappedLayer:
    fields = {"rows": 576, "outputs": 64, "positions": 256, **shape}
    spec = CrossbarSpec(wordlines=size, bitlines=size)
    return plan_layer(LayerShape(name=name, **fields), spec, nonzeros=nonzeros)


def with_bits(mapped: MappedLayer, bits: int) -> MappedLayer:
    return replace(mapped, adc_bits_per_slice=(bits,) * mapped.spec.slice_count)


def never_read(mapped: MappedLayer) -> MappedLayer:
    nothing = (0,) * mapped.spec.slice_count
    return replace(mapped, adc_bits_per_slice=nothing, segments_per_slice=nothing, nonzeros=0)


def isaac_quantities() -> dict[str, float]:
    peak = CostModel(ISAAC, SAR).peak()
    power, area = peak.tile_power_shares, peak.tile_area_shares
    digital = {
        "power": peak.tile.power_w - 12 * peak.ima.power_w,
        "area": peak.tile.area_m2 - 12 * peak.ima.area_m2,
    }
    return {
        "ima_power": peak.ima.power_w * 1e3,
        "ima_area": peak.ima.area_m2 * 1e6,
        "12_ima_power": 12 * peak.ima.power_w * 1e3,
        "12_ima_area": 12 * peak.ima.area_m2 * 1e6,
        "tile_digital_power": digital["power"] * 1e3,
        "tile_digital_area": digital["area"] * 1e6,
        "tile_power": peak.tile.power_w * 1e3,
        "tile_area": peak.tile.area_m2 * 1e6,
        "tiles168_power": peak.tiles.power_w,
        "tiles168_area": peak.tiles.area_m2 * 1e6,
        "chip_power": peak.chip.power_w,
        "chip_area": peak.chip.area_m2 * 1e6,
        "adc_share_of_tile_power": power["adc"],
        "adc_share_of_tile_area": area["adc"],
        "edram_plus_bus_share_of_tile_area": area["edram"] + area["bus"],
        "arrays_per_chip": peak.crossbars,
        "peak_throughput": peak.ops_per_s / 1e9,
        "ce": peak.ops_per_s_per_m2 / 1e15,
        "pe": peak.ops_per_s_per_w / 1e9,
        "se": peak.storage_bytes / 2**20 / (peak.chip.area_m2 * 1e6),
        "adc_conversions_per_16b_mac": peak.conversions_per_mac,
    }


ROWS = {row["quantity"]: row for row in golden("isaac_rollup_golden.csv")}


@pytest.mark.parametrize("quantity", sorted(isaac_quantities()))
def test_isaac_rolls_up_to_its_published_table(quantity: str) -> None:
    row, ours = ROWS[quantity], isaac_quantities()[quantity]
    # 63 MiB over the rounded 85.4 mm2 gave the computed storage density.
    assert ours == pytest.approx(float(row["computed"]), rel=4e-4)
    if row["published"]:
        assert ours == pytest.approx(float(row["published"]), rel=float(row["tol"]) + 1e-12)


def test_energies_per_event_follow_from_the_table() -> None:
    parts = {part.name: part for part in ISAAC.components}
    assert parts["dac"].energy_j * 1e12 == float(ROWS["dac_energy_per_row_cycle"]["computed"])
    crossbar = float(ROWS["crossbar_energy_per_cell_mac"]["computed"])
    assert parts["crossbar"].energy_j * 1e15 == pytest.approx(crossbar, rel=1e-6)


LAWS = {"isaac_sar": "sar_split", "pow2 (hwcomponents-library)": "pow2", "puma": "linear"}


@pytest.mark.parametrize(
    "row",
    [row for row in golden("isaac_adc_law_sensitivity.csv") if row["law"] in LAWS],
    ids=lambda row: f"{row['law']}-{row['bits']}",
)
def test_smaller_adcs_gain_what_each_law_says(row: dict[str, str]) -> None:
    model = CostModel(ISAAC, adc_law(LAWS[row["law"]]))
    dense, small = model.peak(8), model.peak(int(row["bits"]))
    gains = {
        "chip_ce_gain": dense.chip.area_m2 / small.chip.area_m2 - 1,
        "chip_pe_gain": dense.chip.power_w / small.chip.power_w - 1,
        "tile_ce_gain": dense.tiles.area_m2 / small.tiles.area_m2 - 1,
        "tile_pe_gain": dense.tiles.power_w / small.tiles.power_w - 1,
    }
    for name, gain in gains.items():
        # The golden gains divide by the published totals, rounded to three digits.
        assert gain == pytest.approx(float(row[name]), rel=2e-3)


@pytest.mark.parametrize(("bits", "ce", "pe"), [(4, 0.28, 0.44), (5, 0.23, 0.31)])
def test_tiles_gain_about_what_tinyadc_reports(bits: int, ce: float, pe: float) -> None:
    model = CostModel(ISAAC, SAR)
    dense, small = model.peak(), model.peak(bits)
    assert dense.tiles.area_m2 / small.tiles.area_m2 - 1 == pytest.approx(ce, abs=5e-3)
    assert dense.tiles.power_w / small.tiles.power_w - 1 == pytest.approx(pe, abs=5e-3)


def test_isaac_converts_once_per_16_bit_mac() -> None:
    shape = LayerShape(name="l", rows=4 * 128, outputs=3 * 16, positions=7)
    mapped = plan_layer(shape, ISAAC.crossbar)
    unit = mapped.unit_lines * shape.positions * mapped.spec.cycle_count
    assert mapped.conversions - unit == shape.macs


def test_a_busy_tile_draws_its_nameplate_where_activity_is_not_assumed() -> None:
    # 96 crossbars side by side in the wordline direction, all full.
    shape = LayerShape(name="l", rows=96 * 128, outputs=16, positions=1000)
    mapped = plan_layer(shape, ISAAC.crossbar)
    report = CostModel(ISAAC, SAR).evaluate([mapped])
    nameplate = {leaf.name: leaf.power_w for leaf in CostModel(ISAAC, SAR).peak().tree.leaves()}
    for name in ("dac", "crossbar", "input_register", "output_register", "tile_output_register"):
        power_w = report.by_component()[name]["energy_j"] / report.layers[0].time_s
        assert power_w * 168 == pytest.approx(nameplate[name], rel=1e-9)


def test_peak_on_another_crossbar_follows_its_activity() -> None:
    wide = replace(ISAAC, crossbar=CrossbarSpec(**{**ISAAC.crossbar.to_json(), "bitlines": 512}))
    peak, isaac = CostModel(wide, SAR).peak(), CostModel(ISAAC, SAR).peak()
    leaves = {leaf.name: leaf for leaf in peak.tree.leaves()}
    base = {leaf.name: leaf for leaf in isaac.tree.leaves()}
    # Four times the bitlines, one ADC: a quarter of the row cycles, as many conversions.
    assert leaves["dac"].power_w == pytest.approx(base["dac"].power_w / 4)
    assert leaves["adc"].power_w == pytest.approx(base["adc"].power_w)
    assert leaves["crossbar"].power_w == pytest.approx(base["crossbar"].power_w)
    assert leaves["crossbar"].area_m2 == pytest.approx(4 * base["crossbar"].area_m2)
    assert peak.ops_per_s == pytest.approx(isaac.ops_per_s)


def test_a_part_without_events_keeps_its_nameplate() -> None:
    clock = Component(
        name="clock",
        level="chip",
        count=1.0,
        power_w=1.0,
        area_m2=0.0,
        kind="assumed",
        source="a test",
    )
    preset = replace(ISAAC, components=(*ISAAC.components, clock))
    more = CostModel(preset, SAR).peak().chip.power_w - CostModel(ISAAC, SAR).peak().chip.power_w
    assert more == pytest.approx(1.0)


def test_totals_are_exactly_the_sums_of_their_leaves() -> None:
    layers = [layer("a", nonzeros=5), layer("b", size=64, rows=100), never_read(layer("c"))]
    report = CostModel(SMALL, SAR, include_io=True).evaluate(layers)
    leaves = list(report.tree.leaves())
    assert report.tree.area_m2 == report.totals.area_m2
    assert report.tree.energy_j == report.totals.energy_j
    assert math.fsum(leaf.area_m2 for leaf in leaves) == report.totals.area_m2
    assert report.tree.power_w == pytest.approx(report.totals.power_w, rel=1e-12)
    adcs = [leaf.area_m2 for leaf in leaves if leaf.name == "adc"]
    assert math.fsum(adcs) == report.totals.adc_area_m2
    for record, node in zip(report.layers, report.tree.children, strict=False):
        assert (node.name, node.area_m2, node.energy_j) == (
            record.name,
            record.area_m2,
            record.energy_j,
        )
    peak = CostModel(SMALL, SAR).peak()
    assert peak.chip.area_m2 == math.fsum(leaf.area_m2 for leaf in peak.tree.leaves())


def test_a_shift_mask_costs_one_shift_per_conversion() -> None:
    model, plain = CostModel(SMALL, SAR), layer("a", nonzeros=5)
    without, masked = (model.evaluate([replace(plain, mask_bits=bits)]) for bits in (0, 3))
    part = next(part for part in SMALL.components if part.name == "mask_shift")
    shifts = {leaf.name: leaf for leaf in masked.tree.leaves()}["mask_shift"]
    assert shifts.energy_j == pytest.approx(plain.conversions * part.energy_j)
    more = masked.totals.energy_j - without.totals.energy_j
    assert more == pytest.approx(shifts.energy_j)
    assert masked.totals.area_m2 == without.totals.area_m2


def test_doubling_the_crossbars_doubles_the_leaves() -> None:
    one = CostModel(SMALL, SAR).evaluate([layer(outputs=64)])
    two = CostModel(SMALL, SAR).evaluate([layer(outputs=128)])
    assert two.totals.crossbars == 2 * one.totals.crossbars
    pairs = zip(one.tree.leaves(), two.tree.leaves(), strict=True)
    for single, double in pairs:
        assert double.name == single.name
        assert double.count == 2 * single.count
        assert double.area_m2 == pytest.approx(2 * single.area_m2, rel=1e-12)
        # Inputs are fetched once for all crossbars side by side.
        if single.name not in {"edram", "bus"}:
            assert double.energy_j == pytest.approx(2 * single.energy_j, rel=1e-12)


@settings(max_examples=30)
@given(bits=st.integers(1, 15), law=st.sampled_from(sorted(set(ADC_LAWS) - {"survey"})))
def test_costs_grow_with_adc_bits(bits: int, law: str) -> None:
    model = CostModel(SMALL, adc_law(law))
    small, large = (model.evaluate([with_bits(layer(), b)]).totals for b in (bits, bits + 1))
    assert small.energy_j < large.energy_j
    assert small.area_m2 <= large.area_m2
    assert small.adc_power_w < large.adc_power_w
    assert model.peak(bits).chip.power_w < model.peak(bits + 1).chip.power_w


def test_a_layer_of_zeros_takes_crossbars_but_no_adc_time_or_energy() -> None:
    report = CostModel(SMALL, SAR, policy="chip_max").evaluate([layer("a"), never_read(layer("z"))])
    zero = report.layers[1]
    assert zero.crossbars == report.layers[0].crossbars
    assert zero.area_m2 > 0
    assert (zero.conversions, zero.time_s, zero.energy_j, zero.adc_area_m2) == (0, 0, 0, 0)
    assert (zero.adc_bits, zero.built_adc_bits) == (0, 0)


def test_adcs_without_bits_are_never_read() -> None:
    report = CostModel(SMALL, SAR).evaluate([with_bits(layer(), 0)])
    assert report.layers[0].conversions == 0
    assert (report.totals.energy_j, report.totals.latency_s, report.totals.adc_area_m2) == (0, 0, 0)
    assert report.totals.area_m2 > 0


@pytest.mark.parametrize("provisioning", ["share", "whole"])
def test_an_empty_candidate_divides_by_nothing(provisioning: str) -> None:
    gone = plan_layer(LayerShape(name="l", rows=9, outputs=4, positions=9), CrossbarSpec(), rows=0)
    model = CostModel(SMALL, SAR, provisioning=provisioning)
    for layers in ([gone], []):
        report = model.evaluate(layers)
        totals = report.to_json()["totals"]
        assert set(totals.values()) == {0}
        assert not report.extrapolated
        assert ratio(model.evaluate([layer()]), report)["area"] == math.inf
        assert set(ratio(report, report).values()) == {1.0}


def test_policies_size_adcs_per_layer_or_for_the_worst() -> None:
    layers = [layer("a"), layer("b", nonzeros=1)]
    own = CostModel(SMALL, SAR).evaluate(layers)
    worst = CostModel(SMALL, SAR, policy="chip_max").evaluate(layers)
    assert [record.built_adc_bits for record in own.layers] == [9, 2]
    assert [record.built_adc_bits for record in worst.layers] == [9, 9]
    assert [record.adc_bits for record in worst.layers] == [9, 2]
    assert own.extrapolated
    assert not worst.extrapolated
    assert own.totals.adc_area_m2 < worst.totals.adc_area_m2
    assert own.totals.energy_j < worst.totals.energy_j


def test_whole_provisioning_builds_imas_per_layer_and_tiles_in_total() -> None:
    layers = [layer("a", rows=128, outputs=16), layer("b", rows=9 * 128, outputs=16)]
    share = CostModel(SMALL, SAR).evaluate(layers)
    whole = CostModel(SMALL, SAR, provisioning="whole").evaluate(layers)
    assert [record.built_crossbars for record in share.layers] == [1, 9]
    assert [record.built_crossbars for record in whole.layers] == [8, 88]
    assert whole.totals.crossbars == share.totals.crossbars == 10
    assert whole.totals.area_m2 > share.totals.area_m2
    assert whole.totals.energy_j == pytest.approx(share.totals.energy_j, rel=1e-12)


def test_links_are_charged_whole_when_asked() -> None:
    without = CostModel(SMALL, SAR).evaluate([layer()]).totals
    included = CostModel(SMALL, SAR, include_io=True).evaluate([layer()]).totals
    assert included.area_m2 - without.area_m2 == pytest.approx(22.88e-6)
    assert included.power_w - without.power_w == pytest.approx(10.4)


def test_latency_throughput_and_efficiency_by_hand() -> None:
    layers = [layer("a", positions=100), layer("b", positions=50)]
    totals = CostModel(SMALL, SAR).evaluate(layers).totals
    assert totals.latency_s == pytest.approx((150 * 8 + 22) * 100e-9)
    ops = 2 * 576 * 64 * 150
    assert totals.ops_per_s == pytest.approx(ops / (100 * 8 * 100e-9))
    assert totals.ops_per_s_per_w == pytest.approx(ops / totals.energy_j)
    assert totals.ops_per_s_per_m2 == pytest.approx(totals.ops_per_s / totals.area_m2)
    assert totals.power_w == pytest.approx(totals.energy_j / totals.latency_s)


def test_pruning_pays_and_ratio_says_how_much() -> None:
    model = CostModel(SMALL, SAR)
    dense, pruned = model.evaluate([layer()]), model.evaluate([layer(nonzeros=5)])
    gains = ratio(dense, pruned)
    assert list(gains) == ["adc_area", "adc_power", "area", "power", "energy"]
    assert gains["adc_area"] == pytest.approx(
        SAR.cost(9, 1e9, 32e-9).area_m2 / SAR.cost(4, 1e9, 32e-9).area_m2
    )
    assert gains["adc_power"] > gains["power"] > 1


def test_a_large_crossbar_does_not_get_buffers_and_links_for_nothing() -> None:
    small = CostModel(SMALL, SAR).evaluate([layer(size=128)])
    large = CostModel(SMALL, SAR).evaluate([layer(size=512)])
    for name in ("edram", "bus", "input_register", "output_register", "router"):
        each = [
            report.by_component()[name]["area_m2"] / report.totals.crossbars
            for report in (small, large)
        ]
        assert each[1] == pytest.approx(4 * each[0])


LAYER_KEYS = [
    "name",
    "crossbars",
    "wordlines",
    "bitlines",
    "adc_bits",
    "adc_bits_per_slice",
    "conversions",
    "replication",
    "utilisation",
]
TOTAL_KEYS = [
    "adc_area_m2",
    "adc_power_w",
    "area_m2",
    "power_w",
    "energy_j",
    "latency_s",
    "ops_per_s",
    "ops_per_s_per_w",
    "ops_per_s_per_m2",
    "crossbars",
    "effective_ops_per_s",
    "effective_ops_per_s_per_w",
    "effective_ops_per_s_per_m2",
]


def test_json_has_the_promised_fields_and_units() -> None:
    document: dict[str, Any] = json.loads(
        json.dumps(CostModel(SMALL, SAR).evaluate([layer()]).to_json(), allow_nan=False)
    )
    assert set(document) == {"law", "policy", "extrapolated", "layers", "digital", "totals", "tree"}
    assert list(document["layers"][0]) == LAYER_KEYS
    assert list(document["totals"]) == TOTAL_KEYS
    peak = json.loads(json.dumps(CostModel(ISAAC, SAR).peak().to_json(), allow_nan=False))
    for level in ("ima", "tile", "tiles", "chip"):
        assert list(peak[level]) == ["power_w", "area_m2"]


def test_reports_and_models_survive_pickling() -> None:
    model = CostModel(SMALL, SAR)
    report = model.evaluate([layer()])
    assert pickle.loads(pickle.dumps(report)) == report
    assert pickle.loads(pickle.dumps(model)).evaluate([layer()]) == report


@pytest.mark.parametrize("fields", [{"policy": "best"}, {"provisioning": "half"}])
def test_unknown_choices_name_the_known_ones(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"is '(best|half)'; allowed: (layer|share)"):
        CostModel(SMALL, SAR, **fields)


@pytest.mark.parametrize("policy", ["layer", "chip_max", "tile_types:2", "slice"])
def test_refused_adc_is_told_with_its_layer(policy: str, tmp_path: Path) -> None:
    table = tmp_path / "adc.csv"
    table.write_text("bits,energy_j,area_m2\n3,1e-12,1e-10\n4,2e-12,2e-10\n")
    model = CostModel(SMALL, adc_law(f"table:{table}"), policy)
    layers = [with_bits(layer("conv1"), 4), with_bits(layer("conv2"), 6)]
    with pytest.raises(OutOfRangeError, match=r"^conv\d: ADC law .* 6 bits; allowed: 3, 4$"):
        model.evaluate(layers)


def test_peak_refuses_an_adc_without_bits() -> None:
    with pytest.raises(OutOfRangeError, match="ADC bits is 0"):
        CostModel(ISAAC, SAR).peak(0)
