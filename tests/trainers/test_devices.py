"""Devices by name, and what is known of them."""

import pytest
import torch

from hwmodel.errors import ConfigError
from trainers.devices import multiplies_bfloat16, resolve_device


def test_auto_is_a_device_that_works() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:99", "cuda:x", "mps:0"])
def test_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"train.device is '{name}'; not usable here: "):
        resolve_device(name)


def test_device_kind_without_its_package_is_refused() -> None:
    with pytest.raises(ConfigError):
        resolve_device("hpu")


def test_device_that_cannot_compute_is_refused() -> None:
    with pytest.raises(ConfigError):
        resolve_device("meta")


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_bfloat16_is_read_off_the_processor(
    capabilities: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert multiplies_bfloat16(torch.device("cpu")) is native
