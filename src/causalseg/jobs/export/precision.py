"""Fewer bits for exported files: float16, and int8 calibrated on training images.

int8 is the post-training quantization of NNCF for transformers: SmoothQuant moves large activations
into the weights before both get 8 bits (Xiao et al., ICML 2023).
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from causalseg.errors import import_extra
from causalseg.jobs.export.images import Pixels

Precision = Literal["float32", "float16", "int8"]
_IN_FLOAT32 = ("Softmax", "LayerNormalization", "Cast")  # in float16 files


def lower_onnx(content: Any, precision: Precision, calibration: Sequence[Pixels]) -> Any:
    """Return an ONNX model in float16 or int8, with the inputs and outputs it had."""
    if precision == "int8":
        return quantize(content, [{"images": pixels} for pixels in calibration])
    float16 = import_extra("export", "onnxruntime.transformers.float16")
    kept = [*float16.DEFAULT_OP_BLOCK_LIST, *_IN_FLOAT32]
    return float16.convert_float_to_float16(content, keep_io_types=True, op_block_list=kept)


def quantize(model: Any, calibration: Sequence[Any]) -> Any:
    """Return an ONNX or OpenVINO model in int8."""
    for talkative in ("nncf", "torch.utils.cpp_extension"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    nncf = import_extra("export", "nncf")
    data, kind = nncf.Dataset(list(calibration)), nncf.ModelType.TRANSFORMER
    return nncf.quantize(model, data, subset_size=len(calibration), model_type=kind)
