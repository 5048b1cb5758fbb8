import json
import os
import platform
import socket
from importlib.metadata import version

import pytest

from search import environment


def test_environment_names_versions_and_machine() -> None:
    found = environment.describe_environment()
    assert set(found) == {"python", "system", "cpus", "packages"}
    assert found["python"] == platform.python_version()
    assert found["cpus"] == os.cpu_count()
    for package in ("torch", "ray", "optuna", "mlflow"):
        assert found["packages"][package] == version(package)
    assert environment.crossfront_version() == version("crossfront")


def test_environment_is_plain_json_without_host_or_user() -> None:
    text = json.dumps(environment.describe_environment())
    assert socket.gethostname() not in text
    assert os.path.expanduser("~") not in text


def test_package_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("no-such-package",))
    assert environment.describe_environment()["packages"] == {"no-such-package": "not installed"}
