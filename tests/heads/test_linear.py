import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from causalseg.config.heads import LinearHeadConfig
from causalseg.errors import ConfigError, DataError
from causalseg.heads.linear import LinearHead

WIDTH, CLASSES = 6, 3


@pytest.fixture
def head() -> LinearHead:
    torch.manual_seed(0)
    return LinearHead([WIDTH] * 4, CLASSES)


def make_features(batch: int = 2, h: int = 5, w: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, WIDTH, h, w, generator=generator) for _ in range(4)]


def make_labels(batch: int = 2, height: int = 20, width: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, CLASSES, (batch, height, width), generator=generator)


@pytest.mark.parametrize("grid", [(5, 7), (1, 3), (18, 24)])
def test_scores_have_pixel_size(head, grid):
    assert head(make_features(1, *grid), None, (33, 50)).shape == (1, CLASSES, 33, 50)


def test_scale_and_offset_of_a_level_do_not_matter(head):
    features = make_features()
    moved = [features[0] * 50 + 3, *features[1:]]
    expected = head(features, None, (10, 14))
    torch.testing.assert_close(head(moved, None, (10, 14)), expected, rtol=1e-3, atol=1e-4)


def test_a_patch_decides_its_own_pixels_only(head):
    features = make_features(2)
    changed = [x.clone() for x in features]
    for x in changed:
        x[0, :, 1, 2] = x[0, :, 1, 2].flip(0)
    moved = (head(features, None, (5, 7)) != head(changed, None, (5, 7))).any(dim=1)
    assert moved.nonzero().tolist() == [[0, 1, 2]]


def test_loss_is_the_mean_over_labelled_pixels(head):
    features, labels = make_features(), make_labels()
    labels[0, :15] = 255
    logits = head(features, None, labels.shape[-2:])
    expected = F.cross_entropy(logits, labels, ignore_index=255)
    loss = head.loss(features, None, labels.to(torch.uint8))
    assert set(loss) == {"cross_entropy"}
    torch.testing.assert_close(loss["cross_entropy"], expected)


def test_export_gives_the_same_scores_for_another_batch_size(head):
    batch = torch.export.Dim("batch")
    exported = torch.export.export(
        head.eval(),
        (make_features(2), None, (20, 28)),
        dynamic_shapes=([{0: batch}] * 4, None, (None, None)),
    ).module()
    features = make_features(3)
    torch.testing.assert_close(
        exported(features, None, (20, 28)), head(features, None, (20, 28)), rtol=0, atol=1e-6
    )


def test_queries_raise(head):
    with pytest.raises(ConfigError, match="query link"):
        head(make_features(), torch.zeros(4, 8), (20, 28))
    with pytest.raises(ConfigError, match="query link"):
        head.loss(make_features(), torch.zeros(4, 8), make_labels())


@pytest.mark.parametrize("wrong", [CLASSES, 254, -1])
def test_labels_outside_the_classes_raise_and_name_the_value(head, wrong):
    labels = make_labels()
    labels[0, 0, 0] = wrong
    with pytest.raises(DataError, match=rf"\[{wrong}\].*0 to {CLASSES - 1}"):
        head.loss(make_features(), None, labels)


_PROCESS = """
import sys
import torch
from torch import distributed
from causalseg.config.heads import LinearHeadConfig
from causalseg.heads.linear import LinearHead

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
store = f"file://{folder}/store"
distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt", weights_only=True)
options = LinearHeadConfig(class_weights=given["class_weights"])
head = LinearHead(given["widths"], given["classes"], options)
head.load_state_dict(given["head"])
features = [x[rank : rank + 1] for x in given["features"]]
head.loss(features, None, given["labels"][rank : rank + 1])["cross_entropy"].backward()
for p in head.parameters():
    distributed.all_reduce(p.grad)
    p.grad /= 2
if rank == 0:
    torch.save([p.grad for p in head.parameters()], f"{folder}/gradients.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ignored_rows", "class_weights"), [(15, "none"), (20, "none"), (15, "auto"), (20, "auto")]
)
def test_two_processes_give_the_gradient_of_one(tmp_path: Path, ignored_rows, class_weights):
    head = LinearHead([WIDTH] * 4, CLASSES, LinearHeadConfig(class_weights=class_weights))
    if class_weights == "auto":
        head.balance.count(np.array([900, 90, 10]))
    features, labels = make_features(), make_labels()
    labels[0, :ignored_rows] = 255  # 20 rows are all: one process then has nothing to learn from
    given = {"head": head.state_dict(), "features": features, "labels": labels}
    about = {"widths": [WIDTH] * 4, "classes": CLASSES, "class_weights": class_weights}
    torch.save(given | about, tmp_path / "given.pt")
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, str(rank), str(tmp_path)])
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]

    single = copy.deepcopy(head)
    single.loss(features, None, labels)["cross_entropy"].backward()
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for gradient, parameter in zip(gradients, single.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
