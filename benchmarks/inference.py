"""What prediction costs: windows in batches, the whole image at once, exported files, and memory.

    python benchmarks/inference.py [--large] [--rounds 3] [--json FILE]

ViT-S with random weights and 19 classes, CPU time of one thread. Windows: of 512 with patches of
16, as many at once as the case says, over one at a time. Whole: an image of 1036 x 518 at once,
over windows of 518 with a stride of 345. Files: Causal-Tune with a linear head at 518 x 518, by
ONNX Runtime and OpenVINO in float32, over torch.

Memory: an image of 800 x 600 in windows of 518, and with ``--large`` of 4000 x 3000, where the
scores alone take 0.91 GB. Each head is run in a process of its own, which tells the most memory it
ever held.
"""

import importlib.util
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

import measure
from causalseg.build.window import WindowModel
from causalseg.config.inference import InferenceConfig
from causalseg.engine.infer import predict
from causalseg.engine.meter import peak_memory
from causalseg.jobs.export.formats import FORMATS, Order
from causalseg.jobs.export.job import run_model
from measure import Row, Target

ABOUT = "Prediction with ViT-S and 19 classes, one thread."
LIMIT = 4.0  # GB
HEADS = ("linear", "mask2former")
BATCHES = (1, 2, 4)
LARGE, SMALL = (3000, 4000), (600, 800)  # height, width
SIDE, STRIDE = 518, 345
FILES = {"onnx": "onnxruntime", "openvino": "openvino"}
TARGETS = [Target(f"{head}, windows of 4000 × 3000", "peak GB", LIMIT) for head in HEADS]


def random_image(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def peak_of(head: str, size: tuple[int, int]) -> float:
    """Predict one image in this process and return the most memory it ever held, in GB."""
    torch.set_num_threads(1)
    model = measure.build(f"head={head}").eval()
    how = InferenceConfig(window=(SIDE, SIDE), stride=(STRIDE, STRIDE))
    predict(model, random_image(*size), how)
    return peak_memory(torch.device("cpu")) / 1e3


def measure_memory(size: tuple[int, int]) -> list[Row]:
    """Return a row for each head; first of all, since a process starts with its parent's peak."""
    rows = []
    for head in HEADS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            peak = pool.submit(peak_of, head, size).result()
        case = f"{head}, windows of {size[1]} × {size[0]}"
        rows.append({"case": case, "peak GB": round(peak, 2)})
    return rows


def measure_windows(rounds: int) -> list[Row]:
    """Time windows side by side, some at once."""
    model = measure.build("backbone.patch=16", "train.crop=[512, 512]").eval()
    image = random_image(512, 512 * max(BATCHES))
    how = InferenceConfig(window=(512, 512), stride=(512, 512))
    counts = {f"{count} windows at once": count for count in BATCHES}
    runs = {
        name: partial(predict, model, image, how.model_copy(update={"windows_at_once": count}))
        for name, count in counts.items()
    }
    times = measure.interleave(runs, rounds)
    return [
        {"case": name, "ratio": round(measure.ratio(times, name, "1 windows at once"), 3)}
        for name in list(runs)[1:]
    ]


def measure_whole(rounds: int) -> list[Row]:
    """Time an image at once over its windows."""
    model, image = measure.build().eval(), random_image(SIDE, 2 * SIDE)
    windows = InferenceConfig(window=(SIDE, SIDE), stride=(STRIDE, STRIDE))
    runs = {
        "whole": lambda: predict(model, image, InferenceConfig(mode="whole")),
        "windows": lambda: predict(model, image, windows),
    }
    ratio = measure.ratio(measure.interleave(runs, rounds), "whole", "windows")
    return [{"case": "whole / windows, 1036 × 518", "ratio": round(ratio, 3)}]


def measure_files(rounds: int) -> list[Row]:
    """Time exported files over the model."""
    model = WindowModel(measure.build(name="causal_tune"), (SIDE, SIDE))
    pixels = (255 * random_image(SIDE, SIDE)).byte().movedim(0, -1)[None].numpy()
    runners = {"torch": run_model(model)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, package in FILES.items():
            if importlib.util.find_spec(package) is None:
                rows.append({"case": f"{name} / torch", "ratio": "not installed"})
                continue
            file = Path(folder) / f"model{FORMATS[name].ending}"
            FORMATS[name].write(Order(model, {}), file)
            runners[name] = FORMATS[name].run(file)
        runs = {name: (lambda run=run: run(pixels)) for name, run in runners.items()}
        times = measure.interleave(runs, rounds)
    for name in list(runners)[1:]:
        ratio = round(measure.ratio(times, name, "torch"), 3)
        rows.append({"case": f"{name} / torch", "ratio": ratio})
    return rows


def main() -> None:
    parser = measure.make_parser(__doc__, rounds=3)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    rows = [row for size in (SMALL, LARGE)[: 1 + options.large] for row in measure_memory(size)]
    torch.set_num_threads(1)
    for part in (measure_windows, measure_whole, measure_files):
        rows += part(options.rounds)
    measure.tell(ABOUT, rows, TARGETS, options.json)


if __name__ == "__main__":
    main()
