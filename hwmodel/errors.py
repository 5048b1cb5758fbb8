"""Every error that Crossfront raises on purpose.

    CrossfrontError
    |-- SpecError           a crossbar, plan or candidate that cannot exist
    |-- MappingError        weights or inputs that do not fit their crossbars
    |-- ConstraintError     weights that miss the constraint they were trained for
    |-- CertificateError    stored weights that need a larger ADC than was promised
    |-- OutOfRangeError     a hardware model asked outside what it knows
    |-- ConfigError         a configuration file, option or preset
    |-- DataError           a data set: missing, truncated or inconsistent
    |-- CheckpointError     a checkpoint or export folder
    |-- DivergedError       a training run whose loss is no longer finite
    |-- StorageError        a disk that is full, or refuses to be written
    |-- StudyError          a study that exists, is missing, damaged or cannot be written
    |-- TrackingError       a tracking server that cannot be reached
    `-- ClusterError        a Ray cluster that cannot be used, or a job that it does not know

Each message says what was wrong, its value and what is allowed. The command line prints the
message of a `CrossfrontError` on one line; anything else is a defect of ours.
"""

__all__ = [
    "CertificateError",
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "ConstraintError",
    "CrossfrontError",
    "DataError",
    "DivergedError",
    "MappingError",
    "OutOfRangeError",
    "SpecError",
    "StorageError",
    "StudyError",
    "TrackingError",
]


class CrossfrontError(Exception):
    """Base of every error that a user can cause or mend."""


class SpecError(CrossfrontError):
    """A crossbar, plan or candidate that cannot exist."""


class MappingError(CrossfrontError):
    """Weights or inputs that do not fit their crossbars."""


class ConstraintError(CrossfrontError):
    """Weights that miss the constraint they were trained for."""


class CertificateError(CrossfrontError):
    """Stored weights that need a larger ADC than was promised."""


class OutOfRangeError(CrossfrontError):
    """A hardware model asked outside what it knows."""


class ConfigError(CrossfrontError):
    """A configuration file, option or preset that says something impossible."""


class DataError(CrossfrontError):
    """A data set that is missing, truncated or inconsistent."""


class CheckpointError(CrossfrontError):
    """A checkpoint or export folder that cannot be read or is not what it claims."""


class DivergedError(CrossfrontError):
    """A training run whose loss is no longer finite."""


class StorageError(CrossfrontError):
    """A disk that is full, or refuses to be written."""


class StudyError(CrossfrontError):
    """A study that exists already, is missing, damaged or cannot be written.

    Args:
        found: what is wrong.
        mend: what to do about it.
    """

    def __init__(self, found: str, mend: str = "") -> None:
        super().__init__(f"{found}; {mend}" if mend else found)
        self.found = found
        self.mend = mend


class TrackingError(CrossfrontError):
    """A tracking server that cannot be reached."""


class ClusterError(CrossfrontError):
    """A Ray cluster that cannot be used, or a job that it does not know."""
