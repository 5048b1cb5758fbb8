import pytest
from torch import nn

from hwmodel.errors import ConfigError, SpecError
from tests.trainers.toys import toy_targets
from trainers.methods import (
    METHODS,
    DenseConfig,
    LevelSumConfig,
    MagnitudeConfig,
    TinyAdc,
    TinyAdcConfig,
    TinyAdcStraightThrough,
    build_method,
)

TRAININGS = ("admm", "straight-through")


def test_every_entry_builds_the_method_of_its_name() -> None:
    targets = toy_targets(nn.Sequential(nn.Linear(4, 2)))
    for name, entry in METHODS.items():
        method = build_method(name, entry.config(), targets)
        assert type(method) is entry.method
        assert method.name == name
        assert method.targets == targets


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="method 'tinyadx'; allowed: tinyadc, level-sum"):
        build_method("tinyadx", TinyAdcConfig(), {})


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(ConfigError, match="MagnitudeConfig: settings of another method than"):
        build_method("tinyadc", MagnitudeConfig(), {})


def test_strength_that_a_method_does_not_read_is_refused() -> None:
    targets = toy_targets(nn.Sequential(nn.Linear(4, 2)), nonzeros=2)
    with pytest.raises(SpecError, match="0: nonzeros is set, which method 'level-sum' does not"):
        build_method("level-sum", LevelSumConfig(), targets)
    with pytest.raises(SpecError, match="its settings: none"):
        build_method("dense", DenseConfig(), targets)


def test_training_selects_tinyadc_variant() -> None:
    built = [build_method("tinyadc", TinyAdcConfig(training=t), {}) for t in TRAININGS]
    assert [type(method) for method in built] == [TinyAdc, TinyAdcStraightThrough]
    assert [method.settings for method in built] == [METHODS["tinyadc"].settings] * 2


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
