"""Training of band gains: the loss, the teacher, planted shifts, what trains."""

import itertools
import math

import pytest
import torch
from torch import nn

from causalseg.adapters.band_gains import BandGains
from causalseg.adapters.base import install_after_blocks
from causalseg.build.model import load_run
from causalseg.config.adapt import AdaptConfig
from causalseg.config.inference import InferenceConfig
from causalseg.config.load import parse_config
from causalseg.data.augment import draw_distortion
from causalseg.data.dataset import read_image
from causalseg.engine.adapt import Views, adapt_gains, draw_views, symmetric_cross_entropy
from causalseg.errors import TrainingError
from causalseg.jobs.train import train_run
from conftest import tiny_run, write_folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has learnt its three classes, and its images of 4 x 6 patches."""
    root = tmp_path_factory.mktemp("adapt")
    folder = write_folder(root / "data", 8, size=(64, 96))
    options = ("adapter=none", "train.steps=60", "train.lr=0.01")
    run = train_run(parse_config(tiny_run(folder, root / "run"), options))
    files = sorted((folder / "images").glob("*.png"))
    return run, torch.stack([read_image(file) for file in files])


@pytest.fixture
def model(trained):
    model = load_run(trained[0].path)
    model.scale_bands(BandGains(model.backbone.depth))
    return model


def repeat(plain, distorted, is_image=None):
    """Yield the same views again and again."""
    inside = torch.ones(len(plain), *plain.shape[2:], dtype=torch.bool)
    return itertools.repeat(Views(plain, distorted, inside if is_image is None else is_image))


def distort(images):
    draw = torch.Generator().manual_seed(0)
    return torch.stack([draw_distortion(draw)(image) for image in images])


def test_the_loss_is_symmetric_and_has_the_values_of_the_formula():
    p = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
    q = torch.tensor([0.25, 0.5, 0.25]).view(1, 3, 1, 1)
    # H(p, q) = H(q, p) = log 2 (0.5 * 2 + 0.25 * 1 + 0.25 * 2)
    assert symmetric_cross_entropy(p, q).item() == pytest.approx(2 * 1.75 * math.log(2), abs=1e-6)
    assert torch.equal(symmetric_cross_entropy(p, q), symmetric_cross_entropy(q, p))


def test_no_gradient_flows_through_the_teacher_and_a_probability_of_0_is_finite():
    p = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    q = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
    loss = symmetric_cross_entropy(p, q).sum()
    loss.backward()
    assert loss.isfinite()
    assert p.grad.isfinite().all()
    assert q.grad is None


def test_the_teacher_is_the_moving_average_and_sees_the_plain_images(trained, model):
    images, seen = trained[1][:2], []
    distorted, logits = distort(images), model.logits

    def watch(batch):
        seen.append((batch, model.band_gains.values.detach().clone()))
        return logits(batch)

    model.logits = watch
    values = model.band_gains.values
    adapt_gains(model, values, repeat(images, distorted), AdaptConfig(steps=5, lr=0.1, ema=0.75))
    teachers, students = seen[::2], [*(gains for _, gains in seen[1::2]), values.detach()]
    assert all(torch.equal(batch, images) for batch, _ in teachers)
    assert all(torch.equal(batch, distorted) for batch, _ in seen[1::2])
    average = torch.zeros_like(values)
    for (_, teacher), student in zip(teachers, students[1:], strict=True):
        assert torch.allclose(teacher, average, atol=1e-7)
        average = 0.75 * average + 0.25 * student
    assert values.abs().max() > 0.2


def test_only_the_gains_train_and_all_of_them(trained, model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = trained[1][:2]
    losses = adapt_gains(
        model, model.band_gains.values, repeat(images, distort(images)), AdaptConfig(steps=2)
    )
    assert list(losses) == [2]
    after = model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {"band_gains.values"}
    assert model.band_gains.values.numel() == 3 * model.backbone.depth
    assert (model.band_gains.values != 0).all()
    assert not model.training


def test_a_low_band_doubled_by_a_fixed_shift_is_damped_and_the_loss_falls(trained, model):
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.gains = BandGains(1).requires_grad_(False)
            self.gains.values[0, 0] = 1

        def forward(self, tokens, layer, grid):
            return self.gains(tokens, layer, grid)

    images, options = trained[1], AdaptConfig(steps=30, lr=0.02, mu=0, ema=0.9)
    views = repeat(images, distort(images))
    adapt_gains(model, model.band_gains.values, views, options)
    without_shift = model.band_gains.values[0, 0].item()
    install_after_blocks(model.backbone.vit, Shift(), [0])
    gains = BandGains(model.backbone.depth)
    model.scale_bands(gains)  # after the shift
    (before,) = adapt_gains(model, gains.values, views, AdaptConfig(steps=1, mu=0)).values()
    gains.values.data.zero_()
    losses = adapt_gains(model, gains.values, views, options)
    assert gains.values[0, 0] < min(-0.3, without_shift - 0.1)
    assert losses[30] < 0.75 * before


def test_noise_in_the_students_view_damps_the_high_band(trained, model):
    images, draw = trained[1], torch.Generator().manual_seed(0)
    inside = torch.ones(len(images), 64, 96, dtype=torch.bool)
    noisy = (
        Views(
            images, (images + 0.2 * torch.randn(images.shape, generator=draw)).clamp(0, 1), inside
        )
        for _ in itertools.count()
    )
    gains = model.band_gains.values
    adapt_gains(model, gains, noisy, AdaptConfig(steps=30, lr=0.02, ema=0.9))
    assert gains[:, 2].mean() < -0.05


def test_a_large_mu_keeps_the_gains_small(trained, model):
    images, gains = trained[1][:2], model.band_gains.values
    sizes = []
    for mu in (0, 100):
        gains.data.zero_()
        views = repeat(images, distort(images))
        adapt_gains(model, gains, views, AdaptConfig(steps=15, lr=0.02, mu=mu))
        sizes.append(gains.square().sum().item())
    assert sizes[1] < 0.1 * sizes[0]


def test_a_loss_that_is_not_finite_ends_in_one_error(trained, model):
    nn.init.constant_(model.head.classifier.bias, float("nan"))
    images = trained[1][:1]
    with pytest.raises(TrainingError, match="the loss of step 1 is nan"):
        adapt_gains(model, model.band_gains.values, repeat(images, images), AdaptConfig())
    assert not model.band_gains.values.any()


def test_padding_has_no_part_in_the_loss(trained, model):
    images = trained[1][:1]
    inside = torch.zeros(1, 64, 96, dtype=torch.bool)
    inside[:, :32] = True
    gains, options = model.band_gains.values, AdaptConfig(steps=1, mu=0)
    (loss,) = adapt_gains(model, gains, repeat(images, images, inside), options).values()
    gains.data.zero_()
    with torch.no_grad():
        p = model.logits(images).softmax(1)
    expected = symmetric_cross_entropy(p, p)[:, :32].mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_views_are_crops_of_all_images_in_turn_at_the_size_of_prediction():
    images = [torch.full((3, 48, 64), value) for value in (0.2, 0.4, 0.6)]
    how = InferenceConfig(mode="whole", scale=0.5).resolve()
    read = [lambda image=image: image for image in images]
    draw = torch.Generator().manual_seed(0)
    first = next(draw_views(read, (16, 48), 3, how, draw))
    assert first.plain.shape == first.distorted.shape == (3, 3, 16, 48)
    assert sorted(first.plain[:, 0, 0, 0].tolist()) == pytest.approx([0.2, 0.4, 0.6])
    assert first.is_image[:, :, :32].all()  # 24 x 32 pixels after resizing
    assert not first.is_image[:, :, 32:].any()
    again = next(draw_views(read, (16, 48), 3, how, torch.Generator().manual_seed(0)))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    many = next(draw_views(read, (16, 48), 6, how, draw))
    assert sorted(many.plain[:, 0, 0, 0].tolist()) == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.6, 0.6])
