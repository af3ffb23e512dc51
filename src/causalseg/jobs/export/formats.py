"""What a window model is written as, and how such a file is run here."""

import json
import logging
import shlex
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from causalseg.build.window import WindowModel
from causalseg.errors import ConfigError, import_extra
from causalseg.heads.gathering import gathering
from causalseg.jobs.export.images import Pixels
from causalseg.jobs.export.precision import Precision, lower_onnx, quantize

INPUT, OUTPUTS = "images", ["classes", "confidence"]
_MOST_IN_BATCH = 8  # of the recipes
Outputs = tuple[Int[np.ndarray, "b H W"], Float[np.ndarray, "b H W"]]
Runner = Callable[[Pixels], Outputs]
"""Runs an exported file."""


class Order(NamedTuple):
    """What is to be written.

    ``calibration`` are images for int8; ``about`` is kept in the file.
    """

    model: WindowModel
    about: dict[str, Any]
    precision: Precision = "float32"
    calibration: Sequence[Pixels] = ()


class Format(NamedTuple):
    """How a format is written and run; its file, or folder if empty, has that ending."""

    ending: str
    write: Callable[[Order, Path], None]
    run: Callable[[Path], Runner]


def _program(model: WindowModel) -> torch.export.ExportedProgram:
    images = torch.zeros(2, *model.size, 3, dtype=torch.uint8)
    dynamic = {INPUT: {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad(), gathering():
        return torch.export.export(model, (images,), dynamic_shapes=dynamic)


def _write_torch(order: Order, file: Path) -> None:
    if order.precision != "float32":
        raise ConfigError(
            f"a torch file is float32, not {order.precision}: take onnx or openvino, or "
            "torch.autocast around the file"
        )
    about = {"about.json": json.dumps(order.about)}
    torch.export.save(_program(order.model), file, extra_files=about)


def _write_onnx(order: Order, file: Path) -> None:
    onnx, _ = (import_extra("export", name) for name in ("onnx", "onnxscript"))
    for talkative in ("onnxscript", "onnx_ir"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    names = {"input_names": [INPUT], "output_names": OUTPUTS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        made = torch.onnx.export(_program(order.model), dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert made is not None
    made.save(str(file))
    content = onnx.load(str(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if order.precision != "float32":
            content = lower_onnx(content, order.precision, order.calibration)
    for key, value in order.about.items():
        content.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(content, str(file))


def _write_openvino(order: Order, file: Path) -> None:
    openvino = import_extra("export", "openvino")
    with tempfile.TemporaryDirectory() as name:
        _write_onnx(order._replace(precision="float32"), Path(name) / "x.onnx")
        converted = openvino.convert_model(str(Path(name) / "x.onnx"))
    if order.precision == "int8":
        converted = quantize(converted, order.calibration)
    for key, value in order.about.items():
        converted.set_rt_info(json.dumps(value), ["causalseg", key])
    openvino.save_model(converted, str(file), compress_to_fp16=order.precision == "float16")


def _write_tensorrt(order: Order, file: Path) -> None:
    """Write an ONNX file and the command that builds an engine of it."""
    _write_onnx(order, file.with_suffix(".onnx"))
    shape = "x".join(map(str, (*order.model.size, 3)))
    batches = {"min": 1, "opt": min(4, _MOST_IN_BATCH), "max": _MOST_IN_BATCH}
    options = [f"--{name}Shapes={INPUT}:{count}x{shape}" for name, count in batches.items()]
    stem = shlex.quote(file.stem)
    lines = [
        "#!/bin/sh",
        "# Builds an engine with TensorRT 10 or later, on the GPU that is to run it.",
        "set -e",
        'cd "$(dirname "$0")"',
        f"trtexec --onnx={stem}.onnx --saveEngine={stem}.engine --stronglyTyped \\",
        f"    {' '.join(options)}",
    ]
    file.write_text("\n".join(lines) + "\n")


def _write_triton(order: Order, folder: Path) -> None:
    """Write a model repository's folder of one model for NVIDIA Triton: 1/model.onnx and how."""
    (folder / "1").mkdir(parents=True)
    _write_onnx(order, folder / "1" / "model.onnx")
    h, w = order.model.size
    (folder / "config.pbtxt").write_text(
        f'name: "{folder.name}"\n'
        'backend: "onnxruntime"\n'
        f"max_batch_size: {_MOST_IN_BATCH}\n"
        f'input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {h}, {w}, 3 ] }} ]\n'
        "output [\n"
        f'  {{ name: "{OUTPUTS[0]}" data_type: TYPE_UINT8 dims: [ {h}, {w} ] }},\n'
        f'  {{ name: "{OUTPUTS[1]}" data_type: TYPE_FP32 dims: [ {h}, {w} ] }}\n'
        "]\n"
        "dynamic_batching { max_queue_delay_microseconds: 5000 }\n"
    )


def _run_torch(file: Path) -> Runner:
    program = torch.export.load(file).module()

    def run(pixels: Pixels) -> Outputs:
        classes, confidence = program(torch.from_numpy(pixels))
        return classes.numpy(), confidence.numpy()

    return run


def _run_onnx(file: Path) -> Runner:
    onnxruntime = import_extra("export", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return lambda pixels: tuple(session.run(OUTPUTS, {INPUT: pixels}))


def _run_openvino(file: Path) -> Runner:
    openvino = import_extra("export", "openvino")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    options["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    compiled = openvino.Core().compile_model(str(file), "CPU", options)

    def run(pixels: Pixels) -> Outputs:
        outputs = compiled(pixels)
        return outputs[0], outputs[1]

    return run


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _run_onnx),
    "openvino": Format(".xml", _write_openvino, _run_openvino),
    "torch": Format(".pt2", _write_torch, _run_torch),
    "tensorrt-recipe": Format(
        ".sh", _write_tensorrt, lambda file: _run_onnx(file.with_suffix(".onnx"))
    ),
    "triton": Format("", _write_triton, lambda folder: _run_onnx(folder / "1" / "model.onnx")),
}
