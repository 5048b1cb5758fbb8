import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from search.drivers import STALE_S, Driver, exclusive, is_alive

_DRIVE = """
import sys
from pathlib import Path
from search.drivers import Driver
print(Driver(Path(sys.argv[1])).name, flush=True)
sys.stdin.read()
"""


def test_driver_lives_until_it_is_closed(tmp_path: Path) -> None:
    one, other = Driver(tmp_path / "drivers"), Driver(tmp_path / "drivers")
    assert one.name != other.name
    assert is_alive(tmp_path / "drivers", one.name)
    one.close()
    assert not is_alive(tmp_path / "drivers", one.name)
    assert is_alive(tmp_path / "drivers", other.name)
    other.close()


def test_killed_driver_is_dead_at_once(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _DRIVE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert is_alive(tmp_path, name)
        process.kill()
    assert (tmp_path / name).exists()
    assert not is_alive(tmp_path, name)


@pytest.mark.parametrize(("age", "alive"), [(0.0, True), (2 * STALE_S, False)])
def test_driver_of_another_machine_is_judged_by_its_heartbeat(
    tmp_path: Path, age: float, alive: bool
) -> None:
    """Where locks do not reach from one machine to another, its lock looks free."""
    path = tmp_path / "elsewhere-12-abcd"
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    assert is_alive(tmp_path, path.name) is alive


def test_clock_of_this_machine_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats are times of the file system, which is another machine's."""
    path = tmp_path / "elsewhere-12-abcd"
    path.touch()
    before = time.time()
    monkeypatch.setattr("time.time", lambda: before + 10 * STALE_S)
    assert is_alive(tmp_path, path.name)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_unknown_driver_is_dead(tmp_path: Path) -> None:
    assert not is_alive(tmp_path, "nobody")


def test_heartbeat_renews_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.drivers.HEARTBEAT_S", 0.01)
    driver = Driver(tmp_path)
    path = tmp_path / driver.name
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 20
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 0
    driver.close()
    assert not path.exists()


def test_section_is_exclusive_between_threads(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def enter() -> None:
        for _ in range(20):
            with exclusive(tmp_path / "lock"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
