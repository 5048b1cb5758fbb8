import socket
import threading

import pytest

from search.head import HeadWatch, answers


def test_head_that_no_longer_answers_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.head._PERIOD_S", 0.05)
    monkeypatch.setattr("search.head.PATIENCE_S", 0.2)
    lost = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        HeadWatch(address, lost.set)
        assert answers(address)
        assert not lost.wait(0.5)
    assert lost.wait(10)


def test_closed_watch_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.head._PERIOD_S", 0.05)
    monkeypatch.setattr("search.head.PATIENCE_S", 0.0)
    lost = threading.Event()
    HeadWatch("127.0.0.1:1", lost.set).close()
    assert not lost.wait(0.3)
