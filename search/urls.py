"""URLs of databases and servers as they may be shown."""

import re

__all__ = ["shown"]


def shown(text: str) -> str:
    """A text without the passwords in its URLs."""
    return re.sub(r"(//[^:/@\s]*:)[^@/\s]*@", r"\1***@", text)
