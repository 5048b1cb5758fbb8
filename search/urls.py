"""URLs of databases, servers and object stores: how they may be shown, and what they may say."""

import re
from urllib.parse import parse_qsl, urlsplit

from hwmodel.errors import ConfigError

__all__ = ["check_object_store", "shown"]

_S3_OPTIONS = (
    *("endpoint_override", "region", "scheme"),
    *("allow_delayed_open", "tls_ca_file_path", "tls_verify_certificates"),
)
"""Those of pyarrow that say where and how, and not who."""


def shown(text: str) -> str:
    """A text without the passwords in its URLs."""
    return re.sub(r"(//[^:/@\s]*:)[^@/\s]*@", r"\1***@", text)


def check_object_store(name: str, uri: str) -> None:
    """Holds an object store's URI against the forms that are allowed.

    Args:
        name: of the setting.
        uri: `s3://BUCKET/PREFIX?OPTION=VALUE&...` or `file:///FOLDER`.

    Raises:
        ConfigError: another form, or one that holds a login, which is not shown.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = urlsplit("")
    options = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    unknown = [key for key in options if parts.scheme != "s3" or key not in _S3_OPTIONS]
    if "@" in uri or any(re.search("key|secret|token|password", key) for key in unknown):
        raise ConfigError(
            f"{name} holds a login, which every reader of the study would see; allowed: none, but "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of every node"
        )
    if unknown:
        allowed = ", ".join(_S3_OPTIONS) if parts.scheme == "s3" else "none"
        raise ConfigError(f"{name} has the option {unknown[0]!r}; allowed: {allowed}")
    folder = parts.scheme == "file" and not parts.netloc and parts.path.startswith("/")
    if not folder and not (parts.scheme == "s3" and parts.netloc):
        raise ConfigError(
            f"{name} is {uri!r}; allowed: s3://BUCKET/PREFIX, with ?endpoint_override=HOST:PORT "
            "for a store of your own, or file:///FOLDER"
        )
