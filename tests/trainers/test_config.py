import math

import pytest

from hwmodel.errors import ConfigError
from trainers.config import NetworkConfig, TrainConfig, check_choice, check_number


def test_defaults_are_allowed() -> None:
    assert TrainConfig() == TrainConfig()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dense_epochs", -1, "train.dense_epochs is -1; allowed: an integer from 0"),
        ("epochs", 1.5, "train.epochs is 1.5; allowed: an integer from 0"),
        ("epochs", True, "train.epochs is True; allowed: an integer from 0"),
        ("batch_size", 0, "train.batch_size is 0; allowed: an integer from 1"),
        ("calibration_count", 0, "train.calibration_count is 0; allowed: an integer from 1"),
        ("threads", "2", "train.threads is '2'; allowed: an integer from 1"),
        ("learning_rate", -0.1, "train.learning_rate is -0.1; allowed: a number from 0"),
        ("prune_learning_rate", math.nan, "train.prune_learning_rate is nan; allowed: a number"),
        ("momentum", math.inf, "train.momentum is inf; allowed: a number from 0"),
        ("weight_decay", None, "train.weight_decay is None; allowed: a number from 0"),
        ("train_count", 0, "train.train_count is 0; allowed: an integer from 1"),
        ("optimiser", "lion", "train.optimiser is 'lion'; allowed: sgd, adam"),
        (
            "augment",
            "mixup",
            "train.augment is 'mixup'; allowed: none, flip, crop-flip, crop-flip-cutout",
        ),
        ("schedule", "step", "train.schedule is 'step'; allowed: one-cycle, cosine, constant"),
    ],
)
def test_wrong_value_names_field_value_and_what_is_allowed(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{field: value})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_limits_themselves_are_allowed() -> None:
    check_number("share", 0, low=0, high=1)
    check_number("share", 1, low=0, high=1)
    check_number("anything", -5.5)
    with pytest.raises(ConfigError, match=r"share is 1\.01; allowed: a number from 0 up to 1"):
        check_number("share", 1.01, low=0, high=1)


def test_integer_beyond_every_float_is_refused() -> None:
    with pytest.raises(ConfigError, match="count is 1000"):
        check_number("count", 10**400, integer=True)


def test_choice_lists_the_words() -> None:
    check_choice("kind", "a", ("a", "b"))
    with pytest.raises(ConfigError, match="kind is 'c'; allowed: a, b"):
        check_choice("kind", "c", ("a", "b"))


def test_head_can_only_be_reset_where_there_is_a_checkpoint() -> None:
    assert NetworkConfig(checkpoint="w.pt", reset_head=True).reset_head
    with pytest.raises(ConfigError, match=r"network\.reset_head is True; allowed without"):
        NetworkConfig(reset_head=True)
