"""The page of a spectrum: one HTML file that needs nothing but itself."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from causalseg.report.charts import Chart, draw_power
from causalseg.report.format import Value, known_values
from causalseg.report.gallery import data_uri
from causalseg.report.template import load_template
from causalseg.writing import write_text

_CURVES = 4  # blocks whose power is drawn
_WIDTH = 360  # pixels of a picture

Matrix = Sequence[Sequence[Value]]


class HeatTable(NamedTuple):
    """Numbers by block and ring; a cell is (text, shade in percent, whether it is negative)."""

    title: str
    heads: list[str]
    rows: list[tuple[str, list[tuple[str, int, bool]]]]
    is_signed: bool


def write_spectrum(
    content: Mapping[str, Any], pictures: Mapping[str, list[tuple[str, Image.Image]]], out: Path
) -> None:
    """Write the page of what `causalseg spectrum` measured; ``content`` is spectrum.json."""
    shown = {
        name: [(title, _encode(image)) for title, image in parts]
        for name, parts in pictures.items()
    }
    html = load_template("spectrum.html").render(
        s=content,
        power=_draw_blocks(content),
        shift=_tables(content["shift"], content),
        auc=_tables({n: e["auc"] for n, e in content["unpaired"].items()}, content, (0.5, 1.0)),
        mixing=_tables({n: e["mixing"] for n, e in content["unpaired"].items()}, content, (0, 1)),
        classes=_class_tables(content),
        interventions=_intervention_tables(content),
        transfer=_transfer_tables(content),
        outliers=_outlier_tables(content),
        positions=_position_tables(content),
        pictures=shown,
        ranges=[_name_ring(content, ring) for ring in range(len(content["coefficients"]))],
    )
    write_text(out, html)


def _draw_blocks(content: Mapping[str, Any]) -> dict[str, Chart]:
    """Draw the power of every set after some blocks, evenly spaced to the last."""
    sets = content["sets"]
    depth = len(sets["source"]["power"])
    blocks = sorted({-(-depth * part // _CURVES) - 1 for part in range(1, _CURVES + 1)})
    charts = {}
    for block in blocks:
        curves = {
            name: [each[block] for each in (entry["power"], *entry["power_interval"])]
            for name, entry in sets.items()
        }
        charts[f"block {block}"] = draw_power(curves, content["edges"])
    return charts


def _tables(
    matrices: Mapping[str, Matrix],
    content: Mapping[str, Any],
    span: tuple[float, float] | None = None,
) -> list[HeatTable]:
    """Return a table of each matrix, all with one scale."""
    if not matrices:
        return []
    values = [v for rows in matrices.values() for row in rows for v in known_values(row)]
    low, high = span or (0.0, max(values, default=1.0))
    return [_table(name, rows, content, (low, high)) for name, rows in matrices.items()]


def _class_tables(content: Mapping[str, Any]) -> list[HeatTable]:
    classes = content["classes"]
    if classes is None:
        return []
    lost = [
        [None if v is None else v - whole for v in row]
        for row, whole in zip(classes["without"], classes["all"], strict=True)
    ]
    fisher = classes["fisher"]
    return [
        *_tables({"Fisher's ratio J": fisher}, content),
        *_tables({"mIoU of a probe on the ring alone": classes["alone"]}, content),
        _table("mIoU without the ring, less that with all", lost, content, None),
    ]


def _intervention_tables(content: Mapping[str, Any]) -> dict[str, list[HeatTable]]:
    """Return the tables of every gain, all with one scale, by domain."""
    entries = content["interventions"] or {}
    largest = _largest(rows for e in entries.values() for rows in e["change"].values())
    return {
        name: [
            _table(f"times {gain}", rows, content, None, largest)
            for gain, rows in entry["change"].items()
        ]
        for name, entry in entries.items()
    }


def _transfer_tables(content: Mapping[str, Any]) -> list[HeatTable]:
    transfer = content["transfer"]
    if transfer is None:
        return []
    change = [[None if v is None else v - 1 for v in row] for row in transfer["gain"]]
    return [
        _table("H - 1: how much of the ring is added along it", change, content, None),
        *_tables({"A: energy of the edit over that of the ring": transfer["added"]}, content),
    ]


def _outlier_tables(content: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Return by set rows of block, share in percent, angle, norm of outliers and of others."""
    tables = []
    for name, entry in content["sets"].items():
        found = entry["outliers"]
        rows = []
        columns = (found["share"], found["angle"], found["norm"], found["norm_of_others"])
        for block, (share, angle, norm, others) in enumerate(zip(*columns, strict=True)):
            if share:
                row = [f"{100 * share:.2f}", f"{angle:.0f}", f"{norm:.1f}", f"{others:.1f}"]
                rows.append([str(block), *row])
        tables.append((name, rows))
    return tables


def _position_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Return pictures of where outliers are after the block with most of them."""
    pictures = {}
    for name, entry in content["sets"].items():
        rows = entry["outliers"]["positions"]
        largest = max(max(row) for row in rows)
        if not largest:
            continue
        image = Image.new("L", (len(rows[0]), len(rows)))
        image.putdata([round(255 * v / largest) for row in rows for v in row])
        scale = max(1, 240 // image.width)
        large = image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)
        block = entry["outliers"]["positions_block"]
        pictures[f"{name}, block {block}; white: {100 * largest:.0f} % of the images"] = _encode(
            large
        )
    return pictures


def _table(
    title: str,
    rows: Matrix,
    content: Mapping[str, Any],
    span: tuple[float, float] | None,
    largest: float | None = None,
) -> HeatTable:
    """Return a table with shades over ``span``, or of signed numbers up to the largest."""
    is_signed = span is None
    largest = largest or _largest([rows])
    lines = []
    for block, row in enumerate(rows):
        cells = []
        for value in row:
            if value is None:
                cells.append(("–", 0, False))
                continue
            if span is None:
                share = abs(value) / largest
            else:
                share = (value - span[0]) / max(span[1] - span[0], 1e-12)
            text = _write(value, is_signed)
            cells.append((text, round(100 * min(1.0, max(0.0, share))), value < 0))
        lines.append((str(block), cells))
    heads = [_name_ring(content, ring) for ring in range(len(rows[0]))]
    return HeatTable(title, heads, lines, is_signed)


def _largest(matrices: Iterable[Matrix]) -> float:
    values = [abs(v) for rows in matrices for row in rows for v in known_values(row)]
    return max(values, default=0.0) or 1.0


def _write(value: float, is_signed: bool) -> str:
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 0.095 else 3
    text = f"{value:+.{digits}f}" if is_signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _name_ring(content: Mapping[str, Any], ring: int) -> str:
    low, high = content["edges"][ring : ring + 2]
    return f"{low:.2f}–{high:.2f}"


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    if image.width < _WIDTH // 2:  # a grid of patches
        scale = max(1, _WIDTH // image.width)
        size = (scale * image.width, scale * image.height)
        image = image.resize(size, Image.Resampling.NEAREST)
    elif image.width > _WIDTH:
        image = image.resize((_WIDTH, round(image.height * _WIDTH / image.width)))
    image.save(buffer, "PNG", optimize=True)
    return data_uri("png", buffer.getvalue())
