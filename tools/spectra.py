"""The tables of docs/spectrum.md, made from results/spectrum/*.json."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from causalseg.report.format import format_markdown

START, END = "<!-- spectra:start -->", "<!-- spectra:end -->"
_BLOCKS = (0, 2, 5, 8, 11)
Value = float | None


def spectrum_page(page: Path, folder: Path) -> str:
    """Return the page with its tables; those without a file are left out."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    frozen = {name: each for name, each in found.items() if each["adapter"] == "none"}
    trained = {name: each for name, each in found.items() if each["transfer"]}
    parts = [part for name, each in frozen.items() for part in _describe_frozen(name, each)]
    parts += _describe_trained(trained)
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    return "\n".join([before + START, *parts, END + after])


def _describe_frozen(name: str, found: dict[str, Any]) -> list[str]:
    height, width = found["size"]
    counts = ", ".join(f"{each} {entry['images']}" for each, entry in found["sets"].items())
    about = (
        f"Frozen {found['model']}, images of {width} × {height} pixels: {counts}; corruptions of "
        f"severity {found['severity']}. {found['verdict']['sentence']}"
    )
    rings, heads = found["verdict"]["rings"], _heads(found)
    rows = [
        [title, *_row([100 * ring[key][0] for ring in rings], "{:.1f}")]
        for title, key in (
            ("class information, % of the richest ring", "classes"),
            ("missed by a probe, % of its mIoU", "missed"),
        )
    ]
    rows.append(["shift, 1 is all rings", *_row([ring["shift"][0] for ring in rings])])
    rows.append(["non-causal", *("yes" if ring["is_non_causal"] else "no" for ring in rings)])
    last = [[f"S, {each}, last block", *_row(m[-1])] for each, m in found["shift"].items()]
    first = [[f"S, {each}, block 0", *_row(m[0])] for each, m in found["shift"].items()]
    unpaired = [
        [f"AUC, {each}, last block", *_row(entry["auc"][-1])]
        for each, entry in found["unpaired"].items()
        if each not in found["shift"]
    ]
    shift = format_markdown(["", *heads], [*first, *last, *unpaired])
    verdict = format_markdown(["mean over blocks", *heads], rows)
    return [f"**{name}**: {about}", "", verdict, "", shift, ""]


def _describe_trained(trained: dict[str, dict[str, Any]]) -> list[str]:
    if not trained:
        return []
    rows, heads = [], _heads(next(iter(trained.values())))
    for name, found in trained.items():
        for block in _BLOCKS:
            gain, added = (found["transfer"][key][block] for key in ("gain", "added"))
            cells = [f"{h:.2f} / {100 * a:.1f}" for h, a in zip(gain, added, strict=True)]
            rows.append([name, str(block), *cells, f"{found['transfer']['spike'][block]:.1f}"])
    table = format_markdown(["run", "block", *heads, "spike at (0, 0)"], rows)
    return ["**What adapters do**, H / A in percent:", "", table, "", *_describe_use(trained)]


def _describe_use(trained: dict[str, dict[str, Any]]) -> list[str]:
    """Return the change of the mIoU where a ring is removed, for runs that were scored so."""
    parts = []
    for name, found in trained.items():
        for domain, entry in (found["interventions"] or {}).items():
            matrix = entry["change"]["0.0"]
            rows = [[str(block), *_row(matrix[block], "{:+.1f}")] for block in _BLOCKS]
            title = f"**{name}, {domain}**: mIoU {entry['miou']:.1f} on {entry['images']} images"
            table = format_markdown(["block", *_heads(found)], rows)
            parts += [f"{title}; change in points without a ring after a block:", "", table, ""]
    return parts


def _heads(found: dict[str, Any]) -> list[str]:
    edges = found["edges"]
    return [f"{low:.2f}–{high:.2f}" for low, high in itertools.pairwise(edges)]


def _row(values: Sequence[Value], text: str = "{:.2f}") -> list[str]:
    """Return numbers as texts; those that round to 0 have no sign."""
    shown = ["–" if value is None else text.format(value) for value in values]
    unsigned = [each.lstrip("-") if set(each) <= set("-0.") else each for each in shown]
    return [each.replace("-", "−") for each in unsigned]
