"""What every adapter must keep when it is attached to a model, whatever its method."""

import copy
import pickle
import shutil

import pytest
import timm
import torch
from torch import nn

from causalseg.adapters.base import Adapter, attach
from causalseg.adapters.causal_tune import CausalTune
from causalseg.errors import ConfigError

ADAPTERS = {
    "causal_tune-centered": lambda: CausalTune(48, 2, 6, 3, recipe="centered", scale=0.5),
    "causal_tune-paper": lambda: CausalTune(48, 2, 6, 3, recipe="paper", scale=0.5),
}
SIZE = (42, 70)  # pixels: a grid of 3 x 5


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    torch.manual_seed(1)
    return ADAPTERS[request.param]()


def make_vit(class_token=True, num_registers=0):
    torch.manual_seed(0)
    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=42,
        patch_size=14,
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=0,
        class_token=class_token,
        reg_tokens=num_registers,
        global_pool="",
        dynamic_img_size=True,
    )
    return vit.eval().requires_grad_(False)


@pytest.fixture
def vit():
    return make_vit()


@pytest.fixture
def images():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def test_it_offers_the_contract(adapter):
    assert isinstance(adapter, Adapter)
    assert isinstance(adapter, nn.Module)


def test_it_changes_the_output_and_detaching_restores_it_bit_for_bit(vit, adapter, images):
    before = vit(images)
    names = list(vit.state_dict())
    with attach(vit, adapter):
        assert not torch.allclose(vit(images), before, atol=1e-3)
        assert list(vit.state_dict()) == names
    assert torch.equal(vit(images), before)
    attachment = attach(vit, adapter)
    attachment.detach()
    attachment.detach()
    assert torch.equal(vit(images), before)


@pytest.mark.parametrize(("class_token", "num_registers"), [(False, 0), (True, 0), (True, 4)])
def test_prefix_tokens_of_a_block_pass_untouched(adapter, images, class_token, num_registers):
    vit = make_vit(class_token, num_registers)
    outputs = []
    vit.blocks[0].register_forward_hook(lambda _m, _i, output: outputs.append(output))
    with attach(vit, adapter):
        vit.blocks[0].register_forward_hook(lambda _m, _i, output: outputs.append(output))
        vit(images)
    plain, adapted = outputs
    num_prefix = class_token + num_registers
    assert plain.shape[1] == num_prefix + 15
    assert torch.equal(plain[:, :num_prefix], adapted[:, :num_prefix])
    changed = (plain[:, num_prefix:] != adapted[:, num_prefix:]).any(-1)
    assert changed.all()


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(vit, adapter, images):
    with attach(vit, adapter), torch.no_grad():
        together = vit(images)
        alone = torch.cat([vit(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_only_the_adapter_trains_and_every_part_of_it_gets_a_gradient(vit, adapter, images):
    with attach(vit, adapter):
        vit(images).square().mean().backward()
    assert all(p.grad is None for p in vit.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())


def test_saved_and_loaded_it_gives_the_same_features(vit, adapter, images):
    other = copy.deepcopy(adapter)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(adapter.state_dict())
    with attach(vit, adapter):
        expected = vit(images)
    with attach(vit, other):
        assert torch.equal(vit(images), expected)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_the_attached_model_is_whole_and_apart(vit, adapter, images, copy_of):
    model = nn.ModuleDict({"vit": vit, "adapter": adapter})
    attach(vit, adapter)
    expected = vit(images)
    twin = copy_of(model)
    assert torch.equal(twin["vit"](images), expected)
    with torch.no_grad():
        for parameter in twin["adapter"].parameters():
            parameter.zero_()
    assert not torch.allclose(twin["vit"](images), expected)
    assert torch.equal(vit(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_without_graph_breaks_it_gives_the_same_features(vit, adapter, images, backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    attach(vit, adapter)
    expected = vit(images)
    compiled = torch.compile(vit, fullgraph=True, backend=backend)
    assert torch.allclose(compiled(images), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")  # the grid
@pytest.mark.parametrize("strict", [True, False])
def test_exported_it_gives_the_same_features_at_any_batch_size(vit, adapter, images, strict):
    attach(vit, adapter)
    dynamic = {"x": {0: torch.export.Dim("batch", min=1, max=8)}}
    with torch.no_grad():
        exported = torch.export.export(
            vit, (images,), strict=strict, dynamic_shapes=dynamic
        ).module()
        for count in (2, 3):
            batch = torch.rand(count, 3, *SIZE)
            assert torch.allclose(exported(batch), vit(batch), atol=1e-5)


def test_activation_checkpointing_gives_the_same_gradients(vit, adapter, images):
    attach(vit, adapter)
    gradients = []
    for checkpointing in (False, True):
        vit.set_grad_checkpointing(checkpointing)
        adapter.zero_grad()
        vit(images).square().mean().backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6)


def test_in_half_precision_as_a_whole_it_stays_finite(vit, adapter, images):
    attach(vit, adapter)
    assert torch.isfinite(vit.bfloat16()(images.bfloat16())).all()
    assert torch.isfinite(adapter.bfloat16()(torch.rand(1, 15, 48).bfloat16(), 0, (3, 5))).all()
    assert torch.isfinite(vit(images.bfloat16())).all()


def test_bfloat16_features_stay_finite_and_close(vit, adapter, images):
    attach(vit, adapter)
    expected = vit(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = vit(images)
    assert torch.isfinite(half).all()
    assert (half.float() - expected).norm() < 0.05 * expected.norm()


def test_a_model_of_another_size_is_refused_with_both_sizes(vit):
    with pytest.raises(ConfigError, match="width 64 and 2 blocks, the model has width 48 and 2"):
        attach(vit, CausalTune(64, 2, 6, 3))
    with pytest.raises(ConfigError, match="depth=2"):
        attach(vit, CausalTune(48, 12, 6, 3))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="Linear has no blocks"):
        attach(nn.Linear(2, 2), CausalTune(48, 2, 6, 3))
