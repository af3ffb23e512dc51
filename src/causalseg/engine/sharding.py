"""Fully sharded data parallelism (FSDP2) of the frozen blocks.

A process keeps its part of their weights and gathers those of a block while it computes it. What
trains is small and whole on every process, as with DDP, which averages its gradients; so optimiser,
checkpoints and weights are the same with both.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.distributed import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from causalseg.backbones.trunk import find_trunk
from causalseg.errors import ConfigError
from causalseg.model import Segmenter


def shard_frozen(fabric: Fabric, model: Segmenter) -> None:
    """Shard the frozen weights of a ViT's blocks; ConfigError if it has none."""
    if torch.__version__ < "2.7":
        raise ConfigError(
            f"run.strategy=fsdp needs torch 2.7 or later, this is {torch.__version__}"
        )
    backbone, trunk = model.backbone, find_trunk(model.backbone.vit)
    if trunk.layout != "tokens":
        raise ConfigError(
            "run.strategy=fsdp shards the blocks of a ViT whose features are tokens, and "
            f"{type(backbone.vit).__name__} has others: set run.strategy=ddp"
        )
    blocks = [backbone.vit.get_submodule(name) for name in trunk.names]
    whole = {parameter for parameter in model.parameters() if parameter.requires_grad}
    if all(parameter in whole for block in blocks for parameter in block.parameters()):
        raise ConfigError(
            "run.strategy=fsdp shards the frozen weights of the backbone's blocks, and this "
            "adapter trains all of them: set run.strategy=ddp"
        )
    mesh = init_device_mesh(fabric.device.type, (fabric.world_size,))
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=whole)
    # What is around the blocks stays whole; their root gathers a block ahead of its turn.
    outside = set(backbone.parameters()) - {p for block in blocks for p in block.parameters()}
    fully_shard(backbone, mesh=mesh, ignored_params=whole | outside)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Hold all weights on every process, which then computes as many images as it likes."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()
            shard.set_reshard_after_forward(True, recurse=False)
