"""The Python API does what the command line does, under the same names."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import search.api as crossfront
from hwmodel.errors import CheckpointError, ConfigError, StudyError
from search.cli import app
from tests.search.fakes import done, new_study, try_one
from trainers.checkpoint import MANIFEST

TINY = {
    "network": {"name": "mlp", "arguments": {"hidden": 4}},
    "data": {"test_count": 40},
    "train": {"dense_epochs": 1, "epochs": 1, "train_count": 200, "calibration_count": 40},
    "candidate": {"nonzeros": 5},
}


def test_names_are_those_of_the_command_line() -> None:
    commands = {command.callback.__name__ for command in app.registered_commands}
    assert {"compress", "search", "resume", "pareto", "export", "verify"} <= commands
    assert {"compress", "search", "resume", "pareto", "export", "verify"} <= set(crossfront.__all__)
    assert all(inspect.getdoc(getattr(crossfront, name)) for name in crossfront.__all__)


def test_five_lines_compress_a_network(tmp_path: Path) -> None:
    said: list[str] = []
    made = crossfront.compress(TINY, tmp_path / "out", say=said.append, candidate={"nonzeros": 10})
    assert set(made.adc_bits) == {"fc1", "fc2"}
    assert made.ratio["adc_power"] > 1
    assert crossfront.verify(made.folder, images=4).ok
    assert said[0].startswith("training the dense baseline, kept in ")


def test_second_candidate_takes_the_dense_baseline_of_the_first(tmp_path: Path) -> None:
    said: list[str] = []
    made = [
        crossfront.compress(TINY, tmp_path / name, say=said.append, candidate={"nonzeros": count})
        for name, count in (("one", 10), ("two", 5))
    ]
    assert [line.split(",")[0] for line in said if "baseline" in line] == [
        "training the dense baseline",
        "measuring the dense baseline",
    ]
    assert made[0].dense == made[1].dense
    assert len(list((tmp_path / ".crossfront").iterdir())) == 1


@pytest.mark.parametrize("content", [None, b"junk"])
def test_checkpoint_is_looked_at_before_anything_is_said_to_be_trained(
    tmp_path: Path, content: bytes | None
) -> None:
    file, said = tmp_path / "weights.pt", list[str]()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.pt: no"):
        crossfront.compress(
            {**TINY, "network": {**TINY["network"], "checkpoint": str(file)}},
            tmp_path / "out",
            say=said.append,
        )
    assert said == []


def test_folder_that_is_taken_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(CheckpointError, match="holds something else"):
        crossfront.compress(TINY, tmp_path / "out")


def test_export_of_another_trial_is_replaced_by_force_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(tmp_path / "studies")
    for accuracy, cost in ((0.85, 0.5), (0.8, 0.3)):
        try_one(study, done(accuracy, cost))
    written: list[Mapping[str, Any]] = []

    def write(source: Path, target: Path, samples: object, facts: Mapping[str, Any]) -> None:
        target.mkdir(exist_ok=True)
        parts = {"format": 1, "network": {}, "layers": {}, "digests": {}}
        (target / MANIFEST).write_text(json.dumps({**parts, **facts}))
        written.append(facts["study"])

    monkeypatch.setattr("trainers.export.export_folder", write)
    for select in ("0", "0", "accuracy"):  # the same trial, however it is chosen
        crossfront.export(study, tmp_path / "out", select=select)
    with pytest.raises(CheckpointError, match=r"another export \(trial 0 of study tiny\); allowed"):
        crossfront.export(study, tmp_path / "out", select="1")
    crossfront.export(study, tmp_path / "out", select="1", force=True)
    assert [facts["trial"] for facts in written] == [0, 0, 0, 1]


def test_settings_come_from_files_tables_and_keywords(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[study]\nname = "mine"\ntrials = 7\n')
    config = crossfront.configure(tmp_path / "study.toml", study={"trials": 9})
    assert (config.study.name, config.study.trials) == ("mine", 9)
    assert crossfront.configure(TINY, train={"epochs": 3}).train.train_count == 200
    assert crossfront.configure(config) is config
    with pytest.raises(ConfigError, match=r"study.trials is 0"):
        crossfront.configure(TINY, study={"trials": 0})


def test_study_is_read_while_another_process_drives_it(tmp_path: Path) -> None:
    driven = new_study(tmp_path, trials=5)
    driven.join()
    watched = crossfront.open_study(driven.folder.name, tmp_path)
    assert crossfront.pareto(watched) == []
    number = try_one(driven, done(0.85, 0.5))
    assert [member["number"] for member in crossfront.pareto(watched)] == [number]
    assert watched.unended() == []
    driven.leave()


def test_second_search_goes_on_with_a_study_of_the_same_settings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_study(tmp_path, trials=5)
    try_one(first, done(0.85, 0.5))
    driven: list[int] = []
    monkeypatch.setattr("search.run.run_study", lambda study, display: driven.append(study.spent))
    config = first.config.to_json()
    again = crossfront.search(config, storage=tmp_path, load_if_exists=True)
    assert (again.spent, driven) == (1, [1])
    with pytest.raises(StudyError, match=r"trials is 5 there, 9 here.*\(resume in Python\)"):
        crossfront.search(config, storage=tmp_path, load_if_exists=True, study={"trials": 9})
    with pytest.raises(StudyError, match="study 'tiny' exists"):
        crossfront.search(config, storage=tmp_path)


def test_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study 'none'"):
        crossfront.open_study("none", tmp_path)


@pytest.mark.ray
def test_ten_lines_search_and_export(tmp_path: Path) -> None:
    study = crossfront.search(
        TINY,
        storage=tmp_path,
        study={"name": "api", "trials": 2, "sampler": "random"},
        ray={"workers": 1},
    )
    assert study.spent == 2
    assert crossfront.pareto(study)
    trial = crossfront.export(study, tmp_path / "best", select="accuracy", samples=20)
    assert crossfront.verify(tmp_path / "best", images=4).ok
    assert trial.number in [member["number"] for member in crossfront.pareto(study)]
    again = crossfront.resume("api", storage=tmp_path, study={"trials": 3})
    assert again.spent == 3
