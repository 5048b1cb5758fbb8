"""Front members as MLflow's own models: logged models, and versions in its registry.

A model is the torch.export program of the finalised integer network in plain operators, as `export`
writes it. MLflow loads it with torch alone, as data: none of our code, and nothing pickled.
"""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwmodel.errors import CheckpointError, TrackingError
from search.urls import shown

__all__ = ["MODEL_NAME", "drop_models", "log_model", "register_model"]

MODEL_NAME = "network"
_READY = "READY"


def log_model(client: Any, run: Any, folder: Path, images: Any) -> None:
    """Logs a run's model, with signature and input example, unless it is there.

    Args:
        client: MLflow's.
        run: the run of the trial.
        folder: its checkpoint.
        images: an input example, float32 `[images, channels, height, width]` in 0..1.

    Raises:
        CheckpointError: an unreadable checkpoint, or a model that computes something else.
    """
    import mlflow

    models = _models(client, run)
    if any(str(model.status) == _READY for model in models):
        return
    run_id = run.info.run_id
    with tempfile.TemporaryDirectory() as scratch:
        model = (
            models[0]
            if models
            else client.create_logged_model(
                run.info.experiment_id,
                name=MODEL_NAME,
                source_run_id=run_id,
                params=run.data.params,
                model_type="finalised integer network",
            )
        )
        entry = mlflow.models.Model(
            artifact_path=model.artifact_location, run_id=run_id, model_id=model.model_id
        )
        _save(entry, folder, images, Path(scratch) / "model")
        client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
    output = mlflow.entities.LoggedModelOutput(model.model_id, step=0)
    client.log_outputs(run_id, [output])
    client.log_batch(
        run_id,
        metrics=[
            mlflow.entities.Metric(
                key, value, run.info.end_time, 0, model_id=model.model_id, run_id=run_id
            )
            for key, value in run.data.metrics.items()
        ],
    )
    client.finalize_logged_model(model.model_id, _READY)


def drop_models(client: Any, uri: str, run: Any) -> None:
    """Deletes a run's models and their files, but none that the registry has a version of."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    models = _models(client, run)
    if not models or _versions(client, run.info.run_id):
        return
    for model in models:
        place = get_artifact_repository(model.artifact_location, tracking_uri=uri)
        if place.list_artifacts():
            place.delete_artifacts()
        client.delete_logged_model(model.model_id)


def register_model(client: Any, uri: str, run_id: str, name: str) -> int:
    """Makes a run's model the newest version of a registered model.

    Returns:
        The version; that which there is, if the run's model is one already.

    Raises:
        TrackingError: the run has no model, or the registry refuses.
    """
    import mlflow

    try:
        run = client.get_run(run_id)
        ready = [m for m in _models(client, run) if str(m.status) == _READY]
        if not ready:
            raise TrackingError(
                f"tracking store {shown(uri)}: run {run_id} has no model yet; front members get "
                "theirs when the search ends"
            )
        for version in _versions(client, run_id):
            if version.name == name:
                return int(version.version)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(
            name, ready[0].model_uri, run_id=run_id, model_id=ready[0].model_id
        )
    except mlflow.exceptions.MlflowException as error:
        text = shown(" ".join(str(error).split()))[:300]
        raise TrackingError(f"model registry of {shown(uri)}: {text}") from None
    return int(made.version)


def _models(client: Any, run: Any) -> Sequence[Any]:
    query = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models([run.info.experiment_id], query))


def _versions(client: Any, run_id: str) -> Sequence[Any]:
    return list(client.search_model_versions(f"run_id = '{run_id}'"))


def _save(entry: Any, folder: Path, images: Any, target: Path) -> None:
    """Writes the model's files, and proves that what is loaded from them is the checkpoint."""
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from trainers.checkpoint import load_checkpoint
    from trainers.export import plain_network, prove

    checkpoint = load_checkpoint(folder)
    with torch.no_grad():
        expected = checkpoint.network(images)
    example = images.numpy()
    signature = ModelSignature(
        inputs=Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        outputs=Schema([TensorSpec(example.dtype, (-1, expected.shape[1]))]),
    )
    plain = plain_network(checkpoint.network, images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            mlflow.pytorch.save_model(
                plain,
                target,
                mlflow_model=entry,
                signature=signature,
                input_example=example,
                serialization_format="pt2",
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
            )
            found = mlflow.pytorch.load_model(str(target))(images)
        except Exception as error:  # whatever torch.export cannot trace; no store is asked here
            raise CheckpointError(f"{folder}: {' '.join(str(error).split())[:300]}") from None
    prove("MLflow model's", expected, found)
