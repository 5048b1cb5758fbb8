"""Notices that the head of a Ray cluster is gone.

Ray's own client waits for its head inside calls that nothing interrupts, and ends the process
after a minute (`gcs_rpc_server_reconnect_timeout_s`).
"""

import socket
import threading
import time
from collections.abc import Callable

__all__ = ["HeadWatch"]

_PERIOD_S = 2.0
PATIENCE_S = 40.0
"""A link may heal within this; less than what Ray's client waits."""


class HeadWatch:
    """Watches a head in a thread of its own, until it is lost or `close` is called.

    Args:
        address: `HOST:PORT` of the head.
        lost: called once nothing has answered there for `PATIENCE_S`.
    """

    def __init__(self, address: str, lost: Callable[[], None]) -> None:
        self._address = address
        self._lost = lost
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watches no more."""
        self._closed.set()

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self._closed.wait(_PERIOD_S):
            if answers(self._address):
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE_S:
                self._lost()
                return


def answers(address: str) -> bool:
    """Whether something listens at `HOST:PORT`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PERIOD_S).close()
    except OSError:
        return False
    return True
