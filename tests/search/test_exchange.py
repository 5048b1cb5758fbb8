import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwmodel.errors import StudyError
from search.exchange import Exchange
from search.folder import StudyFolder
from tests.search.servers import S3Server, free_port


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    found = S3Server()
    found.start()
    yield found
    found.stop()


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "crossfront")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-shown")


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, login: None) -> str:
    """Somewhere empty."""
    if request.param == "file":
        return (tmp_path / "place").as_uri()
    server: S3Server = request.getfixturevalue("server")
    bucket = f"test-{abs(hash(tmp_path)):x}"
    server.make_bucket(bucket)
    return server.uri(f"{bucket}/studies")


class Node:
    """A machine with a folder of its own."""

    def __init__(self, folder: Path, place: str | None) -> None:
        self.folder = StudyFolder(folder, "tiny")
        self.exchange = Exchange(place, self.folder)

    def network(self, number: int, text: str) -> Path:
        path = self.folder.checkpoint(number)
        path.mkdir(parents=True, exist_ok=True)
        (path / "manifest.json").write_text(text)
        (path / "weights.safetensors").write_bytes(bytes(5_000))
        return path


@pytest.fixture
def nodes(tmp_path: Path, place: str) -> tuple[Node, Node]:
    return Node(tmp_path / "one", place), Node(tmp_path / "two", place)


def objects(place: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileSystem

    files, root = FileSystem.from_uri(place)
    found = files.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{root}/") for info in found if info.is_file)


def test_folder_and_file_come_to_another_node(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    one.exchange.put(one.network(3, "first"))
    one.folder.training(3).write_bytes(b"state")
    one.exchange.offer(one.folder.training(3))
    two.exchange.fetch(two.folder.checkpoint(3))
    two.exchange.fetch(two.folder.training(3))
    assert two.folder.training(3).read_bytes() == b"state"
    names = [path.name for path in sorted(two.folder.checkpoint(3).iterdir())]
    assert names == ["manifest.json", "weights.safetensors"]
    left = sorted(path.name for path in two.folder.checkpoint(3).parent.iterdir())
    assert left == ["trial-00003", "trial-00003.training"]


def test_later_copy_takes_the_place_of_the_first(nodes: tuple[Node, Node], place: str) -> None:
    one, two = nodes
    for text in ("first", "second"):
        one.exchange.put(one.network(3, text))
        two.exchange.fetch(two.folder.checkpoint(3))
        assert (two.folder.checkpoint(3) / "manifest.json").read_text() == text
    one.exchange.share(one.network(3, "third"))
    two.exchange.fetch(two.folder.checkpoint(3))
    assert (two.folder.checkpoint(3) / "manifest.json").read_text() == "second"
    assert objects(place) == ["tiny/checkpoints/trial-00003.zip"]


def test_what_is_here_already_is_not_brought(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    one.exchange.share(one.network(3, "theirs"))
    own = two.network(3, "own")
    assert (two.exchange.bring(own) / "manifest.json").read_text() == "own"
    brought = two.exchange.bring(two.folder.checkpoint(4))
    assert not brought.exists()


def test_what_is_not_there_stays_as_it_is(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    own = one.network(3, "own")
    one.exchange.fetch(own)
    assert (own / "manifest.json").read_text() == "own"


def test_only_what_is_named_is_dropped(nodes: tuple[Node, Node], place: str) -> None:
    one, _ = nodes
    for number in (1, 2, 10):
        one.exchange.put(one.network(number, "x"))
    one.exchange.check()
    one.exchange.drop([one.folder.checkpoint(1), one.folder.checkpoint(7)])
    one.exchange.drop([])
    assert objects(place) == [f"tiny/checkpoints/trial-000{n}.zip" for n in ("02", "10")]


def test_damaged_archive_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = Node(tmp_path / "one", (tmp_path / "place").as_uri())
    node.exchange.put(node.network(3, "own"))
    (archive,) = (tmp_path / "place").rglob("*.zip")
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(archive)
    node.exchange.fetch(node.folder.checkpoint(3))
    assert "trial-00003.zip is damaged" in caplog.text
    assert (node.folder.checkpoint(3) / "manifest.json").read_text() == "own"


def test_shared_folder_is_left_alone(tmp_path: Path) -> None:
    node = Node(tmp_path, None)
    path = node.network(3, "own")
    node.exchange.check()
    for call in (node.exchange.put, node.exchange.offer, node.exchange.share, node.exchange.fetch):
        call(path)
    node.exchange.drop([path])
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*/*")] == [
        "tiny/checkpoints/trial-00003"
    ]


@pytest.mark.usefixtures("login")
def test_missing_bucket_is_named(tmp_path: Path, server: S3Server) -> None:
    node = Node(tmp_path, server.uri("nobody-made-it/studies"))
    with pytest.raises(StudyError, match=r"made-it/.*cannot be written: AWS Error NO_SUCH_BUCKET"):
        node.exchange.check()
    with pytest.raises(StudyError, match=r"make the bucket first$"):
        node.exchange.check()


@pytest.mark.usefixtures("login")
def test_wrong_login_is_one_line_without_the_secret(tmp_path: Path) -> None:
    strict = S3Server()
    strict.start()
    try:
        strict.make_bucket("ours")
        node = Node(tmp_path, strict.uri("ours/studies"))
        strict.refuse_all()
        with pytest.raises(StudyError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET") as caught:
            node.exchange.check()
    finally:
        strict.stop()
    assert "INVALID_ACCESS_KEY_ID" in str(caught.value)
    assert "not-to-be-shown" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("login")
def test_endpoint_that_nothing_answers_is_named(tmp_path: Path) -> None:
    uri = f"s3://ours/studies?endpoint_override=127.0.0.1:{free_port()}&scheme=http"
    node = Node(tmp_path, uri)
    with pytest.raises(StudyError, match=r"127\.0\.0\.1:.*is its endpoint running"):
        node.exchange.check()


def test_folder_that_cannot_be_written_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    node = Node(tmp_path / "one", (tmp_path / "file" / "below").as_uri())
    with pytest.raises(StudyError, match=r"file/below' cannot be written: .*Not a directory"):
        node.exchange.check()
    with caplog.at_level(logging.WARNING):
        node.exchange.offer(node.network(3, "own"))
    assert "trial-00003 is not there: " in caplog.text


def test_patience_outlasts_a_short_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "mount" / "place"
    (tmp_path / "mount").touch()
    monkeypatch.setattr("search.exchange.time.sleep", lambda s: (tmp_path / "mount").unlink())
    exchange = Exchange(place.as_uri(), StudyFolder(tmp_path / "one", "tiny"), patience_s=60.0)
    file = tmp_path / "one" / "tiny" / "dense.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    exchange.put(file)
    assert objects(place.as_uri()) == ["tiny/dense.safetensors.zip"]
