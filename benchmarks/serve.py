"""A crowd at the server: 50 clients for a minute, what they were answered, and its memory.

    python benchmarks/serve.py RUN [--clients 50] [--seconds 60] [--json FILE]

Every client sends a synthetic scene of 480 x 360 pixels, waits for the answer and sends it again;
after 429 it waits as long as the answer says. Linux alone: memory is read from /proc.
"""

import argparse
import io
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
from PIL import Image

from causalseg.scenes import render
from causalseg.writing import write_json


class Crowd:
    """Clients that share their counts."""

    def __init__(self, address: str, count: int, seconds: float):
        self.address, self.answers, self.waits = address, Counter[str](), list[float]()
        with io.BytesIO() as file:
            Image.fromarray(render(1, (360, 480), "clear").image).save(file, "PNG")
            self.content = file.getvalue()
        self.end = time.monotonic() + seconds
        self.threads = [threading.Thread(target=self.ask) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        """Ask until the end."""
        with httpx.Client(timeout=120) as client:
            while (start := time.monotonic()) < self.end:
                try:
                    response = client.post(self.address + "predict", content=self.content)
                except httpx.HTTPError as error:
                    self.answers[f"lost: {type(error).__name__}"] += 1
                    continue
                self.answers[str(response.status_code)] += 1
                if response.status_code == 200:
                    self.waits.append(time.monotonic() - start)
                time.sleep(float(response.headers.get("retry-after", 0)))


def resident(process: int) -> float:
    """Return the resident memory of a process in MB."""
    line = next(x for x in Path(f"/proc/{process}/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024


def main() -> None:
    """Print what was counted; write it as JSON where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = [sys.executable, "-m", "causalseg", "serve", options.run, "--port", "8765"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        crowd, memory = Crowd(address, options.clients, options.seconds), []
        while any(thread.is_alive() for thread in crowd.threads):
            time.sleep(5)
            memory.append(round(resident(server.pid), 1))
        server.terminate()
    told = {
        "clients": options.clients,
        "seconds": options.seconds,
        "answers": dict(crowd.answers),
        "images_per_second": round(len(crowd.waits) / options.seconds, 2),
        "median_seconds": round(statistics.median(crowd.waits), 2) if crowd.waits else None,
        "memory_mb": memory,
    }
    for key, value in told.items():
        print(f"{key}: {value}")
    if options.json:
        write_json(options.json, told)


if __name__ == "__main__":
    main()
