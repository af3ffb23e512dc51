"""Time of one adapter call against Rein's module and against one frozen ViT block.

    PYTHONPATH=tests python benchmarks/adapter.py [--rounds 9] [--out adapter.json]

A 32 x 32 grid, one thread. All candidates of a setting are timed in turn, round after round, and
each ratio is the median over rounds of the ratio within a round: a machine that changes its speed
changes both sides. `fast` is what the package runs, `literal` the formula line by line.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timm.layers import use_fused_attn
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import oracle
from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.tokens import LowRankTokens
from causalseg.runfolder import write_json

GRID = (32, 32)
SETTINGS = [(384, 1), (384, 4), (1024, 1), (1024, 4)]  # (channels, batch)
HEADS = {384: 6, 1024: 16}


class PlainRein(nn.Module):
    """Rein's published module, plainly: tokens attend to features in the spatial domain."""

    def __init__(self, width: int, num_tokens: int = 100, rank: int = 16):
        super().__init__()
        self.tokens = LowRankTokens(1, num_tokens, rank, width)
        self.token_to_feature = nn.Linear(width, width)
        self.delta = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(0.001))

    def forward(self, X: Tensor) -> Tensor:
        T = self.tokens()[0]
        P = torch.softmax(X @ T.T / X.shape[-1] ** 0.5, dim=-1)
        Z = P[..., 1:] @ self.token_to_feature(T[1:]) + X
        return X + self.scale * self.delta(Z)


def candidates(width: int) -> dict[str, Callable[[Tensor], Tensor]]:
    torch.manual_seed(0)
    causal = CausalTune(width, 1)
    block = Block(width, HEADS[width], qkv_bias=True, init_values=1e-5).eval().requires_grad_(False)
    return {
        "fast": lambda X: causal(X, 0, GRID),
        "literal": lambda X: oracle.causal_tune(causal, X, 0, GRID),
        "rein": PlainRein(width),
        "block": block,
    }


def seconds(run: Callable[[Tensor], Tensor], X: Tensor, is_training: bool) -> float:
    start = time.perf_counter()
    if is_training:
        run(X).sum().backward()
    else:
        with torch.no_grad():
            run(X)
    return time.perf_counter() - start


def measure(width: int, batch: int, is_training: bool, rounds: int) -> dict[str, float]:
    """Median seconds and ratios of one setting."""
    X = torch.randn(batch, GRID[0] * GRID[1], width, requires_grad=is_training)
    runs = candidates(width)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            spent = seconds(run, X, is_training)
            if round_number:  # the first round warms up
                times[name].append(spent)

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))

    return {
        "channels": width,
        "batch": batch,
        "is_training": is_training,
        "fast_ms": 1000 * statistics.median(times["fast"]),
        "fast/rein": ratio("fast", "rein"),
        "literal/rein": ratio("literal", "rein"),
        "fast/block": ratio("fast", "block"),
        "rein/block": ratio("rein", "block"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, fused attention {bool(use_fused_attn())}")
    print(
        "channels batch  mode               fast ms  fast/rein literal/rein fast/block rein/block"
    )
    rows = []
    for width, batch in SETTINGS:
        for is_training in (False, True):
            row = measure(width, batch, is_training, options.rounds)
            rows.append(row)
            mode = "forward+backward" if is_training else "forward"
            print(
                f"{width:8d} {batch:5d}  {mode:17s} {row['fast_ms']:8.1f} {row['fast/rein']:10.2f} "
                f"{row['literal/rein']:12.2f} {row['fast/block']:10.3f} {row['rein/block']:10.3f}",
                flush=True,
            )
    if options.out:
        write_json(options.out, {"torch": torch.__version__, "grid": GRID, "rows": rows})


if __name__ == "__main__":
    main()
