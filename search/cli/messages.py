"""What every command prints: JSON for programs, messages on standard error."""

import json
import math
import sys
from typing import Any

__all__ = ["print_json", "say"]


def say(text: str) -> None:
    """One message on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_json(content: Any) -> None:
    """JSON alone on standard output; numbers that JSON has no word for become null."""
    print(json.dumps(_finite(content), indent=2))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
