"""A backbone that timm does not have, under the same protocol as all others.

Adapters need four attributes of a model: `blocks`, `patch_embed`, `embed_dim` and
`num_prefix_tokens`. With a `forward_intermediates` like that of timm's ViTs, heads, training and
evaluation of this package work with the model, too. The weights here are random.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from causalseg import CausalTune
from causalseg.backbones.timm import FrozenBackbone
from causalseg.data.classes import CITYSCAPES19
from causalseg.heads.linear import LinearHead
from causalseg.model import Segmenter
from causalseg.scenes import render

STEPS, SIZE = 8, (96, 128)


class Patches(nn.Conv2d):
    """Patch embedding: images (b, 3, H, W) -> tokens (b, n, c)."""

    def __init__(self, patch_size: int, width: int):
        super().__init__(3, width, kernel_size=patch_size, stride=patch_size)
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens, row by row."""
        return super().forward(images).flatten(2).transpose(1, 2)


class OwnModel(nn.Module):
    """A transformer without class token; yours will be larger and pretrained."""

    num_prefix_tokens = 0

    def __init__(self, width: int = 48, depth: int = 4, patch_size: int = 16):
        super().__init__()
        self.embed_dim = width
        self.patch_embed = Patches(patch_size, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True)
            for _ in range(depth)
        )

    def forward_intermediates(
        self,
        images: Tensor,
        indices: Sequence[int],
        norm: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = True,
    ) -> list[Tensor]:
        """Return the outputs of the blocks `indices` as maps (b, c, h, w)."""
        h, w = (side // self.patch_embed.patch_size for side in images.shape[-2:])
        tokens, maps = self.patch_embed(images), []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index in indices:
                maps.append(tokens.transpose(1, 2).unflatten(2, (h, w)))
        return maps


def main() -> None:
    """Train Causal-Tune and a linear head on the model."""
    torch.manual_seed(0)
    backbone = FrozenBackbone(OwnModel())  # frozen from here on; levels: the four blocks
    adapter = CausalTune(width=48, depth=4, num_tokens=20, rank=4)
    head = LinearHead(backbone.level_widths, len(CITYSCAPES19.names))
    model = Segmenter(backbone, adapter, head, CITYSCAPES19)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)

    scenes = [render(seed, SIZE) for seed in range(4)]
    images = torch.stack([torch.from_numpy(s.image).movedim(-1, 0) / 255 for s in scenes])
    labels = torch.stack([torch.from_numpy(s.label).long() for s in scenes])
    for step in range(STEPS):
        loss = model.loss(images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}  loss {loss.item():.3f}")
    print(f"logits: {tuple(model.logits(images).shape)}")


if __name__ == "__main__":
    main()
