"""Time and memory of every adapter against Rein's module and against one frozen ViT block.

    python benchmarks/adapter.py [--rounds 5] [--only rein lora ... | --all]
        [--settings 384x1 1024x4 ...] [--forward] [--json FILE]

A 32 x 32 grid, one block, forward and backward pass with a dense gradient, CPU time of one thread;
``--forward`` adds the forward pass alone. For Causal-Tune, `causal_tune` is what the package runs,
`causal_tune_literal` the formula line by line.

Methods that work within a block have no time of their own: theirs is that of a block with the
method minus that of the frozen block, run before and after it. Likewise the memory: bytes saved for
the backward pass, counted once a storage, without parameters; the unit is the features, b n c
floats. `full` computes forward what the frozen block computes: what it shows there is the error.
Interventions are measured in training alone: at inference there is nothing of them.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import measure
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
from measure import Row, Target, Times

ABOUT = "An adapter after or in one block, on a grid of 32 × 32: channels x batch, one thread."
GRID = (32, 32)
SETTINGS = ("384x4", "1024x4")  # channels x batch
IMAGE = tuple(16 * side for side in GRID)  # pixels
HEAD_WIDTH = 64
REFERENCES = ("plain_rein", "block")
MOST = {"/block": 0.10, "/plain_rein": 0.95}  # of Causal-Tune, forward and backward
TARGETS = [Target(f"causal_tune, {x}", key, most) for x in SETTINGS for key, most in MOST.items()]

INTERVENTIONS: dict[str, Callable[[int], nn.Module]] = {
    "intervene_spectral": lambda width: SpectralIntervention(p=1, low_gain=(0.5, 1.5)),
    "intervene_mixstyle": lambda width: MixStyle(p=1),
    "intervene_dsu": lambda width: Dsu(p=1),
}
AFTER: dict[str, Callable[[int], nn.Module]] = {
    "causal_tune": lambda width: CausalTune(width, 1),
    "causal_tune_centered": lambda width: CausalTune(width, 1, recipe="centered"),
    "causal_tune_paper": lambda width: CausalTune(width, 1, recipe="paper"),
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
QUICK = (
    "causal_tune",
    "causal_tune_centered",
    "causal_tune_paper",
    "causal_tune_literal",
    "rein",
    "lora",
)


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


def seconds(run: Callable[[Tensor], Tensor], X: Tensor, gradient: Tensor | None) -> float:
    """CPU time of the forward pass, and of the backward pass if there is a gradient."""
    start = measure.now("cpu")
    if gradient is not None:
        run(X).backward(gradient)
    else:
        with torch.no_grad():
            run(X)
    return measure.now("cpu") - start


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


def time_all(found: dict[str, Candidate], X: Tensor, gradient: Tensor | None) -> dict[str, float]:
    """Time every candidate once; those within a block between two runs of the frozen block."""
    times = {}
    for name, candidate in found.items():
        times[name] = seconds(candidate.run, X, gradient)
        if name == "block":
            before = times[name]
        elif name in WITHIN:
            after = seconds(found["block"].run, X, gradient)
            times[name] -= (before + after) / 2
            before = after
    return times


def measure_setting(setting: str, is_training: bool, rounds: int, names: list[str]) -> list[Row]:
    """Measure one setting: a row for each reference and method."""
    width, batch = parse_setting(setting)
    X = torch.randn(batch, GRID[0] * GRID[1], width, requires_grad=is_training)
    gradient = torch.randn(X.shape) if is_training else None
    found = candidates(width, [name for name in names if is_training or name not in INTERVENTIONS])
    times: Times = {name: [] for name in found}
    for round_number in range(rounds + 1):
        for name, spent in time_all(found, X, gradient).items():
            if round_number:  # the first round warms up
                times[name].append(spent)
    rows = []
    for name, candidate in found.items():
        row: Row = {"case": f"{name}, {setting}" + ("" if is_training else ", forward")}
        row["ms"] = round(1e3 * measure.median(times, name), 1)
        for reference in REFERENCES:
            row[f"/{reference}"] = round(measure.ratio(times, name, reference), 3)
        if is_training:
            base = saved_bytes(found["block"], X) if name in WITHIN else 0
            row["saved/features"] = round((saved_bytes(candidate, X) - base) / (4 * X.numel()), 2)
        rows.append(row)
    return rows


def parse_setting(text: str) -> tuple[int, int]:
    """Read ``384x4`` as channels and batch."""
    width, batch = map(int, text.split("x"))
    if width % HEAD_WIDTH or min(width, batch) < 1:
        raise ValueError(f"{text}: channels must be a multiple of {HEAD_WIDTH}, batch at least 1")
    return width, batch


def main() -> None:
    parser = measure.make_parser(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", choices=METHODS, default=list(QUICK))
    which.add_argument("--all", action="store_const", dest="only", const=list(METHODS))
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="CHANNELSxBATCH")
    parser.add_argument("--forward", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    passes = (True, False) if options.forward else (True,)
    rows = [
        row
        for setting in options.settings
        for is_training in passes
        for row in measure_setting(setting, is_training, options.rounds, options.only)
    ]
    measure.tell(ABOUT, rows, TARGETS, options.json)


if __name__ == "__main__":
    main()
