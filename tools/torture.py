"""Break runs, configurations, images and run files at random, and count what goes wrong.

    python tools/torture.py                    everything, under 20 minutes on two cores
    python tools/torture.py --share 0.01 --seed 3

Each attack makes its input from the seed and its number. Wrong is an exception that is none of the
package's own errors (a user would see a traceback), more than `SLOW` seconds, and a training that
says success after a kill but ends in other weights.
"""

import argparse
import contextlib
import io
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from causalseg.build.data import build_data
from causalseg.build.model import check_method
from causalseg.config.load import load_config
from causalseg.data.dataset import read_image
from causalseg.data.labels import IdLabels
from causalseg.errors import CausalsegError
from causalseg.jobs.eval import eval_run
from causalseg.jobs.train import train_run
from causalseg.report import write_report
from causalseg.runs.folder import RunFolder

COUNTS = {"kills": 200, "configs": 3000, "images": 5000, "runs": 300}
SLOW = 30.0  # seconds
ODD_VALUES = """null true -1 0 1 2 7 1e9 1e400 -1e400 .nan .inf 0.5 2.5 99999999999999999999 '' a ~
[] [1] [1,2] [a,b] [[1]] {} {a: 1} {name: x} 2020-01-01 2020-13-45 !!python/object:os.system
'\\0' *a &a 0x1f 1_000 'é' '../..' /dev/null nul [-1,0] [0.5,1e9] {1: 2} !!binary aGk= 12:30:45 =
<<""".split()  # noqa: SIM905
ODD_BYTES = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[[[",
    b"\xff\xfe\x00",
    b"\x00" * 64,
    b'{"a": NaN}',
    b"1e999",
)


def make_data(folder: Path) -> Path:
    """Write three small images and labels, and return the configuration of a tiny run."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        ids = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
        Image.fromarray(ids).save(folder / "labels" / f"{index}.png")
        Image.fromarray(np.stack([80 * ids] * 3, -1)).save(folder / "images" / f"{index}.png")
    pair = {"images": "images", "labels": "labels"}
    config = {
        "backbone": {"name": "test_vit", "weights": "random"},
        "adapter": {"name": "causal_tune", "num_tokens": 4, "rank": 2},
        "head": "linear",
        "data": {
            "root": str(folder),
            "classes": ["flat", "thing", "sky"],
            "sources": [pair],
            "domains": {"here": pair},
        },
        "train": {"steps": 6, "batch": 2, "crop": [32, 48], "workers": 0},
        "eval": {"mode": "whole", "pictures": 1},
        "run": {"out": str(folder / "run"), "precision": "32-true", "save_every": 1, "threads": 1},
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def attack_kills(config: Path, rng: random.Random) -> str:
    """Kill a training at a random moment, go on, and compare the weights."""
    out = config.parent / f"killed{rng.getrandbits(32)}"
    reference = RunFolder(config.parent / "run")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            train_run(load_config(config, [f"run.out={out}"]))
        os._exit(0)
    time.sleep(rng.random() * 1.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run = RunFolder(out)
    try:
        resume = "true" if run.checkpoint.is_file() else "false"
        if run.checkpoint.is_file() or not run.head.is_file():
            train_run(load_config(config, [f"run.out={out}", f"run.resume={resume}"]))
        for name in ("adapter", "head"):
            ours, theirs = load_file(getattr(run, name)), load_file(getattr(reference, name))
            if not all(torch.equal(ours[key], theirs[key]) for key in theirs):
                return "other weights"
        return "right"
    except CausalsegError as error:  # nothing was wrong with the run but the kill
        print(f"kills: {error}")
        return "lost"
    finally:
        shutil.rmtree(out, ignore_errors=True)


def attack_configs(config: Path, rng: random.Random) -> str:
    """Set one to three options, known or not, to odd values, or break the file's bytes."""
    keys, overrides = _keys(yaml.safe_load(config.read_text())), []
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([*keys, "train.clip", "adapter.band", "data.ignore", "head.norm", "x", ""])
        overrides.append(f"{key}={rng.choice(ODD_VALUES)}")
    file = config.parent / "odd.yaml"
    file.write_bytes(
        _damage(config.read_bytes(), rng) if rng.random() < 0.3 else config.read_bytes()
    )
    parsed = load_config(file, overrides)
    check_method(parsed)
    build_data(parsed.data, parsed.inference)
    return "accepted"


def attack_images(config: Path, rng: random.Random) -> str:
    """Read an image or label of odd kind, or with damaged bytes."""
    file = config.parent / f"odd.{rng.choice(('png', 'jpg', 'tif', 'bmp', 'webp'))}"
    mode = rng.choice(("L", "RGB", "RGBA", "P", "1", "LA", "I;16", "I", "F", "CMYK"))
    size = rng.choice(((1, 1), (3, 2), (64, 48), (1, 500)))
    content = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(file.suffix[1:], file.suffix[1:].upper())
    try:
        Image.new(mode, size).save(content, rng.choice((kind, "PNG", "GIF", "EPS", "PPM")))
    except (OSError, ValueError, KeyError):  # no such file can be
        content.write(rng.choice(ODD_BYTES))
    file.write_bytes(_damage(content.getvalue(), rng) if rng.random() < 0.7 else content.getvalue())
    if rng.random() < 0.5:
        read_image(file)
    else:
        reader = IdLabels({0: 0, 1: 1, 2: 2, 255: 255}, "fix it", rng.random() < 0.5)
        reader.to_train_ids(reader.read(file.read_bytes(), file.name), file.name)
    return "accepted"


def attack_runs(config: Path, rng: random.Random) -> str:
    """Damage one file of a finished run, then score it, report it or go on with it."""
    run = RunFolder(config.parent / "damaged")
    shutil.rmtree(run.path, ignore_errors=True)
    shutil.copytree(config.parent / "run", run.path)
    files = [file for file in sorted(run.path.rglob("*")) if file.is_file()]
    file = rng.choice([each for each in files if each.suffix not in (".md", ".html", ".lock")])
    content = _damage(file.read_bytes(), rng)
    file.unlink()
    file.write_bytes(content)
    match rng.randrange(3):
        case 0:
            eval_run(run.path, ["eval.pictures=0"])
        case 1:
            write_report([run], run.path / "again.html")
        case _:
            options = [f"run.out={run.path}", "run.resume=true", "train.steps=6"]
            train_run(load_config(config, options))
    return "accepted"


_WRONG = ("traceback", "slow", "other weights", "lost")
ATTACKS: dict[str, Callable[[Path, random.Random], str]] = {
    "kills": attack_kills,
    "configs": attack_configs,
    "images": attack_images,
    "runs": attack_runs,
}


def _keys(options: Any, prefix: str = "") -> Iterator[str]:
    for key, value in options.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")


def _damage(content: bytes, rng: random.Random) -> bytes:
    """Cut bytes short, change some, or put others in their place."""
    match rng.randrange(4):
        case 0:
            return content[: rng.randrange(len(content) + 1)]
        case 1:
            changed = bytearray(content)
            for _ in range(min(len(changed), rng.randint(1, 8))):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            return bytes(changed)
        case 2:
            return rng.choice(ODD_BYTES)
        case _:
            at = rng.randrange(len(content) + 1)
            return content[:at] + rng.choice(ODD_BYTES) + content[at:]


def torture(kind: str, count: int, seed: int) -> Counter[str]:
    """Return how often each outcome came; print what went wrong, with its number."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged images, by Pillow
        config = make_data(Path(folder) / "data")
        if kind in ("kills", "runs"):
            train_run(load_config(config))
        for number in range(count):
            rng, began = random.Random(f"{kind} {seed} {number}"), time.perf_counter()
            try:
                outcome = ATTACKS[kind](config, rng)
            except CausalsegError:
                outcome = "refused"
            except OSError as error:  # the command line reports these too
                outcome = "refused" if error.strerror or error.args else "traceback"
            except Exception:  # noqa: BLE001  # what is looked for
                outcome = "traceback"
                print(f"{kind} {number}: {traceback.format_exc(limit=-3)}", flush=True)
            if time.perf_counter() - began > SLOW:
                outcome = "slow"
            if outcome in ("other weights", "slow", "lost"):
                print(f"{kind} {number}: {outcome}", flush=True)
            outcomes[outcome] += 1
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the full numbers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*ATTACKS], help="one kind of attack")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("causalseg").setLevel(logging.CRITICAL)
    wrong = 0
    for kind in [options.only] if options.only else ATTACKS:
        count, began = max(1, round(COUNTS[kind] * options.share)), time.perf_counter()
        outcomes = torture(kind, count, options.seed)
        wrong += sum(outcomes[key] for key in _WRONG)
        told = ", ".join(f"{number} {key}" for key, number in sorted(outcomes.items()))
        print(f"{kind}: {count} in {time.perf_counter() - began:.0f} s: {told}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
