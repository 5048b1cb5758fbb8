import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.quantise import ActivationRange, quantise_activations, quantise_weight


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6),
    st.sampled_from([1, 3, 7, 127, 32767]),
)
@settings(deadline=None)
def test_weights_are_within_half_a_step_and_the_limit(values: list[float], limit: int) -> None:
    weight = torch.tensor(values).reshape(2, 3)
    if bool(((weight != 0) & (weight.abs() < 1e-30)).any()):
        return  # pinned below
    codes, scale = quantise_weight(weight, limit)
    assert codes.dtype == torch.int32
    assert scale.dtype == torch.float32
    assert int(codes.abs().max()) <= limit
    error = (codes.double() * scale.double()[:, None] - weight.double()).abs()
    assert bool((error <= scale.double()[:, None] * (0.5 + limit * 1e-6)).all())
    assert bool((codes[weight == 0] == 0).all())


def test_each_output_has_its_own_scale_and_uses_the_whole_range() -> None:
    weight = torch.tensor([[[[0.5, -0.25]]], [[[-64.0, 32.0]]], [[[0.0, 0.0]]]])
    codes, scale = quantise_weight(weight, 8)
    assert codes.flatten(1).tolist() == [[8, -4], [-8, 4], [0, 0]]
    assert scale.tolist() == [0.0625, 8.0, 1.0]


def test_weights_keep_no_graph() -> None:
    codes, scale = quantise_weight(torch.randn(2, 3, requires_grad=True), 7)
    assert not codes.requires_grad
    assert not scale.requires_grad


def test_weights_below_the_smallest_normal_number_stay_in_range() -> None:
    codes, _ = quantise_weight(torch.tensor([[1e-44, 0.0]]), 127)
    assert int(codes.long().abs().max()) <= 127


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.sampled_from([1, 15, 255, 65535]))
@settings(deadline=None)
def test_range_covers_its_ends_and_holds_zero_exactly(low: float, width: float, limit: int) -> None:
    high = low + width
    code = ActivationRange.covering(low, high, limit)
    assert 0 <= code.zero_point <= limit
    assert code.scale > 0
    reach = [code.scale * (end - code.zero_point) for end in (0, limit)]
    assert reach[0] <= min(low, 0.0) + code.scale * 0.5000001
    assert reach[1] >= max(high, 0.0) - code.scale * 0.5000001


def test_range_of_unsigned_values_starts_at_zero() -> None:
    assert ActivationRange.covering(0.25, 255.0, 255) == ActivationRange(scale=1.0, zero_point=0)
    assert ActivationRange.covering(-2.55, -0.2, 255).zero_point == 255


def test_range_of_nothing_but_zero_is_usable() -> None:
    assert ActivationRange.covering(0.0, 0.0, 255) == ActivationRange(scale=1.0, zero_point=0)


def test_activations_round_and_clip() -> None:
    values = torch.tensor([-9.0, -1.0, 0.0, 0.74, 0.76, 1.25, 9.0])
    codes = quantise_activations(values, torch.tensor(0.5), torch.tensor(2.0), 7)
    assert codes.dtype == torch.float32
    assert codes.tolist() == [0, 0, 2, 3, 4, 4, 7]
