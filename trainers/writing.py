"""Files that take their place only once they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from hwmodel.errors import StorageError

__all__ = ["writing_file"]


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """A path beside `path` that takes its place once the block has ended without an error.

    Raises:
        StorageError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: cannot be written ({reason})") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
