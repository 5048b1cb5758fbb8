"""Front members as MLflow's models: what is loaded computes what the checkpoint does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from hwmodel.crossbar import SignEncoding
from hwmodel.errors import TrackingError
from search.study import Study
from search.tracking import MlflowMirror, mirrored_runs, register_member, tracking_uri
from tests.search.fakes import done, new_study, try_one
from tests.trainers.test_export import save
from tests.trainers.toys import CONV_NET, MLP, toy_images
from trainers.checkpoint import load_checkpoint
from trainers.data import Dataset


@pytest.fixture(scope="module")
def dataset() -> Dataset[Any]:
    return Dataset(name="toys", train=toy_images(), test=toy_images(8, seed=1))


@pytest.fixture
def study(storage: Path) -> Study:
    study = new_study(storage)
    for number, (accuracy, cost, network) in enumerate(((0.8, 0.5, CONV_NET), (0.7, 0.3, MLP))):
        assert try_one(study, done(accuracy, cost)) == number
        save(study.folder.checkpoint(number), network, SignEncoding.DIFFERENTIAL)
    return study


@pytest.fixture(autouse=True)
def _here(study: Study) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri(study))
    yield
    mlflow.set_tracking_uri(before)


def finish(study: Study, dataset: Dataset[Any]) -> None:
    mirror = MlflowMirror(study)
    assert mirror.finish({}, complete=True, dataset=dataset)
    mirror.close()


def models_of(study: Study) -> dict[int, Any]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(study.config.mlflow.experiment)
    runs = {run_id: number for number, run_id in mirrored_runs(study).items()}
    found = client.search_logged_models([experiment.experiment_id])
    assert len({model.source_run_id for model in found}) == len(found)
    return {runs[model.source_run_id]: model for model in found}


def test_loaded_model_computes_what_the_checkpoint_does(
    study: Study, dataset: Dataset[Any]
) -> None:
    finish(study, dataset)
    finish(Study.open(study.folder), dataset)  # makes no second model
    models = models_of(study)
    assert sorted(models) == [0, 1]
    images = dataset.test.images.float().div(255)
    for number, model in models.items():
        assert str(model.status) == "READY"
        network = load_checkpoint(study.folder.checkpoint(number)).network
        with torch.no_grad():
            expected = network(images)
        run_id = mirrored_runs(study)[number]
        uri = f"runs:/{run_id}/network"
        found = mlflow.pytorch.load_model(uri)(images)
        assert torch.equal(found.argmax(1), expected.argmax(1))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        loaded = mlflow.pyfunc.load_model(uri)
        torch.testing.assert_close(
            torch.from_numpy(loaded.predict(images.numpy())), expected, rtol=1e-4, atol=1e-4
        )
        assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, *images.shape[1:])
        assert loaded.input_example.shape[1:] == tuple(images.shape[1:])
        run = mlflow.MlflowClient().get_run(run_id)
        assert [m.model_id for m in run.outputs.model_outputs] == [model.model_id]
        assert {i.dataset.name for i in run.inputs.dataset_inputs} == {"toys train", "toys test"}


def test_model_leaves_with_its_trial_unless_it_is_registered(
    study: Study, dataset: Dataset[Any]
) -> None:
    finish(study, dataset)
    kept, dropped = models_of(study)[0], models_of(study)[1]
    member = study.trials()[0]
    assert register_member(study, member, "best") == 1
    assert register_member(study, member, "best") == 1
    again = Study.open(study.folder)
    assert try_one(again, done(0.95, 0.1)) == 2
    finish(again, dataset)
    assert sorted(models_of(again)) == [0]
    assert not list(Path(dropped.artifact_location.removeprefix("file://")).glob("**/*.pt2"))
    assert list(Path(kept.artifact_location.removeprefix("file://")).glob("**/*.pt2"))
    images = dataset.test.images.float().div(255)
    assert mlflow.pytorch.load_model("models:/best/1")(images).shape[0] == len(images)


def test_member_without_a_model_cannot_be_registered(study: Study) -> None:
    mirror = MlflowMirror(study)
    mirror.flush()
    mirror.close()
    with pytest.raises(TrackingError, match="has no model yet"):
        register_member(study, study.trials()[0], "best")


def test_checkpoint_that_cannot_be_read_is_said_and_left_out(
    study: Study, dataset: Dataset[Any], caplog: pytest.LogCaptureFixture
) -> None:
    (study.folder.checkpoint(0) / "manifest.json").write_text("{}")
    finish(study, dataset)
    assert "trial 0 has no model in MLflow" in caplog.text
    assert [n for n, m in models_of(study).items() if str(m.status) == "READY"] == [1]
