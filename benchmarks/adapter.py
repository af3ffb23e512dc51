"""Time and memory of every adapter against Rein's module and against one frozen ViT block.

    python benchmarks/adapter.py [--rounds 9] [--json adapter.json]
        [--only rein lora ...] [--settings 384x1 1024x4 ...]

A 32 x 32 grid, one block, CPU time of one thread. All candidates of a setting are timed in turn,
round after round, and each ratio is the median over rounds of the ratio within a round: a machine
that changes its speed changes both sides. For Causal-Tune, `fast` is what the package runs,
`literal` the formula line by line.

Methods that work within a block have no time of their own: theirs is that of a block with the
method minus that of the frozen block, run before and after it. Likewise the memory: bytes saved for
the backward pass, counted once a storage, without parameters; the unit is the features, b n c
floats. `full` computes forward what the frozen block computes: what it shows there is the error.
Interventions are measured in training alone: at inference there is nothing of them.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import use_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from causalseg.adapters.ablations.literal import CausalTuneFFT, CausalTuneHaar
from causalseg.adapters.ablations.released import ReleasedCausalTune
from causalseg.adapters.adaptformer import AdaptFormer
from causalseg.adapters.base import Adapter, Chain, attach
from causalseg.adapters.causal_tune import CausalTune, literal
from causalseg.adapters.fada import Fada
from causalseg.adapters.full import FullTune
from causalseg.adapters.intervene import Dsu, MixStyle, SpectralIntervention
from causalseg.adapters.peft import PeftAdapter
from causalseg.adapters.rein import Rein
from causalseg.adapters.set import SetAdapter
from causalseg.adapters.soma import Soma
from causalseg.adapters.tokens import BlockTokens
from causalseg.adapters.vpt import Vpt
from causalseg.config.adapters import (
    DoraAdapterConfig,
    LoraAdapterConfig,
    PeftAdapterConfig,
    ReinConfig,
)
from causalseg.writing import write_json

GRID = (32, 32)
SETTINGS = ("384x1", "384x4", "1024x1", "1024x4")  # channels x batch
IMAGE = tuple(16 * side for side in GRID)  # pixels
HEAD_WIDTH = 64
REFERENCES = ("plain_rein", "block")
RATIOS = (("fast", "rein"), ("literal", "rein"), ("fast", "block"), ("rein", "block"))
NAMED = {"fast": "causal_tune", "literal": "causal_tune_literal", "rein": "plain_rein"}

INTERVENTIONS: dict[str, Callable[[int], nn.Module]] = {
    "intervene_spectral": lambda width: SpectralIntervention(p=1, low_gain=(0.5, 1.5)),
    "intervene_mixstyle": lambda width: MixStyle(p=1),
    "intervene_dsu": lambda width: Dsu(p=1),
}
AFTER: dict[str, Callable[[int], nn.Module]] = {
    "causal_tune": lambda width: CausalTune(width, 1),
    "causal_tune_full_path": lambda width: CausalTune(width, 1, recipe="full_path"),
    "causal_tune_suppress": lambda width: CausalTune(width, 1, suppress=True),
    "causal_tune_fft": lambda width: CausalTuneFFT(width, 1),
    "causal_tune_haar": lambda width: CausalTuneHaar(width, 1),
    "causal_tune_released": lambda width: ReleasedCausalTune(width, 1),
    "rein": lambda width: Rein(width, 1),
    "rein_full_tokens": lambda width: Rein(width, 1, rank=None),
    "set": lambda width: SetAdapter(width, 1),
    "fada": lambda width: Fada(width, 1),
    **INTERVENTIONS,
}
WITHIN: dict[str, Callable[[VisionTransformer], Adapter]] = {
    "lora": lambda vit: PeftAdapter(vit, LoraAdapterConfig()),
    "dora": lambda vit: PeftAdapter(vit, DoraAdapterConfig()),
    "peft_loha": lambda vit: PeftAdapter(vit, PeftAdapterConfig(type="LOHA")),
    "soma": lambda vit: Soma(vit),
    "adaptformer": lambda vit: AdaptFormer(vit.embed_dim, 1),
    "vpt": lambda vit: Vpt(vit.embed_dim, 1),
    "full": lambda vit: FullTune(vit, layers=[0]),
    "lora_causal_tune": lambda vit: Chain(
        [PeftAdapter(vit, LoraAdapterConfig()), CausalTune(vit.embed_dim, 1)]
    ),
}
METHODS = (*AFTER, "causal_tune_literal", *WITHIN)


class PlainRein(nn.Module):
    """Rein's published module, plainly: tokens attend to features in the spatial domain."""

    def __init__(self, width: int):
        super().__init__()
        self.tokens = BlockTokens(1, width, ReinConfig())
        self.token_to_feature = nn.Linear(width, width)
        self.delta = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(0.001))

    def forward(self, X: Tensor) -> Tensor:
        T = self.tokens()[0]
        P = torch.softmax(X @ T.T / X.shape[-1] ** 0.5, dim=-1)
        Z = P[..., 1:] @ self.token_to_feature(T[1:]) + X
        return X + self.scale * self.delta(Z)


@dataclass(frozen=True)
class Candidate:
    """What is run, and the module whose parameters are no saved activations."""

    run: Callable[[Tensor], Tensor]
    module: nn.Module


def candidates(width: int, names: list[str]) -> dict[str, Candidate]:
    """Make the references and the methods named, on a frozen ViT of one block."""
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=IMAGE,
        embed_dim=width,
        depth=1,
        num_heads=width // HEAD_WIDTH,
        init_values=1e-5,
        num_classes=0,
        class_token=False,
        global_pool="",
    )
    vit.eval().requires_grad_(False)
    rein = PlainRein(width)
    found = {"plain_rein": Candidate(rein, rein)}
    for name in names:
        if name in AFTER:
            found[name] = after_block(AFTER[name](width))
        elif name == "causal_tune_literal":
            found[name] = by_equations(CausalTune(width, 1))
    found["block"] = Candidate(vit.blocks[0], vit)
    for name in names:
        if name in WITHIN:
            found[name] = within_block(copy.deepcopy(vit), WITHIN[name])
    return found


def by_equations(causal: CausalTune) -> Candidate:
    return Candidate(lambda X: literal(causal, X, 0, GRID), causal)


def after_block(edit: nn.Module) -> Candidate:
    return Candidate(lambda X: edit(X, 0, GRID), edit)


def within_block(vit: VisionTransformer, make: Callable[[VisionTransformer], Adapter]) -> Candidate:
    adapter = make(vit)
    attach(vit, adapter)
    vit.patch_embed(torch.zeros(1, 3, *IMAGE))  # an adapter after the block learns its grid here
    return Candidate(vit.blocks[0], nn.ModuleList([vit, adapter]))


def seconds(run: Callable[[Tensor], Tensor], X: Tensor, is_training: bool) -> float:
    """CPU time of the one thread: that of the clock, less what other processes take."""
    start = time.process_time()
    if is_training:
        run(X).sum().backward()
    else:
        with torch.no_grad():
            run(X)
    return time.process_time() - start


def saved_bytes(candidate: Candidate, X: Tensor) -> int:
    """Bytes kept for the backward pass: every storage once, parameters left out."""
    parameters = {p.untyped_storage().data_ptr() for p in candidate.module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # alive until counted: no address comes twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = candidate.run(X)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def time_all(found: dict[str, Candidate], X: Tensor, is_training: bool) -> dict[str, float]:
    """Time every candidate once; those within a block between two runs of the frozen block."""
    times = {}
    for name, candidate in found.items():
        times[name] = seconds(candidate.run, X, is_training)
        if name == "block":
            before = times[name]
        elif name in WITHIN:
            after = seconds(found["block"].run, X, is_training)
            times[name] -= (before + after) / 2
            before = after
    return times


def measure(setting: str, is_training: bool, rounds: int, names: list[str]) -> list[dict[str, Any]]:
    """Measure one setting: a row for each reference and method."""
    width, batch = parse_setting(setting)
    X = torch.randn(batch, GRID[0] * GRID[1], width, requires_grad=is_training)
    found = candidates(width, [name for name in names if is_training or name not in INTERVENTIONS])
    times: dict[str, list[float]] = {name: [] for name in found}
    for round_number in range(rounds + 1):
        for name, spent in time_all(found, X, is_training).items():
            if round_number:  # the first round warms up
                times[name].append(spent)
    rows = []
    for name, candidate in found.items():
        row: dict[str, Any] = {
            "channels": width,
            "batch": batch,
            "is_training": is_training,
            "method": name,
        }
        row |= {"is_within_block": name in WITHIN, "ms": 1e3 * statistics.median(times[name])}
        for reference in REFERENCES:
            pairs = zip(times[name], times[reference], strict=True)
            row[f"/{reference}"] = statistics.median(own / base for own, base in pairs)
        if is_training:
            base = saved_bytes(found["block"], X) if name in WITHIN else 0
            row["saved_bytes"] = saved_bytes(candidate, X) - base
            row["saved/features"] = row["saved_bytes"] / (4 * X.numel())
        rows.append(row)
    return rows


def causal_tune_row(rows: list[dict[str, Any]]) -> str | None:
    """The line on Causal-Tune's own two forms; None if they were not measured."""
    by_name = {row["method"]: row for row in rows}
    if not {"causal_tune", "causal_tune_literal"} <= by_name.keys():
        return None
    values = [by_name[NAMED[a]]["/" + NAMED.get(b, b)] for a, b in RATIOS]
    fast_ms = by_name["causal_tune"]["ms"]
    cells = [f"{value:12.3f}" for value in values]
    return f"{where(rows[0])} {fast_ms:8.1f} {' '.join(cells)}"


def method_row(row: dict[str, Any]) -> str:
    kind = "+" if row["is_within_block"] else " "
    memory = f"{row['saved/features']:14.2f}" if row["is_training"] else f"{'-':>14s}"
    return (
        f"{where(row)} {kind}{row['method']:22s} {row['ms']:8.1f} {row['/plain_rein']:10.2f} "
        f"{row['/block']:10.3f} {memory}"
    )


def where(row: dict[str, Any]) -> str:
    mode = "forward+backward" if row["is_training"] else "forward"
    return f"{row['channels']:8d} {row['batch']:5d}  {mode:17s}"


def parse_setting(text: str) -> tuple[int, int]:
    """Read ``384x4`` as channels and batch."""
    width, batch = map(int, text.split("x"))
    if width % HEAD_WIDTH or min(width, batch) < 1:
        raise ValueError(f"{text}: channels must be a multiple of {HEAD_WIDTH}, batch at least 1")
    return width, batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), metavar="CHANNELSxBATCH")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, fused attention {bool(use_fused_attn())}")
    print(
        "channels batch  mode               fast ms    fast/rein literal/rein   fast/block   "
        "rein/block   targets for fast: rein 1.05, block 0.13"
    )
    tables = []
    for setting in options.settings:
        for is_training in (False, True):
            rows = measure(setting, is_training, options.rounds, options.only)
            tables.append(rows)
            print(causal_tune_row(rows) or f"{where(rows[0])} not measured", flush=True)
    print("\nAll methods; + is the time and memory on top of a frozen block.")
    print(
        "channels batch  mode               method                       ms      /rein     /block "
        "saved/features"
    )
    for rows in tables:
        print("\n".join(method_row(row) for row in rows))
    if options.json:
        flat = [row for rows in tables for row in rows]
        write_json(options.json, {"torch": torch.__version__, "grid": GRID, "rows": flat})


if __name__ == "__main__":
    main()
