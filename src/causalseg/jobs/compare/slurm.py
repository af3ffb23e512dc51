"""A batch script for SLURM: an array of workers of one comparison.

SLURM only starts the workers; which cell each takes is decided in the comparison's folder.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from causalseg.jobs.compare.study import Study
from causalseg.writing import write_text

_THREADS = 4  # cores of a process, if run.threads does not say
_SCRIPT = """#!/bin/bash
# Workers of one comparison in {out}.
# They end when no run is free; submit this script again to go on after the time limit.

# Edit these lines for your cluster; a line begins to count when its second # is removed.
##SBATCH --partition=NAME
##SBATCH --account=NAME
#SBATCH --time=24:00:00
#SBATCH --cpus-per-task={cpus}
##SBATCH --mem=32G

#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
{gpus}#SBATCH --chdir={folder}
# SIGTERM comes 120 s before the time limit: training ends with a checkpoint.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

exec {command}
"""


def write_script(file: Path, study: Study, jobs: int, arguments: Sequence[str]) -> None:
    """Write a script that runs the command with these ``arguments`` in ``jobs`` workers.

    Each has the devices and cores of one cell. Options of the script itself are left out.
    """
    configs = [cell.config for cell in study.cells]
    devices = max(config.run.devices for config in configs)
    is_on_cpu = all(config.run.accelerator == "cpu" for config in configs)
    cpus = max(devices * (c.run.threads or _THREADS) + c.train.workers for c in configs)
    command = [sys.executable, "-m", "causalseg", *_without(arguments, "--slurm", "--jobs")]
    script = _SCRIPT.format(
        out=study.out,
        cpus=cpus,
        name=study.out.name,
        last=jobs - 1,
        gpus="" if is_on_cpu else f"#SBATCH --gpus-per-task={devices}\n",
        folder=Path.cwd(),
        command=shlex.join(command),
    )
    write_text(file, script)


def _without(arguments: Sequence[str], *options: str) -> Iterator[str]:
    """Yield arguments without options that have a value, after a space or =."""
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.partition("=")
        if name not in options:
            yield argument
        elif not equals:
            next(rest)
