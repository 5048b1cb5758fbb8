"""Hosts in network namespaces of their own, on one switch; nothing outside of them is touched."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

__all__ = ["Network", "network_of"]

_SUBNET = "10.77.0"
_OWN_FOLDER = 'mount -t tmpfs none "$0" && exec "$@"'


class Network:
    """Hosts that see each other and nobody else.

    Args:
        hosts: their names; the first has the address 10.77.0.1, and so on.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = tuple(hosts)
        self._switch = self._space("switch")
        self._started: list[subprocess.Popen[bytes]] = []

    def make(self) -> None:
        """Makes namespaces, switch and links."""
        for name in ("switch", *self._hosts):
            _ip("netns", "add", self._space(name))
            _ip("-n", self._space(name), "link", "set", "lo", "up")
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        for name in self._hosts:
            own = self._space(name)
            ends = ("netns", own, "type", "veth", "peer", "name", name, "netns", self._switch)
            _ip("link", "add", "eth0", *ends)
            _ip("-n", own, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")
            _ip("-n", self._switch, "link", "set", name, "master", "bridge", "up")

    def address(self, host: str) -> str:
        """The host's IP address."""
        return f"{_SUBNET}.{self._hosts.index(host) + 1}"

    def at(self, host: str, own_folder: Path | None = None) -> tuple[str, ...]:
        """What a command begins with to run on a host.

        Args:
            host: where.
            own_folder: a folder that is another one, and empty, to that command.
        """
        prefix = ("ip", "netns", "exec", self._space(host))
        return prefix if own_folder is None else (*prefix, "sh", "-c", _OWN_FOLDER, str(own_folder))

    def start(
        self, host: str, *command: str, own_folder: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a command on a host; see `at`."""
        process = subprocess.Popen(
            [*self.at(host, own_folder), *command],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._started.append(process)
        return process

    def cut(self, host: str) -> None:
        """Takes a host's cable off the switch."""
        _ip("-n", self._switch, "link", "set", host, "down")

    def heal(self, host: str) -> None:
        """Puts the cable back."""
        _ip("-n", self._switch, "link", "set", host, "up")

    def processes(self, host: str) -> dict[int, str]:
        """What runs on a host: command lines by process id."""
        found = {}
        for pid in _ip("netns", "pids", self._space(host)).split():
            path = Path("/proc", pid, "cmdline")
            if path.exists():
                found[int(pid)] = path.read_text().replace("\0", " ")
        return found

    def remove(self) -> None:
        """Ends every process of the hosts and takes all down."""
        for name in ("switch", *self._hosts):
            if Path("/run/netns", self._space(name)).exists():
                self._end_processes(name)
                _ip("netns", "delete", self._space(name))
        for process in self._started:
            process.wait(timeout=30)

    def _end_processes(self, host: str) -> None:
        """Kills what runs on a host, and what that has started meanwhile."""
        deadline = time.monotonic() + 20
        while (found := self.processes(host)) and time.monotonic() < deadline:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

    def _space(self, host: str) -> str:
        return f"crossfront-{os.getpid()}-{host}"


@contextmanager
def network_of(*hosts: str) -> Iterator[Network]:
    """A network for as long as the context lasts; skips the test where none can be made."""
    if shutil.which("ip") is None:
        pytest.skip("ip (iproute2) is not installed")
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    network = Network(hosts)
    try:
        try:
            network.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield network
    finally:
        network.remove()


def _ip(*words: str) -> str:
    answer = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return answer.stdout
