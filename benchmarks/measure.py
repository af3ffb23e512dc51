"""How every benchmark measures: candidates in turn, round after round, and ratios within a round.

A machine that changes its speed changes both sides of such a ratio; the result is the median over
rounds.
On a CPU the time is that of the process, which leaves out what other processes take; on a CUDA card
it is the clock's, after the card has finished.

A benchmark is a function that returns rows: a dict of the case and its figures. `tell` prints them
as a table with the targets they are held against, and writes them as JSON where asked.
"""

import argparse
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from causalseg.build.model import build_segmenter
from causalseg.config.load import parse_config
from causalseg.engine.devices import find_precision
from causalseg.model import Segmenter
from causalseg.writing import write_json

PRECISIONS = ("auto", "32-true", "bf16-mixed")
Row = dict[str, Any]
Times = dict[str, list[float]]


class Target(NamedTuple):
    """The most that a figure of a case may be."""

    case: str
    figure: str
    limit: float


def interleave(runs: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> Times:
    """Time every run once a round, in seconds; a first round warms up and is not kept."""
    times: Times = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = now(device)
            run()
            if number:
                times[name].append(now(device) - start)
    return times


def now(device: str) -> float:
    """Return the seconds of this process, or of the clock once a CUDA card is idle."""
    if device != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def ratio(times: Times, name: str, base: str) -> float:
    """Return the median over rounds of one time over another."""
    pairs = zip(times[name], times[base], strict=True)
    return statistics.median(own / other for own, other in pairs)


def median(times: Times, name: str) -> float:
    """Return the median seconds."""
    return statistics.median(times[name])


def build(*overrides: str, **adapter: Any) -> Segmenter:
    """Build a ViT-S/14 with random weights, a linear head and 19 classes."""
    options = {
        "backbone": {"name": "dinov2_vits14", "weights": "random"},
        "adapter": adapter or "none",
        "head": "linear",
        "data": {"classes": "cityscapes19", "sources": [], "domains": {}},
    }
    return build_segmenter(parse_config(options, overrides)).train()


def is_bf16(precision: str, device: str) -> bool:
    """Say whether a precision is bfloat16 here; auto is the faster one of this machine."""
    assert precision in PRECISIONS
    return find_precision(precision, device) == "bf16-mixed"  # type: ignore[arg-type]


def step(model: Segmenter, images: Tensor, labels: Tensor, bf16: bool) -> None:
    """Run forward pass, loss and backward pass."""
    model.zero_grad()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        loss = model.loss(images, labels)
    loss.backward()


def check(rows: Sequence[Row], targets: Sequence[Target]) -> list[Row]:
    """Compare figures with their targets; those of cases that were not measured are left out."""
    found = {row["case"]: row for row in rows}
    return [
        {**target._asdict(), "value": value, "held": value <= target.limit}
        for target in targets
        if (value := found.get(target.case, {}).get(target.figure)) is not None
    ]


def make_parser(doc: str, rounds: int = 5) -> argparse.ArgumentParser:
    """Return a parser with the options that benchmarks share."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def tell(about: str, rows: Sequence[Row], targets: Sequence[Target], file: Path | None) -> None:
    """Print rows and targets, and write them where asked."""
    checked = check(rows, targets)
    print(f"{about}\n\n{table(rows)}")
    for row in checked:
        word = "held" if row["held"] else "NOT HELD"
        print(f"target: {row['case']} {row['figure']} {row['value']} <= {row['limit']}: {word}")
    if file:
        write_json(file, {"about": about, "rows": list(rows), "targets": checked})


def table(rows: Sequence[Row]) -> str:
    """Return rows as text, a column for each figure that any of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([str(row.get(key, "-")) for key in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def describe_machine(device: str) -> Row:
    """Say what the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.is_file() else "")
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "precision": find_precision("auto", device),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
