"""Without torch: python examples/onnx_predict.py model.onnx photo.jpg classes.png, any size."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def starts(length: int, window: int) -> list[int]:
    """Return where windows begin that overlap by at least a third; the last ends at the edge."""
    count = 1 + -(-max(0, length - window) // (2 * window // 3))
    return [round(i * max(0, length - window) / max(1, count - 1)) for i in range(count)]


def main(model: str, photo: str, out: str) -> None:
    """Take the most confident class where windows overlap."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    (h, w), palette = json.loads(about["size"]), json.loads(about["palette"])
    image = np.asarray(Image.open(photo).convert("RGB"))
    H, W, _ = image.shape
    padded = np.pad(image, ((0, max(0, h - H)), (0, max(0, w - W)), (0, 0)), mode="edge")
    classes = np.zeros(padded.shape[:2], np.uint8)
    best = np.full(padded.shape[:2], -1.0, np.float32)
    for top in starts(len(padded), h):
        for left in starts(padded.shape[1], w):
            here = np.s_[top : top + h, left : left + w]
            found, confidence = (x[0] for x in session.run(None, {"images": padded[here][None]}))
            classes[here] = np.where(confidence > best[here], found, classes[here])
            best[here] = np.maximum(confidence, best[here])
    picture = Image.fromarray(classes[:H, :W])
    picture.putpalette(np.ravel(palette).tolist())
    picture.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
