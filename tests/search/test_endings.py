from pathlib import Path

from search.endings import Endings
from search.trials import status
from tests.search.fakes import DENSE_VALUES, Ladder, done, new_study, price, try_one


def test_each_ending_is_told_once(tmp_path: Path) -> None:
    study, endings = new_study(tmp_path), Endings()
    assert endings.look(study.trials()) == []
    running = study.propose(Ladder(), price, DENSE_VALUES)
    assert running is not None
    study.enqueue([{"x": 3}])
    ended = try_one(study, done(0.8, 0.5))  # what was queued
    assert [trial.number for trial in endings.look(study.trials())] == [ended]
    assert [(t.number, status(t)) for t in endings.unended] == [(running.number, "running")]
    assert endings.look(study.trials()) == []
    study.finish(running.number, done(0.7, 0.4))
    (found,) = endings.look(study.trials())
    assert (found.number, status(found)) == (running.number, "complete")
    assert endings.unended == []
