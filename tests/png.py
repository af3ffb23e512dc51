"""PNG files of kinds that Pillow cannot write."""

import struct
import zlib

import numpy as np


def encode_png(width: int, bits: int, colour: int, rows: list[bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    for kind, data in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


def encode_16_bit(pixels) -> bytes:
    """PNG of several 16-bit channels."""
    _, W, channels = np.shape(pixels)
    rows = [row.tobytes() for row in np.asarray(pixels).astype(">u2")]
    return encode_png(W, 16, {2: 4, 3: 2, 4: 6}[channels], rows)
