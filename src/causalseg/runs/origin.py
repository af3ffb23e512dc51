"""The origin of a run: versions, machine, device, precision."""

import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from causalseg.version import __version__

_VERSIONS = ("torch", "timm", "transformers", "peft", "lightning-fabric")


def list_versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that it computes with."""
    return {"causalseg": __version__, **{name: version(name) for name in _VERSIONS}}


def describe_platform() -> str:
    """Return operating system and processor family."""
    return f"{platform.system()} {platform.machine()}"


def describe_origin(fabric: Fabric) -> dict[str, Any]:
    """Return versions, machine, name of the device and precision."""
    return {
        "versions": list_versions(),
        "machine": describe_platform(),
        "device": _device_name(fabric.device),
        "precision": fabric.strategy.precision.precision,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    name = match[1].strip() if match else platform.processor()
    return f"{device.type} ({name})" if name else device.type
