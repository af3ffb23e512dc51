"""From a folder of images and labels to a trained model and predictions.

The folders hold synthetic scenes, and the backbone is timm's tiny `test_vit` with random weights,
so the example runs in seconds without a network. With your own folders and
`backbone: {name: dinov2_vits14, weights: hub}` the steps are the same; as commands:

    causalseg train CONFIG
    causalseg predict RUN IMAGES --out PREDICTIONS
"""

import tempfile
from pathlib import Path

from causalseg.config.load import load_config
from causalseg.data.export import write_scenes
from causalseg.jobs.predict import predict_run
from causalseg.jobs.train import train_run

CONFIG = """
backbone: {name: test_vit, weights: random}
adapter: {name: causal_tune, num_tokens: 20, rank: 4}
head: linear
data:
  root: ROOT
  classes: clear/classes.json
  sources: [{images: clear/images, labels: clear/labels}]
  domains:
    night: {images: night/images, labels: night/labels}
    fog: {images: fog/images, labels: fog/labels}
train: {steps: 5, batch: 2, crop: [96, 128], lr: 1.0e-2, workers: 0}
eval: {mode: whole}
run: {out: ROOT/run, log_every: 1, accelerator: cpu, threads: 1}
"""


def main(root: Path) -> None:
    """Write data and configuration to ``root``, train, and predict."""
    for domain, first, count in (("clear", 100, 6), ("night", 0, 3), ("fog", 0, 3)):
        write_scenes(root / domain, domain, range(first, first + count), (120, 160))
    file = root / "config.yaml"
    file.write_text(CONFIG.replace("ROOT", str(root)), encoding="utf-8")

    run = train_run(load_config(file))
    for domain, scores in run.read_json(run.eval)["domains"].items():
        print(f"{domain}: mIoU {scores['miou']:.1f} % of {scores['images']} images")

    predicted = predict_run(run.path, root / "night" / "images", root / "predictions")
    print(f"{predicted.now} predictions, report {run.report.name}, card {run.card.name}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
