"""Products in floating point against int64, up to where each float ends."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import hwmodel.exact
from hwmodel.errors import MappingError
from hwmodel.exact import exact_convolution, exact_dtype, exact_product

WITHOUT_ONEDNN = "ignore:TF32 acceleration on top of oneDNN"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A convolution whose sums come close to where its float ends."""

    inputs_q: Tensor
    weight_q: Tensor
    limit: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def found(self) -> Tensor:
        return exact_convolution(
            self.inputs_q,
            self.weight_q,
            self.limit,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
        )

    def expected(self) -> Tensor:
        """The sum over kernel positions in int64."""
        inputs, weight = self.inputs_q.long(), self.weight_q.long()
        inputs = inputs.unflatten(1, (self.groups, -1))
        weight = weight.unflatten(0, (self.groups, -1))
        kernel = weight.shape[3:]
        ends = [
            inputs.shape[3 + axis] - self.dilation[axis] * (kernel[axis] - 1) for axis in range(2)
        ]
        total = torch.zeros((), dtype=torch.int64)
        for y in range(kernel[0]):
            for x in range(kernel[1]):
                top, left = y * self.dilation[0], x * self.dilation[1]
                seen = inputs[
                    ...,
                    top : top + ends[0] : self.stride[0],
                    left : left + ends[1] : self.stride[1],
                ]
                total = total + torch.einsum("bgchw,goc->bgohw", seen, weight[..., y, x])
        return total.flatten(1, 2)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    channels, kernel = draw(st.integers(1, 3)), (draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    limit = draw(st.sampled_from([1, 15, 255, 65535]))
    end = draw(st.sampled_from([1 << 24, 1 << 53]))
    largest = (end - 1) // (channels * math.prod(kernel) * limit)
    shape = (groups * draw(st.integers(1, 3)), channels, *kernel)
    weight_q = torch.randint(-largest, largest + 1, shape, generator=generator)
    pixels = (draw(st.sampled_from([1, 2, 17])), groups * channels, 8, 7)
    return Case(
        inputs_q=torch.randint(0, limit + 1, pixels, generator=generator),
        weight_q=weight_q,
        limit=limit,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 2))),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
    )


@given(cases())
@settings(deadline=None, max_examples=150)
def test_convolution_is_that_of_int64(case: Case) -> None:
    found = case.found()
    assert torch.equal(found.long(), case.expected())
    assert torch.equal(found, found.round())


@given(cases(), st.integers(1, 2000))
@settings(deadline=None, max_examples=40)
def test_convolution_does_not_depend_on_its_chunks(case: Case, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hwmodel.exact, "_PATCHES_AT_ONCE", at_once)
        assert torch.equal(case.found().long(), case.expected())


@pytest.mark.filterwarnings(WITHOUT_ONEDNN)
def test_no_kernel_that_transforms_is_taken() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs_q = torch.randint(0, 256, (16, 8, 12, 12), generator=generator)
    weight_q = torch.randint(-127, 128, (8, 8, 3, 3), generator=generator)
    case = Case(
        inputs_q=inputs_q, weight_q=weight_q, limit=255, stride=(1, 1), dilation=(1, 1), groups=1
    )
    expected = case.expected()
    with torch.backends.mkldnn.flags(enabled=False):
        if torch.backends.nnpack.is_available():
            taken = functional.conv2d(inputs_q.float(), weight_q.float())
            assert not torch.equal(taken.double(), expected.double())
        assert torch.equal(case.found().double(), expected.double())
    assert torch.equal(case.found().double(), expected.double())


def test_settings_of_torch_are_left_as_they_were() -> None:
    before = (torch._C._get_nnpack_enabled(), torch.backends.cudnn.enabled)
    ones = torch.ones(1, 1, 2, 2)
    exact_convolution(ones, ones.int(), 1, stride=(1, 1), dilation=(1, 1), groups=1)
    assert (torch._C._get_nnpack_enabled(), torch.backends.cudnn.enabled) == before


def test_empty_batch_gives_an_empty_batch() -> None:
    weight_q = torch.ones(3, 2, 2, 2, dtype=torch.int32)
    inputs_q = torch.zeros(0, 2, 5, 4)
    found = exact_convolution(inputs_q, weight_q, 1, stride=(1, 1), dilation=(1, 1), groups=1)
    assert found.shape == (0, 3, 4, 3)


@pytest.mark.parametrize(("weight", "dtype"), [(2**24 - 1, torch.float32), (2**24, torch.float64)])
@pytest.mark.parametrize("sign", [1, -1])
def test_product_is_float32_below_two_to_the_24(weight: int, dtype: torch.dtype, sign: int) -> None:
    matrix_q = torch.tensor([[[0, 0], [sign * (weight - 1), sign]]])
    product = exact_product(torch.ones(1, 1, 2, dtype=torch.uint8), matrix_q, 1)
    assert product.dtype is dtype
    assert product.tolist() == [[[0, sign * weight]]]
    kernels = matrix_q.reshape(2, 2, 1, 1)
    ones = torch.ones(1, 2, 1, 1)
    summed = exact_convolution(ones, kernels, 1, stride=(1, 1), dilation=(1, 1), groups=1)
    assert summed.dtype is dtype
    assert summed.flatten().tolist() == [0, sign * weight]


def test_weights_of_opposite_signs_do_not_add_up() -> None:
    matrix_q = torch.tensor([[[2**24 - 1, 1 - 2**24]]])
    product = exact_product(torch.tensor([[[1, 1], [1, 0], [0, 1]]]), matrix_q, 1)
    assert product.dtype is torch.float32
    assert product.flatten().tolist() == [0, 2**24 - 1, 1 - 2**24]


def test_sums_that_float64_cannot_hold_are_refused() -> None:
    allowed = rf"sums up to {2**53}; allowed: below 2\^53"
    with pytest.raises(MappingError, match=allowed):
        exact_product(torch.ones(1, 1, 1), torch.tensor([[[2**53]]]), 1)
    kernel, pixel = torch.tensor([[[[2**53]]]]), torch.ones(1, 1, 1, 1)
    with pytest.raises(MappingError, match=allowed):
        exact_convolution(pixel, kernel, 1, stride=(1, 1), dilation=(1, 1), groups=1)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
@pytest.mark.parametrize("operation", ["conv", "matmul"])
def test_float32_that_onednn_may_narrow_is_not_used(precision: str, operation: str) -> None:
    setting = getattr(torch.backends.mkldnn, operation)
    before = setting.fp32_precision
    try:
        setting.fp32_precision = precision
        assert exact_dtype(1) is torch.float64
    finally:
        setting.fp32_precision = before
    assert exact_dtype(1) is torch.float32


def test_float32_is_used_only_where_its_products_are_of_highest_precision() -> None:
    try:
        for precision in ("medium", "high"):
            torch.set_float32_matmul_precision(precision)
            assert exact_dtype(1) is torch.float64
    finally:
        torch.set_float32_matmul_precision("highest")
    assert exact_dtype(1) is torch.float32
