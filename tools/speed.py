"""The figures of docs/speed.md, made from benchmarks/bench.json; none is typed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from causalseg.report.format import format_markdown

START, END = "<!-- speed:start -->", "<!-- speed:end -->"
Figures = dict[str, dict[str, Any]]  # of a benchmark, by case


def speed_page(page: Path, file: Path) -> str:
    """Return the page with the figures of a file of `make bench`."""
    bench = json.loads(file.read_text(encoding="utf-8"))
    found = {
        name: {row["case"]: row for row in result["rows"]}
        for name, result in bench["benchmarks"].items()
    }
    machine = bench["machine"]
    about = (
        f"{machine['cpu']}, {machine['cores']} cores, device {machine['device']}, precision "
        f"{machine['precision']}, torch {machine['torch']}, Python {machine['python']}."
    )
    parts = [about, "## What limits you", "\n".join(_limits(found))]
    if "memory" in found:
        parts += ["## What fits", *_memory(found["memory"])]
    parts += ["## Targets", _targets(bench["benchmarks"]), "## All figures"]
    for name, result in bench["benchmarks"].items():
        parts += [f"### {name}", result["about"], _table(result["rows"])]
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    return f"{before}{START}\n\n" + "\n\n".join(parts) + f"\n\n{END}{rest.partition(END)[2]}"


def _limits(found: dict[str, Figures]) -> Iterator[str]:
    """Yield a sentence for each part whose figures are there."""
    if "step" in found:
        ours, head = found["step"]["causal_tune"], found["step"]["head only"]
        yield (
            f"- **The step.** With Causal-Tune it takes {ours['/floor']:.2f} of the floor, which "
            "is the forward pass of the frozen model and the way of a gradient back to its first "
            f"block, and {ours['/lora']:.2f} of a step with LoRA of equal size; without a gradient "
            f"through the model, with the head alone, {head['/floor']:.2f} of the floor."
        )
    if "loader" in found and "step" in found:
        rate = found["loader"]["1 workers"]["images/s"]
        step = 4000 / found["step"]["causal_tune"]["ms"]
        yield (
            f"- **Loading.** One worker loads {rate:.1f} images a second, as crops of 512 from "
            f"PNG images of 2048 × 1024; the step above trains {step:.1f}, of 336 × 252, in the "
            "same time. The log of a training says which fraction of its time it waited for data."
        )
    if "evaluation" in found:
        counts = sum(row["ms"] for row in found["evaluation"].values())
        yield (
            "- **Evaluation.** Counting an image of 2048 × 1024 for the scores takes "
            f"{counts:.0f} ms."
        )
    if "peers" in found:
        peers = found["peers"]
        heads = [peers[name]["step/lora"] for name in ("causal_tune, mask2former", "causal_tune")]
        yield (
            f"- **The head.** With Mask2Former a step takes {heads[0] / heads[1]:.1f} times as "
            "long as with the linear head."
        )


def _memory(rows: Figures) -> Iterator[str]:
    """Yield the rule: what is fixed, and what each image adds."""
    yield (
        "A step needs about the fixed part and, for each image of 512 × 512, the rest, in GB; "
        "the context of a card comes on top."
    )
    lines = []
    for case, row in rows.items():
        cells = [case]
        for how in ("", ", checkpointing"):
            one, four = row[f"batch 1{how}"], row[f"batch 4{how}"]
            image = (four - one) / 3
            cells.append(f"{max(0, one - image):.2f} + {image:.2f} × images")
        lines.append(cells)
    yield format_markdown(["model, method", "GB", "GB with activation checkpointing"], lines)


def _targets(benchmarks: dict[str, Any]) -> str:
    rows = [
        [name, row["case"], row["figure"], str(row["value"]), str(row["limit"]), _held(row)]
        for name, result in benchmarks.items()
        for row in result["targets"]
    ]
    return format_markdown(["benchmark", "case", "figure", "measured", "at most", ""], rows)


def _held(row: dict[str, Any]) -> str:
    return "held" if row["held"] else "**not held**"


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return format_markdown(columns, [[_cell(row.get(key)) for key in columns] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)
