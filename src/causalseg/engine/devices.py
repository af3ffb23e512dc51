"""Devices, processes and precision, by Lightning Fabric."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CUDAAccelerator, MPSAccelerator
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from causalseg.config.run import Precision, RunConfig
from causalseg.errors import CausalsegError, ConfigError, TrainingError

# It prints the precision at every start, which is in our log.
logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)


# What torch raises, in any collective operation, when another process has ended.
_LOST = re.compile(
    r"closed by peer|reset by peer|broken pipe|remote process exited|communicator was aborted", re.I
)


def make_fabric(options: RunConfig) -> Fabric:
    """Return a launched Fabric.

    Raises ConfigError if this machine has fewer such devices, or not as many processes were started
    as are configured.
    """
    accelerator = options.accelerator
    available = {
        "cuda": CUDAAccelerator.auto_device_count() if CUDAAccelerator.is_available() else 0,
        "mps": int(MPSAccelerator.is_available()),
    }
    if accelerator == "auto":
        accelerator = next((name for name in ("cuda", "mps") if available[name]), "cpu")
    count = available.get(accelerator, options.devices)
    if count < options.devices:
        raise ConfigError(
            f"run.devices = {options.devices} with run.accelerator = {accelerator}: this machine "
            f"has {count or 'none'}; {'lower run.devices or ' * (count > 0)}set run.accelerator=cpu"
        )
    processes = options.devices * options.nodes
    if TorchElasticEnvironment.detect() and (started := int(os.environ["WORLD_SIZE"])) != processes:
        raise ConfigError(
            f"torchrun has started {started} processes, run.devices x run.nodes = "
            f"{options.devices} x {options.nodes} asks for {processes}: set run.devices to its "
            "--nproc-per-node and run.nodes to its --nnodes"
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        # Weights are equal on all processes from the start; sharded ones cannot be sent to others.
        strategy=DDPStrategy(init_sync=options.strategy != "fsdp") if processes > 1 else "auto",
        precision=find_precision(options.precision, accelerator),
    )
    fabric.launch()
    threads = options.threads or (1 if accelerator == "cpu" and options.devices > 1 else None)
    if threads is not None:  # after the launch, which sets its own
        torch.set_num_threads(threads)
    return fabric


@contextmanager
def raising_in_all(fabric: Fabric) -> Iterator[None]:
    """Raise an error of the first process in all; they all enter the block, which sends nothing."""
    problem: CausalsegError | None = None
    try:
        yield
    except CausalsegError as error:
        problem = error
    if told := fabric.broadcast(problem):
        told.is_repeated = not fabric.is_global_zero
    problem = problem or told
    if problem is not None:
        raise problem


def explain_loss(error: RuntimeError) -> TrainingError | None:
    """Return the error for another process that has ended; None for another error."""
    if not (lost := _LOST.search(str(error))):
        return None
    return TrainingError(
        f"another process of this run has ended ({lost[0].lower()}), by an error that it reports, "
        "or killed, mostly for lack of memory; run.resume=true continues a training from its last "
        "checkpoint"
    )


def is_first_process() -> bool:
    """Say whether this process is the one that prints and writes."""
    return rank_zero_only.rank == 0  # type: ignore[attr-defined]


def reduce(fabric: Fabric, tensor: Tensor, how: Literal["sum", "mean"]) -> Tensor:
    """Reduce a tensor over all processes; returns it on the device it came from."""
    reduced = fabric.all_reduce(tensor.to(fabric.device), reduce_op=how)
    assert isinstance(reduced, Tensor)
    return reduced.to(tensor.device)


def find_precision(wanted: Precision, accelerator: str) -> Literal["32-true", "bf16-mixed"]:
    """Return the precision on an accelerator; auto is the faster one on this machine."""
    if wanted != "auto":
        return wanted
    if accelerator == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # a CPU without these instructions emulates bfloat16, slower than float32
        cpuinfo = Path("/proc/cpuinfo")
        flags = cpuinfo.read_text() if accelerator == "cpu" and cpuinfo.is_file() else ""
        is_fast = "avx512_bf16" in flags or "amx_bf16" in flags
    return "bf16-mixed" if is_fast else "32-true"


def explain_memory(error: RuntimeError) -> TrainingError | None:
    """Return the error for memory that does not suffice; None for another error."""
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in text:
        return None
    return TrainingError(
        f"the memory does not suffice ({text.splitlines()[0]}): to train, raise train.accumulate, "
        "lower train.crop, or set backbone.checkpointing=true; to predict, lower "
        "eval.windows_at_once or eval.window"
    )
