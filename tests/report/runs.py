"""Run folders that nobody trained, as training and scoring write them, and readers of a page."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from causalseg.engine import metrics
from causalseg.engine.bootstrap import interval
from causalseg.report import write_report
from causalseg.runs.folder import RunFolder
from causalseg.runs.scores import Scores, write_scores
from fabricated import NAMES, PALETTE, make_scores

IMAGES = 6


def make_domain(share, names=NAMES, first=0, **about):
    """Scores of images in which about ``share`` of the pixels are right; the last class is absent.

    What is wrong is predicted as the next class, the last class included.
    """
    k, rng = len(names), np.random.default_rng(first)
    confusions = np.zeros((IMAGES, k, k + 1), dtype=np.int64)
    for c in range(k - 1):
        truth = rng.integers(100, 1000, IMAGES)
        right = (truth * np.clip(share + rng.normal(0, 0.05, IMAGES), 0, 1)).astype(int)
        confusions[:, c, c], confusions[:, c, c + 1] = right, truth - right
    confusions, images = torch.from_numpy(confusions), [f"image{first + i}" for i in range(IMAGES)]
    total, rows = confusions.sum(0), metrics.write_counts(metrics.count_pixels(confusions))
    reliability = torch.zeros(3, metrics.BINS, dtype=torch.float64)
    reliability[:, -3:] = torch.tensor([[50.0, 30.0, 20.0], [42.0, 27.0, 19.0], [40.0, 24.0, 15.0]])
    return {
        "images": IMAGES,
        "size": [48, 64],
        **about,
        **metrics.score(total, names),
        **metrics.score_boundary(metrics.count_pixels(total) // 2, total.sum(1) > 0, names),
        "calibration": metrics.calibration(reliability),
        "miou_interval": interval([metrics.read_counts(rows)], [images]),
        "per_image": {"names": images, "counts": rows},
    }


def make_sliding_scores(*args):
    """The content of eval.json of a run that was scored in windows."""
    windows = {"mode": "slide", "window": [32, 40], "stride": [21, 26], "blend": "mean"}
    scores = make_scores(*args)
    return {**scores, "inference": {**scores["inference"], **windows}}


def make_run(path, domains, adapter="causal_tune", over=None, names=NAMES):
    """A run folder with a log and pictures of the first two images of the first domain."""
    run = RunFolder(Path(path))
    run.path.mkdir(parents=True)
    train = {"steps": 20, "batch": 4, "crop": [32, 40]}
    config = {"train": train, "eval": {"limit": 2}, "run": {"seed": 7}}
    run.config.write_text(yaml.safe_dump(config))
    scores = make_sliding_scores(domains, adapter, over, names)
    write_scores(run, Scores.model_validate(scores))
    events = []
    for step in (10, 20):
        values = {"loss": 3.0 / step, "class": 1.0 / step, "mask": 2.0 / step, "lr": 1e-4}
        events.append({"event": "train", "step": step, **values, "data_wait": 0.0})
        mious = dict.fromkeys(domains)
        events.append({"event": "eval", "step": step, "miou": {**mious, "mean": 3.0 * step}})
    run.log.write_text("".join(json.dumps(event) + "\n" for event in events))
    first = next(iter(domains))
    for name in domains[first]["per_image"]["names"][:2]:
        add_picture(run, first, name, names)
    return run


def add_picture(run, domain, name, names=NAMES, size=(48, 800)):
    """Road, with a strip that is not labelled; the right half is predicted as sky."""
    folder = run.pictures / domain
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    truth = np.zeros(size, np.uint8)
    truth[: size[0] // 4] = 255
    prediction = truth.copy()
    prediction[:, size[1] // 2 :] = 1
    Image.new("RGB", size[::-1], (200, 200, 200)).save(folder / f"{name}_image.png")
    for kind, ids in (("truth", truth), ("prediction", prediction)):
        picture = Image.fromarray(ids)
        palette = np.pad(np.uint8(PALETTE[: len(names)]), ((0, 256 - len(names)), (0, 0)))
        picture.putpalette(palette.tobytes())
        picture.save(folder / f"{name}_{kind}.png")


def make_two(folder):
    """A frozen backbone and an adapter that is better by night, on the same images."""
    runs = []
    for name, adapter, shares in (("base", "none", (0.8, 0.5)), ("tuned", "rein", (0.78, 0.7))):
        domains = {"day": make_domain(shares[0]), "night": make_domain(shares[1], first=100)}
        runs.append(make_run(folder / name, domains, adapter, ["night"]))
    return runs


def make_corrupted(folder):
    """Two runs on a clean domain and on the same in fog."""
    about = {"corruption": {"name": "fog", "severity": 2, "clean": "day"}}
    runs = []
    for name, shares in (("none", (0.8, 0.4)), ("rein", (0.8, 0.6))):
        domains = {"day": make_domain(shares[0]), "day_fog": make_domain(shares[1], **about)}
        runs.append(make_run(folder / name, domains, name, ["day_fog"]))
    return runs


def edit(run, change):
    """Change the content of eval.json in place, as if it had been written so."""
    run.checksums.unlink(missing_ok=True)
    scores = json.loads(run.eval.read_text())
    change(scores)
    run.eval.write_text(json.dumps(scores))


def html_of(runs, folder, baseline=None):
    write_report(runs, folder / "page.html", baseline)
    return (folder / "page.html").read_text(encoding="utf-8")


def text_of(html):
    """The readable text: no tags, single spaces."""
    body = re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", body)


def images_of(html, kind):
    """The pixels of all pictures of a kind, such as png."""
    found = re.findall(rf'src="data:image/{kind};base64,([^"]+)"', html)
    files = [io.BytesIO(base64.b64decode(data)) for data in found]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


class _Tables(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tables, self.region, self.cell = {}, "", None

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if attributes.get("role") == "region":
            self.region = attributes["aria-label"]
        elif tag == "tr":
            self.tables.setdefault(self.region, []).append([])
        elif tag in ("td", "th"):
            self.cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self.cell is not None:
            self.tables[self.region][-1].append(" ".join(self.cell))
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None and data.strip():
            self.cell.append(data.strip())


def tables_of(html):
    """The texts of cells by row and column, of each table by the name of its region."""
    parser = _Tables()
    parser.feed(html)
    return parser.tables


class Outside(HTMLParser):
    """Collects what would be loaded from elsewhere, and pictures and regions without a name."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("link", "iframe", "object") or (tag == "script" and given):
            self.found.append(tag)
        for name in ("src", "href", "srcset"):
            value = given.get(name)
            if value is not None and not value.startswith(("data:image/", "#")):
                self.found.append(f"{tag} {name}={value}")
        if tag == "img" and not given.get("alt"):
            self.found.append("img without alt")
        if given.get("tabindex") == "0" and not given.get("aria-label"):
            self.found.append(f"{tag} without a name")
