"""How networks get from the driver to the workers and back.

Dense weights, checkpoints and training states are files below the study's folder. Where every node
sees that folder there is nothing to do. Where not, each node has one of its own, and they meet in
an object store: each file or folder as one archive, which appears there whole or not at all.
"""

import io
import logging
import os
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from hwmodel.errors import StudyError
from search.folder import StudyFolder

__all__ = ["Exchange"]

_LOG = logging.getLogger(__name__)

_PAUSE_S = 2.0
_HINTS = {
    r"NO_SUCH_BUCKET": "make the bucket first",
    r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|FORBIDDEN": (
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on every node, to a login that may list, "
        "read, write and delete there"
    ),
    r"NETWORK_CONNECTION|TIMEOUT": "is its endpoint running, and are host, port and scheme right?",
}
"""What to do about an error, by what its text says."""
_Found = TypeVar("_Found")


class Exchange:
    """One study's files in the place that all nodes reach.

    Args:
        uri: `study.storage_path`; None: all nodes see the study's folder, and nothing is copied.
        folder: the study's folder on this node.
        patience_s: how long a call that fails is tried again.

    Raises:
        StudyError: here and by every method: the place cannot be used.
    """

    def __init__(self, uri: str | None, folder: StudyFolder, patience_s: float = 0.0) -> None:
        self._uri = uri
        self._folder = folder.path
        self._patience_s = patience_s
        if uri is not None:
            from pyarrow.fs import FileSystem

            with self._explained("opened"):
                self._files, root = FileSystem.from_uri(uri)
            self._root = f"{root.rstrip('/')}/{folder.name}"

    @property
    def copies(self) -> bool:
        """Whether nodes share no folder."""
        return self._uri is not None

    def check(self) -> None:
        """Finds out whether the place can be written."""
        if self._uri is not None:
            name = f".probe.{uuid.uuid4().hex}"
            with self._explained("written"):
                self._write(name, b"")
                self._files.delete_file(self._object(name))

    def put(self, path: Path, name: str | None = None) -> None:
        """Copies a file or folder there, in the place of what is there under its name.

        Args:
            path: in the study's folder.
            name: there, of what lies elsewhere.
        """
        if self._uri is not None:
            content = _packed(path)
            self._patiently("written", lambda: self._write(self._name(path, name), content))

    def offer(self, path: Path) -> None:
        """Like `put`, of something that others can do without: it is tried once."""
        if self._uri is not None:
            try:
                self._write(self._name(path), _packed(path))
            except OSError as error:
                _LOG.warning("%s: %s is not there: %s", self._uri, path.name, _reason(error))

    def share(self, path: Path, name: str | None = None) -> None:
        """Like `put`, unless something is there under its name."""
        if self._uri is not None:
            with self._explained("read"):
                found = self._files.get_file_info(self._object(self._name(path, name)))
            if not found.is_file:
                self.put(path, name)

    def fetch(self, path: Path, name: str | None = None) -> None:
        """Copies a file or folder from there; one that is not there is left as it is here."""
        if self._uri is None:
            return
        content = self._patiently("read", lambda: self._read(self._name(path, name)))
        if content is not None:
            try:
                _unpack(content, path)
            except zipfile.BadZipFile:
                _LOG.warning("%s: %s is damaged, and left out", self._uri, self._name(path, name))
            except OSError as error:
                raise StudyError(f"{path}: cannot be written ({error.strerror})") from None

    def bring(self, path: Path) -> Path:
        """The same path, with what never changes there fetched, unless it is here already."""
        if not path.exists():
            self.fetch(path)
        return path

    def drop(self, paths: Iterable[Path]) -> None:
        """Deletes files and folders there; what that fails for stays until a search ends."""
        if self._uri is None:
            return
        from pyarrow.fs import FileSelector

        unwanted = {self._object(self._name(path)) for path in paths}
        try:
            for folder in {place.rpartition("/")[0] for place in unwanted}:
                for found in self._files.get_file_info(FileSelector(folder, allow_not_found=True)):
                    if found.path in unwanted:
                        self._files.delete_file(found.path)
        except OSError as error:
            _LOG.warning("%s: networks off the front stay for now: %s", self._uri, _reason(error))

    def _name(self, path: Path, name: str | None = None) -> str:
        return f"{name or path.relative_to(self._folder).as_posix()}.zip"

    def _object(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _read(self, name: str) -> bytes | None:
        with (
            suppress(FileNotFoundError),
            self._files.open_input_stream(self._object(name)) as stream,
        ):
            return bytes(stream.readall())
        return None

    def _write(self, name: str, content: bytes) -> None:
        """An object appears once it has been sent; a file is renamed into its place."""
        place = self._object(name)
        if self._files.type_name != "local":
            with self._files.open_output_stream(place) as stream:
                stream.write(content)
            return
        folder, _, base = place.rpartition("/")
        self._files.create_dir(folder)
        draft = f"{folder}/.{base}.{uuid.uuid4().hex}"
        with self._files.open_output_stream(draft) as stream:
            stream.write(content)
        self._files.move(draft, place)

    def _patiently(self, verb: str, call: Callable[[], _Found]) -> _Found:
        """What a call gives, once it works or patience is at its end."""
        until = time.monotonic() + self._patience_s
        while time.monotonic() + _PAUSE_S < until:
            try:
                return call()
            except OSError:
                time.sleep(_PAUSE_S)
        with self._explained(verb):
            return call()

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turns what pyarrow raises into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = _reason(error)
            hints = (hint for text, hint in _HINTS.items() if re.search(text, reason))
            hint = next((f"; {hint}" for hint in hints), "")
            raise StudyError(
                f"study.storage_path {self._uri!r} cannot be {verb}: {reason}{hint}"
            ) from None


def _packed(path: Path) -> bytes:
    """An archive of a file, or of a folder's files."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", strict_timestamps=False) as writer:
        for file in files:
            writer.write(file, file.relative_to(path.parent))
    return archive.getvalue()


def _unpack(content: bytes, path: Path) -> None:
    """Puts what an archive holds in the place of a file or folder.

    Raises:
        BadZipFile: cut off, or otherwise not what was packed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as draft,
        zipfile.ZipFile(io.BytesIO(content)) as reader,
    ):
        reader.extractall(draft)
        shutil.rmtree(path, ignore_errors=True)  # unlike a file, a folder replaces no other
        os.replace(Path(draft) / path.name, path)


def _reason(error: Exception) -> str:
    """An error of pyarrow on one line, without what only the server's log is good for."""
    text = re.sub(r"^When .*?: (?=AWS Error)|\s*\(Request ID: \S*\)", "", str(error))
    return " ".join(text.split())[:300] or type(error).__name__
