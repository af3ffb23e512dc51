"""Measurements of training: losses, seconds per step, waiting for data, memory."""

import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from causalseg.engine.devices import reduce
from causalseg.errors import TrainingError

Item = TypeVar("Item")


class Meter:
    """Mean loss terms, seconds per step and the fraction of time spent waiting for data.

    Losses are summed on their device and read in `take` alone, so that no step waits for them; a
    sum that was once not finite stays so.
    """

    def __init__(self, fabric: Fabric):
        self._fabric = fabric
        self.restart()

    def restart(self) -> None:
        """Forget what was measured and restart the clock."""
        self._sums: dict[str, Tensor] = {}
        self._count, self._waited, self._start = 0, 0.0, time.perf_counter()

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass batches on and measure the time spent waiting for them."""
        before = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - before
            yield batch
            before = time.perf_counter()

    def step(self, terms: dict[str, Tensor]) -> None:
        """Count one step and its losses."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._count += 1

    def take(self, step: int) -> dict[str, float]:
        """Return means over processes and steps; restart. Raises TrainingError if not finite."""
        values = {
            name: float(reduce(self._fabric, value, "mean")) / self._count
            for name, value in self._sums.items()
        }
        seconds = time.perf_counter() - self._start
        values |= {"seconds_per_step": seconds / self._count, "data_wait": self._waited / seconds}
        first = step - self._count + 1
        self.restart()
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss is {values['loss']} within steps {first} to {step}: lower train.lr, set "
                "train.clip, or look for broken images; the last checkpoint is from before"
            )
        return values


def peak_memory(device: torch.device) -> float:
    """Return the peak in MB (10^6 bytes): of CUDA's allocator, else resident; 0 on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    # getrusage would count what the process that started this one held
    if status.is_file() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def total_memory(device: torch.device) -> float:
    """Return the bytes that a device has, for a CPU those of the machine; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    names = getattr(os, "sysconf_names", {})  # Windows has none
    if "SC_PHYS_PAGES" not in names:
        return 0.0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
