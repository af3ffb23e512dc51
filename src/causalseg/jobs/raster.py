"""Predict a georeferenced TIFF of any size, window by window, into TIFFs of the same place.

Windows overlap by half; of each the middle is written, so that a pixel has context on all sides.
Needs rasterio.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import TiffImagePlugin

from causalseg.build.loaded import LoadedModel
from causalseg.data.classes import IGNORE
from causalseg.engine.infer import window_starts
from causalseg.errors import DataError, import_extra
from causalseg.writing import replacing, write_json

_GEO_KEYS, _BIG = 34735, 43  # tag of the georeference; version of a TIFF beyond 4 GB
_SIDE = 1024  # pixels of a window, where the run says nothing
_BLOCK = 256  # pixels of a tile in the files written


class Part(NamedTuple):
    """A window in pixels, and what of it is written."""

    rows: slice
    columns: slice
    kept_rows: slice
    kept_columns: slice


def is_raster(file: Path) -> bool:
    """Say whether a file is a TIFF with a georeference."""
    if file.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with file.open("rb") as content:
            header = content.read(8)
            header += content.read(8) if header[2] == _BIG else b""
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            content.seek(tags.next)
            tags.load(content)
        return _GEO_KEYS in tags
    except (OSError, SyntaxError, IndexError, struct.error):
        return False  # whoever reads it says what is wrong


def file_of_raster(folder: Path, kind: str, name: str) -> Path:
    """Return the file of a kind of output."""
    return folder / kind / f"{name}.{'json' if kind == 'shares' else 'tif'}"


def predict_raster(
    model: LoadedModel, file: Path, out: Path, name: str, kinds: Sequence[str]
) -> None:
    """Predict the first three bands, 8 bits each, into ``out/KIND/NAME.tif``.

    Reference, size and mask are kept; where the source has no data, label ids are the one that is
    ignored. Raises ConfigError without rasterio, DataError if the file cannot be read.
    """
    rasterio = import_extra("raster", "rasterio")
    try:
        with rasterio.open(file) as source, ExitStack() as stack:
            if source.count < 3 or source.dtypes[0] != "uint8":
                raise DataError(
                    f"{file} has {source.count} bands of {source.dtypes[0]}: three of uint8 are "
                    "needed, red, green and blue"
                )
            writers: dict[str, Any] = {}
            for kind in (kind for kind in kinds if kind != "shares"):
                place = stack.enter_context(replacing(file_of_raster(out, kind, name)))
                writers[kind] = stack.enter_context(_create(rasterio, source, place, kind, model))
            counts = _predict_parts(rasterio, model, source, writers)
    except rasterio.errors.RasterioError as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if "shares" in kinds:
        total = max(1, sum(counts.values()))
        shares = {model.classes.names[i]: n / total for i, n in counts.most_common()}
        write_json(file_of_raster(out, "shares", name), shares)


def _predict_parts(
    rasterio: Any, model: LoadedModel, source: Any, writers: dict[str, Any]
) -> Counter[int]:
    counts: Counter[int] = Counter()
    for part in _parts((source.height, source.width), _window(model)):
        window = rasterio.windows.Window.from_slices(part.rows, part.columns)
        try:
            pixels = np.moveaxis(source.read((1, 2, 3), window=window), 0, -1)
            there: Bool[np.ndarray, "h w"] = source.dataset_mask(window=window) > 0
        except rasterio.errors.RasterioError as error:  # an OSError, but not of what is written
            raise DataError(f"cannot read {source.name}: {error}") from error
        prediction = model.predict(pixels)
        inside = (part.kept_rows, part.kept_columns)
        kept = tuple(
            slice(whole.start + own.start, whole.start + own.stop)
            for whole, own in zip((part.rows, part.columns), inside, strict=True)
        )
        target = rasterio.windows.Window.from_slices(*kept)
        for kind, writer in writers.items():
            shown = np.atleast_3d(np.array(prediction.picture(kind)))
            picture = shown.astype(writer.dtypes[0])
            picture[~there] = _empty(model, kind)
            writer.write(np.moveaxis(picture[inside], -1, 0), window=target)
        labels = prediction.labels[inside][there[inside]]
        counts.update(dict(enumerate(np.bincount(labels, minlength=1).tolist())))
    return +counts  # without zeros


def _create(rasterio: Any, source: Any, place: Path, kind: str, model: LoadedModel) -> Any:
    bands = 3 if kind in ("overlays", "colours") else 1
    highest = max(*model.classes.ids, _empty(model, kind)) if kind == "predictions" else 0
    dtype = "uint16" if highest > 255 else "uint8"
    return rasterio.open(
        place,
        "w",
        driver="GTiff",
        width=source.width,
        height=source.height,
        count=bands,
        dtype=dtype,
        crs=source.crs,
        transform=source.transform,
        nodata=_empty(model, kind) if kind == "predictions" else None,
        compress="deflate",
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        bigtiff="if_safer",
    )


def _empty(model: LoadedModel, kind: str) -> int:
    if kind != "predictions":
        return 0
    ids = model.classes.ids
    return next(i for i in (*model.classes.ignore, IGNORE, 2**16 - 1) if i not in ids)


def _window(model: LoadedModel) -> tuple[int, int]:
    """Return the size to which the run resizes, so that it does not, or its window."""
    how = model.config.inference.resolve()
    return how.size or how.window or (_SIDE, _SIDE)


def _parts(size: tuple[int, int], window: tuple[int, int]) -> Iterator[Part]:
    rows, columns = (list(_cuts(n, w)) for n, w in zip(size, window, strict=True))
    for whole_rows, kept_rows in rows:
        for whole_columns, kept_columns in columns:
            yield Part(whole_rows, whole_columns, kept_rows, kept_columns)


def _cuts(length: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Yield windows of one axis and what is kept of each; kept parts fill the axis once."""
    starts = window_starts(length, window, max(1, window // 2)) if length > window else [0]
    begin = 0
    for i, start in enumerate(starts):
        stop = min(start + window, length)
        last = i + 1 == len(starts)
        end = length if last else (starts[i + 1] + stop) // 2  # the middle of the overlap
        yield slice(start, stop), slice(begin - start, end - start)
        begin = end
