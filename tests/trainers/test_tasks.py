import pytest

from hwmodel.errors import ConfigError
from trainers.tasks import class_groups


def test_ten_classes_are_cut_into_pairs_or_fives() -> None:
    assert class_groups(10, 5) == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    assert class_groups(10, 2)[-1] == (8, 9)


@pytest.mark.parametrize("size", [1, 3])
def test_a_size_that_leaves_classes_over_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"tasks of {size} out of 10 classes; allowed: a divisor"):
        class_groups(10, size)
