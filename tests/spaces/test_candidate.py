import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodel.certificate import certify
from hwmodel.crossbar import CrossbarPlan, CrossbarSpec, SignEncoding
from hwmodel.errors import SpecError
from hwmodel.geometry import LayerShape
from hwmodel.mapping import MatrixLayout
from spaces import Candidate, LayerSetting
from tests.strategies import crossbar_specs

SHAPES = {
    "conv1": LayerShape(name="conv1", rows=25, outputs=6, positions=576),
    "conv2": LayerShape(name="conv2", rows=300, outputs=16, positions=64),
    "fc": LayerShape(name="fc", rows=256, outputs=10),
}
NAMES = st.sampled_from(("conv1", "layer1.0.conv", "Schicht ß", "", 'a"b\\c'))
SHARES = st.floats(0.001, 1.0)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    setting = st.builds(
        LayerSetting,
        nonzeros=st.none() | st.integers(1, 512),
        kept_shapes=SHARES,
        kept_filters=SHARES,
        whole_crossbars=st.booleans(),
    )
    plan = CrossbarPlan(
        default=draw(crossbar_specs()),
        per_layer=draw(st.dictionaries(NAMES, crossbar_specs(), max_size=3)),
    )
    return Candidate(
        network=draw(NAMES),
        method=draw(NAMES),
        plan=plan,
        layers=draw(st.dictionaries(NAMES, setting, max_size=4)),
        seed=draw(st.integers(0, 2**31)),
    )


def lenet(**fields: object) -> Candidate:
    plain = {"network": "lenet5", "method": "tinyadc", "plan": CrossbarPlan()}
    return Candidate(**{**plain, **fields})


@given(candidates())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_json_round_trip_keeps_candidate_and_digest(candidate: Candidate) -> None:
    read = Candidate.from_json(json.loads(json.dumps(candidate.to_json())))
    assert read == candidate
    assert read.digest == candidate.digest


@given(candidates(), st.randoms())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_digest_ignores_the_order_of_layers(candidate: Candidate, random: object) -> None:
    names = list(candidate.layers)
    random.shuffle(names)
    shuffled = replace(candidate, layers={name: candidate.layers[name] for name in names})
    assert shuffled.digest == candidate.digest


@given(candidates(), candidates())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_different_candidates_have_different_digests(one: Candidate, other: Candidate) -> None:
    assert (one.digest == other.digest) == (one == other)


def test_digest_is_the_one_that_studies_on_disk_carry() -> None:
    """A change here orphans nothing, but renames every candidate: do it knowingly."""
    candidate = lenet(
        layers={"fc": LayerSetting(nonzeros=5, kept_filters=0.5)},
        plan=CrossbarPlan(per_layer={"conv1": CrossbarSpec(wordlines=64)}),
        seed=7,
    )
    assert candidate.digest == "d4eb56aa6e97"


def test_equal_candidates_have_equal_digests_whatever_the_number_type() -> None:
    one, same = (lenet(layers={"fc": LayerSetting(kept_shapes=share)}) for share in (1, 1.0))
    assert one == same
    assert one.digest == same.digest


def test_every_field_enters_the_digest() -> None:
    base = lenet(layers={"fc": LayerSetting(nonzeros=5)})
    others = [
        replace(base, network="mlp"),
        replace(base, method="magnitude"),
        replace(base, seed=1),
        replace(base, plan=CrossbarPlan(default=CrossbarSpec(wordlines=64))),
        replace(base, layers={"fc": LayerSetting(nonzeros=6)}),
        replace(base, layers={"fc": LayerSetting(nonzeros=5, kept_shapes=0.5)}),
        replace(base, layers={"fc": LayerSetting(nonzeros=5, kept_filters=0.5)}),
        replace(base, layers={}),
    ]
    assert len({candidate.digest for candidate in (base, *others)}) == len(others) + 1


@pytest.mark.parametrize("name", ["kept_shapes", "kept_filters"])
@pytest.mark.parametrize("share", [0, -0.5, 1.0001, float("nan"), float("inf")])
def test_share_outside_its_range_is_refused(name: str, share: float) -> None:
    with pytest.raises(SpecError, match=f"{name} is .*; allowed: above 0, up to 1"):
        LayerSetting(**{name: share})


@pytest.mark.parametrize("count", [0, -3])
def test_fewer_than_one_nonzero_is_refused(count: int) -> None:
    with pytest.raises(SpecError, match=f"nonzeros is {count}; allowed: 1 or more"):
        LayerSetting(nonzeros=count)


@pytest.mark.parametrize("count", [1.5, True])
def test_nonzeros_that_are_no_integer_are_refused(count: object) -> None:
    with pytest.raises(SpecError):
        LayerSetting(nonzeros=count)


def test_setting_for_an_unknown_layer_names_the_layers() -> None:
    with pytest.raises(SpecError, match="layer 'fc9'; layers: conv1, conv2, fc"):
        lenet(layers={"fc9": LayerSetting()}).targets(SHAPES)


def test_plan_for_an_unknown_layer_names_the_layers() -> None:
    plan = CrossbarPlan(per_layer={"fc9": CrossbarSpec()})
    with pytest.raises(SpecError, match="layer 'fc9'; layers: conv1, conv2, fc"):
        lenet(plan=plan).targets(SHAPES)


def test_more_nonzeros_than_wordlines_are_refused() -> None:
    plan = CrossbarPlan(default=CrossbarSpec(wordlines=32))
    settings_ = {"fc": LayerSetting(nonzeros=33)}
    with pytest.raises(SpecError, match="nonzeros is 33; allowed: 1 to 32"):
        lenet(plan=plan, layers=settings_).targets(SHAPES)
    with pytest.raises(SpecError, match="nonzeros is 33"):
        lenet(plan=plan, layers=settings_).planned(SHAPES)


def test_layers_without_a_setting_stay_dense() -> None:
    targets = lenet(layers={"fc": LayerSetting(nonzeros=3)}).targets(SHAPES)
    assert list(targets) == list(SHAPES)
    for name in ("conv1", "conv2"):
        target = targets[name]
        kept = (target.rows, target.outputs, target.nonzeros)
        assert kept == (SHAPES[name].rows, SHAPES[name].outputs, None)
    assert targets["fc"].nonzeros == 3


def test_kept_shares_fill_whole_crossbars() -> None:
    setting = LayerSetting(kept_shapes=0.5, kept_filters=0.3)
    plan = CrossbarPlan(default=CrossbarSpec(wordlines=64, bitlines=64))  # 8 outputs each
    targets = lenet(plan=plan, layers=dict.fromkeys(SHAPES, setting)).targets(SHAPES)
    assert {name: (t.rows, t.outputs) for name, t in targets.items()} == {
        "conv1": (25, 6),  # one crossbar holds it all: pruning would save none
        "conv2": (192, 8),  # 150 rows in 3 crossbars; 5 outputs in 1
        "fc": (128, 8),
    }


def test_single_outputs_are_kept_where_whole_crossbars_are_not_wanted() -> None:
    setting = LayerSetting(kept_filters=0.3, whole_crossbars=False)
    targets = lenet(layers={"conv2": setting}).targets(SHAPES)
    assert targets["conv2"].outputs == 5


@given(SHARES, SHARES, st.integers(1, 600), st.integers(1, 70), crossbar_specs())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_kept_counts_are_whole_crossbars_or_everything(
    rows: float, outputs: float, dense_rows: int, dense_outputs: int, spec: CrossbarSpec
) -> None:
    shape = LayerShape(name="fc", rows=dense_rows, outputs=dense_outputs)
    setting = LayerSetting(kept_shapes=rows, kept_filters=outputs)
    candidate = lenet(plan=CrossbarPlan(default=spec), layers={"fc": setting})
    target = candidate.targets({"fc": shape})["fc"]
    width = spec.bitlines // spec.bitlines_per_output
    assert target.rows is not None
    assert target.outputs is not None
    for share, kept, dense, unit in (
        (rows, target.rows, dense_rows, spec.wordlines),
        (outputs, target.outputs, dense_outputs, width),
    ):
        assert kept == dense or kept % unit == 0
        assert max(1, share * dense - 0.5) <= kept <= dense
        assert kept - unit < max(1, share * dense + 0.5)  # one crossbar fewer would not do


@st.composite
def stored_layers(draw: st.DrawFn) -> tuple[Candidate, LayerShape, torch.Tensor, MatrixLayout]:
    """A layer that obeys its candidate: kept rows and outputs, at most n non-zeros a segment."""
    spec = replace(draw(crossbar_specs()), sign_encoding=draw(st.sampled_from(SignEncoding)))
    shape = LayerShape(
        name="fc",
        rows=draw(st.integers(1, 24)),
        outputs=draw(st.integers(1, 6)),
        positions=draw(st.integers(1, 3)),
    )
    setting = LayerSetting(
        nonzeros=draw(st.none() | st.integers(1, spec.wordlines)),
        kept_shapes=draw(SHARES),
        kept_filters=draw(SHARES),
        whole_crossbars=draw(st.booleans()),
    )
    candidate = lenet(plan=CrossbarPlan(default=spec), layers={"fc": setting})
    target = candidate.targets({"fc": shape})["fc"]
    assert target.rows is not None
    assert target.outputs is not None
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    limit = spec.weight_limit
    sign = torch.randint(0, 2, (target.outputs, target.rows), generator=generator) * 2 - 1
    if draw(st.booleans(), label="largest weights"):
        weights = sign * limit
    else:
        weights = torch.randint(
            -limit, limit + 1, (target.outputs, target.rows), generator=generator
        )
    for start in range(0, target.rows, spec.wordlines):
        segment = weights[:, start : start + spec.wordlines]
        if target.nonzeros is not None:
            segment[:, target.nonzeros :] = 0
    weight_q = torch.zeros(shape.outputs, shape.rows, dtype=torch.int64)
    weight_q[: target.outputs, : target.rows] = weights
    layout = MatrixLayout(
        groups=1,
        outputs=shape.outputs,
        rows=shape.rows,
        kept_rows=torch.arange(target.rows)[None],
        kept_outputs=torch.arange(target.outputs)[None],
    )
    return candidate, shape, weight_q, layout


@given(stored_layers())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_certificate_exceeds_the_plan(
    case: tuple[Candidate, LayerShape, torch.Tensor, MatrixLayout],
) -> None:
    candidate, shape, weight_q, layout = case
    planned = candidate.planned({"fc": shape})[0]
    found = certify(weight_q, planned.spec, layout)
    assert (planned.rows, planned.outputs) == (layout.packed_rows, layout.packed_outputs)
    for needed, allowed in zip(
        (*found.adc_bits_per_slice, *found.segments_per_slice, found.unit_line_bits),
        (*planned.adc_bits_per_slice, *planned.segments_per_slice, planned.unit_line_bits),
        strict=True,
    ):
        assert needed <= allowed
    assert int(torch.count_nonzero(weight_q)) <= planned.nonzeros


def test_plan_is_reached_by_the_largest_weights() -> None:
    shape = LayerShape(name="fc", rows=128, outputs=2)
    candidate = lenet(layers={"fc": LayerSetting(nonzeros=5)})
    weight_q = torch.zeros(2, 128, dtype=torch.int64)
    weight_q[:, :5] = 127
    planned = candidate.planned({"fc": shape})[0]
    assert certify(weight_q, planned.spec).adc_bits_per_slice == planned.adc_bits_per_slice
