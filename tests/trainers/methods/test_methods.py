import pytest
from torch import nn

from hwmodel.errors import ConfigError
from tests.trainers.toys import toy_targets
from trainers.methods import (
    METHOD_CONFIGS,
    Magnitude,
    MagnitudeConfig,
    TinyAdc,
    TinyAdcConfig,
    build_method,
)


def test_every_config_builds_the_method_of_its_name() -> None:
    targets = toy_targets(nn.Sequential(nn.Linear(4, 2)))
    for name, config in METHOD_CONFIGS.items():
        method = build_method(config(), targets)
        assert method.name == name
        assert method.targets == targets
    assert isinstance(build_method(TinyAdcConfig(), targets), TinyAdc)
    assert isinstance(build_method(MagnitudeConfig(), targets), Magnitude)


def test_settings_of_no_method_are_refused() -> None:
    with pytest.raises(ConfigError, match="str is no method; allowed: tinyadc, magnitude"):
        build_method("tinyadc", {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("admm_share", 1.1),
        ("admm_share", -0.1),
        ("rho", -1.0),
        ("rho_growth", 0.9),
        ("rounds_per_epoch", 0),
        ("rounds_per_epoch", 1.5),
    ],
)
def test_impossible_setting_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"method.{field} is {value}; allowed: "):
        TinyAdcConfig(**{field: value})  # type: ignore[arg-type]
