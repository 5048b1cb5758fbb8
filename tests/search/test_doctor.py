import time
from pathlib import Path

import pytest

import search.doctor
from search.doctor import BROKEN, OK, WARNING, Check, examine
from tests.search.fakes import new_study


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_installation_that_runs_these_tests_is_well(tmp_path: Path) -> None:
    new_study(tmp_path)
    found = by_name(examine(tmp_path, None, None))
    assert {check.verdict for check in found.values()} <= {OK, WARNING}
    assert found["studies"].found == "1 can be read"
    assert all(check.mend for check in found.values() if check.verdict != OK)


def test_what_is_broken_is_named_and_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    study = new_study(tmp_path)
    study.folder.journal.write_text("{nothing}\n{of}\n", encoding="utf-8")
    found = by_name(examine(tmp_path / "file", "http://127.0.0.1:9", "127.0.0.1:9"))
    for name in ("storage", "tracking", "Ray"):
        assert found[name].verdict == BROKEN
        assert found[name].mend
    assert "127.0.0.1:9" in found["tracking"].found
    damaged = by_name(examine(tmp_path, None, None))["studies"]
    assert damaged.verdict == BROKEN
    assert "journal" in damaged.found


def test_check_that_fails_itself_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Check:
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(search.doctor, "_torch", fail)
    found = by_name(examine(tmp_path, None, None))
    assert (found["torch"].verdict, found["torch"].found) == (BROKEN, "no luck")
    assert found["disk"].verdict in (OK, WARNING)


def test_check_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang() -> Check:
        time.sleep(2)
        return Check(name="disk", verdict=OK, found="late")

    monkeypatch.setattr(search.doctor, "_PATIENCE_S", 0.1)
    found = search.doctor._in_time("disk", hang)
    assert (found.verdict, found.found) == (BROKEN, "no answer within 0.1 s")
