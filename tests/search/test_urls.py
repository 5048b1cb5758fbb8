import pytest

from hwmodel.errors import ConfigError
from search.urls import check_object_store, shown


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://bucket/a/prefix?region=eu-central-1",
        "s3://bucket?endpoint_override=minio:9000&scheme=http&tls_verify_certificates=false",
        "file:///shared/networks",
    ],
)
def test_buckets_and_folders_are_object_stores(uri: str) -> None:
    check_object_store("study.storage_path", uri)


@pytest.mark.parametrize(
    "uri", ["", "bucket", "/shared", "s3://", "s3:///prefix", "file://host/a", "http://[", "gs://b"]
)
def test_other_forms_name_those_that_are_allowed(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^here is '.*'; allowed: s3://BUCKET/PREFIX"):
        check_object_store("here", uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:s3cr3t@bucket/prefix",
        "s3://AKIA:s3c/r3t@bucket/prefix",
        "s3://bucket?secret_key=s3cr3t",
        "s3://bucket?access_key=s3cr3t",
        "s3://bucket?session_token=s3cr3t",
    ],
)
def test_login_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^here holds a login.*AWS_ACCESS_KEY_ID") as caught:
        check_object_store("here", uri)
    assert "r3t" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"option 'colour'; allowed: endpoint_override, region"):
        check_object_store("here", "s3://bucket?colour=red")
    with pytest.raises(ConfigError, match=r"option 'region'; allowed: none"):
        check_object_store("here", "file:///folder?region=x")


def test_password_of_a_url_is_not_shown() -> None:
    assert shown("at postgresql://me:pass@host/db") == "at postgresql://me:***@host/db"
