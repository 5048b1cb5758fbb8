"""Which device trains, and what it can do."""

import torch

from hwmodel.errors import ConfigError

__all__ = ["multiplies_bfloat16", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The torch device of a setting; `auto` is a GPU where there is one.

    Raises:
        ConfigError: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # each backend has its own way to say that it is absent
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"train.device is {name!r}; not usable here: {reason}") from None
    if device.type == "meta":
        raise ConfigError("train.device is 'meta'; allowed: a device that holds data")
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return True
