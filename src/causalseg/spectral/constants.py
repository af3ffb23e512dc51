"""Constants of a grid (transform matrices, masks) made once and kept.

They depend only on a size, some numbers, a device and a dtype. Making them anew in every block
would cost dozens of tiny kernels. A traced graph makes its own, so nothing symbolic or fake is
ever kept; what depends on a tensor (a learnt radius) is no constant and made each time.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")


def kept(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Keep the results of a function that makes a constant; the result must not be modified."""
    keep = functools.lru_cache(maxsize=512)(make)

    @functools.wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        is_learnt = any(isinstance(argument, Tensor) for argument in (*args, *kwargs.values()))
        if is_learnt or torch.compiler.is_compiling():
            return make(*args, **kwargs)
        # A tensor made in inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            return keep(*args, **kwargs)  # type: ignore[arg-type]

    return get


def exact(device: torch.device | str) -> torch.dtype:
    """Return the widest float a device has: constants are computed in it, then rounded once."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64
