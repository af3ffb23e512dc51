"""Causal-Tune attached to your own timm ViT in your own training loop, and detached again.

The ViT here is timm's tiny `test_vit` with random weights, so the example runs in seconds without a
network; yours would be made with `pretrained=True`.
"""

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from causalseg import CausalTune, attach
from causalseg.scenes import render

STEPS, SIZE, NUM_CLASSES = 8, (96, 128), 19


def load_batch(seeds: range) -> tuple[Tensor, Tensor]:
    """Return images (b, 3, H, W) in [0, 1] and labels (b, H, W): put your own data here."""
    scenes = [render(seed, SIZE) for seed in seeds]
    images = torch.stack([torch.from_numpy(s.image).movedim(-1, 0) / 255 for s in scenes])
    labels = torch.stack([torch.from_numpy(s.label).long() for s in scenes])
    return images, labels


def predict(vit: VisionTransformer, head: nn.Module, images: Tensor) -> Tensor:
    """Return class logits (b, k, H, W)."""
    (features,) = vit.forward_intermediates(images, indices=1, intermediates_only=True)
    return F.interpolate(head(features), size=images.shape[-2:], mode="bilinear")


def main() -> None:
    """Attach, train, detach."""
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", dynamic_img_size=True, num_classes=0)
    vit.eval().requires_grad_(False)
    adapter = CausalTune(width=vit.embed_dim, depth=len(vit.blocks), num_tokens=20, rank=4)
    head = nn.Conv2d(vit.embed_dim, NUM_CLASSES, kernel_size=1)
    optimizer = torch.optim.AdamW([*adapter.parameters(), *head.parameters()], lr=1e-2)
    images, labels = load_batch(range(4))
    before = vit.forward_features(images)

    with attach(vit, adapter):
        for step in range(STEPS):
            loss = F.cross_entropy(predict(vit, head, images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            print(f"step {step}  loss {loss.item():.3f}")
        adapted = vit.forward_features(images)

    print(f"attached, the features change: {not torch.equal(adapted, before)}")
    print(f"detached, they are restored: {torch.equal(vit.forward_features(images), before)}")


if __name__ == "__main__":
    main()
