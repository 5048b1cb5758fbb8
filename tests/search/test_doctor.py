import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

import search.doctor
from search.doctor import BROKEN, OK, WARNING, Check, examine
from tests.search.fakes import done, new_study, try_one


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
    found = by_name(examine(tmp_path / "file", "http://127.0.0.1:9", "127.0.0.1:9"))
    for name in ("storage", "tracking", "Ray"):
        assert found[name].verdict == BROKEN
        assert found[name].mend
    assert "127.0.0.1:9" in found["tracking"].found


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    storage = tmp_path / "not" / "there"
    found = by_name(examine(storage, None, None))
    assert (found["storage"].verdict, found["disk"].verdict) == (OK, OK)
    assert found["storage"].found == f"'{storage}' can be made"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("uri", "verdict"), [(None, WARNING), ("http://127.0.0.1:9", BROKEN)])
def test_tracking_is_not_well_without_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None, verdict: str
) -> None:
    monkeypatch.setattr("search.doctor.missing", lambda extra: ["mlflow"] * (extra == "tracking"))
    check = by_name(examine(tmp_path, uri, None))["tracking"]
    assert (check.verdict, check.found) == (verdict, "runs are not mirrored without mlflow")
    assert check.mend == "pip install 'crossfront[tracking]'"


def test_each_damaged_study_is_named_with_what_mends_it(tmp_path: Path) -> None:
    whole = new_study(tmp_path, name="whole")
    try_one(whole, done(0.8, 0.5))
    cut = new_study(tmp_path, name="cut")
    try_one(cut, done(0.8, 0.5))
    lines = cut.folder.journal.read_text(encoding="utf-8").splitlines(keepends=True)
    cut.folder.journal.write_text("".join([*lines[:4], "{nothing}\n", *lines[4:]]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "journal.log").touch()
    found = examine(tmp_path, None, None)
    assert by_name(found)["studies"].found == "1 can be read"
    damaged = [check for check in found if check.name == "study"]
    assert [check.verdict for check in damaged] == [BROKEN, BROKEN]
    assert f"{cut.folder.journal}: line 5 is damaged" in damaged[0].found
    assert "delete" in damaged[1].mend
    subprocess.run(["sh", "-c", damaged[0].mend.rpartition(": ")[2]], check=True)
    assert by_name(examine(tmp_path, None, None))["studies"].found == "2 can be read"
    assert "journal" in by_name(examine(tmp_path, None, None))["study"].found


VERSIONS = {"Python": "3.11.7", "ray": "2.60.0", "crossfront": "0.1.0", "torch": "2.13.0"}


def test_nodes_of_other_versions_and_silent_ones_are_named() -> None:
    other = {**VERSIONS, "crossfront": "not installed", "torch": "2.9.0"}
    nodes = {"10.0.0.1": VERSIONS, "10.0.0.2": other, "10.0.0.3": None}
    with pytest.raises(search.doctor._Trouble) as caught:
        search.doctor._same_versions(nodes, VERSIONS)
    assert str(caught.value) == (
        "node 10.0.0.2 has crossfront not installed, torch 2.9.0; "
        "node 10.0.0.3 does not run tasks; "
        "here it is Python 3.11.7, ray 2.60.0, crossfront 0.1.0, torch 2.13.0"
    )
    assert "every node" in caught.value.mend
    everywhere = search.doctor._same_versions({"10.0.0.1": VERSIONS}, VERSIONS)
    assert everywhere.startswith("everywhere Python 3.11.7, ray 2.60.0")


@pytest.mark.ray
def test_every_node_says_its_versions() -> None:
    code = """
from search.config import RayConfig
from search.doctor import _same_versions, _versions, _versions_of_nodes
from search.ray_session import prepare_ray, start_ray
prepare_ray(RayConfig())
start_ray(RayConfig())
import ray
print(_same_versions(_versions_of_nodes(ray.nodes()), _versions()))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"everywhere Python {platform.python_version()}, ray " in ran.stdout


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
