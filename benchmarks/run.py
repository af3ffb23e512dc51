"""Run all benchmarks, one after the other, and write one file and one page.

    python benchmarks/run.py [NAME ...] [--device cuda] [--json benchmarks/bench.json]

Each is a script of its own, in a process of its own, with its quick settings. The ones named, or
all, are measured; those of the file that are not, stay in it. `python tools/tables.py` makes
docs/speed.md from it. Exit code 1 if a script fails; a target that is not held is reported.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
from causalseg.writing import write_json

HERE = Path(__file__).parent
ON_CARD = ("step", "memory")  # that take --device
NAMES = (
    *ON_CARD,
    *("adapter", "scaling", "peers", "inference", "evaluation", "loader"),
    *("attention", "spectrum", "scenes", "corruptions"),
)


def run_script(name: str, device: str) -> dict[str, Any] | None:
    """Run one benchmark on one thread; None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file)]
        command += ["--device", device] if name in ON_CARD else []
        threads = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
        start = time.perf_counter()
        done = subprocess.run(command, env={**os.environ, **threads}, check=False)
        if done.returncode:
            return None
        seconds = round(time.perf_counter() - start)
        return {"seconds": seconds, **json.loads(file.read_text(encoding="utf-8"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, default=HERE / "bench.json")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: allowed are {', '.join(NAMES)}")
    found, failed = {}, []
    if options.names and options.json.is_file():
        found = json.loads(options.json.read_text(encoding="utf-8"))["benchmarks"]
    for name in options.names or NAMES:
        print(f"\n== {name}", flush=True)
        result = run_script(name, options.device)
        if result is None:
            failed.append(name)
        else:
            found[name] = result
        ordered = {each: found[each] for each in NAMES if each in found}
        machine = measure.describe_machine(options.device)
        write_json(options.json, {"machine": machine, "benchmarks": ordered})
    missed = [
        f"{name}: {row['case']} {row['figure']} {row['value']} > {row['limit']}"
        for name, result in found.items()
        for row in result["targets"]
        if not row["held"]
    ]
    print(f"\n{options.json}; targets not held: {'; '.join(missed) or 'none'}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else None)


if __name__ == "__main__":
    main()
