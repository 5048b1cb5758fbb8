"""Several tasks out of one data set: which classes belong to which.

`data.classes` and `data.backbone_classes` take such groups; `search.evaluate` trains a backbone on
the latter and starts every candidate from it, with a new last layer for the former.
"""

from hwmodel.errors import ConfigError

__all__ = ["class_groups"]


def class_groups(classes: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Classes `0..classes-1` cut into tasks of `size` classes each, in order.

    Raises:
        ConfigError: a size below 2, or one that does not divide the classes.
    """
    if size < 2 or classes % size:
        raise ConfigError(f"tasks of {size} out of {classes} classes; allowed: a divisor, 2 up")
    return tuple(tuple(range(start, start + size)) for start in range(0, classes, size))
