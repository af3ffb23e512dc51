"""What every adapter must keep when it is attached to a model, whatever its method.

One table of all adapters. What the authors' released code computes is not in it: there, images of
a batch depend on one another, and grids must be square.
"""

import copy
import io
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import causalseg
from causalseg.adapters.ablations.literal import CausalTuneFFT, CausalTuneHaar
from causalseg.adapters.adaptformer import AdaptFormer
from causalseg.adapters.base import Adapter, Chain, attach
from causalseg.adapters.causal_lora import CausalLora
from causalseg.adapters.causal_tune import CausalTune
from causalseg.adapters.fada import Fada
from causalseg.adapters.full import FullTune
from causalseg.adapters.peft import PeftAdapter
from causalseg.adapters.rein import Rein
from causalseg.adapters.set import SetAdapter
from causalseg.adapters.soma import Soma
from causalseg.adapters.vpt import Vpt
from causalseg.config.adapters import DoraAdapterConfig, LoraAdapterConfig, PeftAdapterConfig
from causalseg.errors import ConfigError, WeightsError
from tiny_vit import SIZE, make_vit

make_backbone = partial(make_vit, final_norm=False)  # a last norm would rescale every change
TOKENS = {"width": 48, "depth": 2, "num_tokens": 6, "rank": 3}
# Edits of the patch tokens after each block. Prefix tokens pass by, and the start is no edit...
AFTER_BLOCKS = {
    "causal_tune-centered": lambda vit: CausalTune(**TOKENS, recipe="centered"),
    "causal_tune-paper": lambda vit: CausalTune(**TOKENS, recipe="paper"),
    "causal_tune-suppress": lambda vit: CausalTune(**TOKENS, recipe="centered", suppress=True),
    "causal_tune-full_path": lambda vit: CausalTune(**TOKENS, recipe="full_path"),
    "causal_tune-last_block": lambda vit: CausalTune(**TOKENS, layers=[1]),
    "causal_tune-fft": lambda vit: CausalTuneFFT(**TOKENS, recipe="centered"),
    "causal_tune-haar": lambda vit: CausalTuneHaar(**TOKENS, recipe="centered"),
    "rein": lambda vit: Rein(**TOKENS),
    "rein-full_tokens": lambda vit: Rein(48, 2, num_tokens=6, rank=None),
    "set": lambda vit: SetAdapter(**TOKENS),
    "fada": lambda vit: Fada(**TOKENS),
    "chain-rein-causal_tune": lambda vit: Chain([Rein(**TOKENS), CausalTune(**TOKENS)]),
}
# ... or a small one, as published.
SMALL_START = {
    "causal_tune-centered-small": lambda vit: CausalTune(**TOKENS, recipe="centered", init="small"),
    "causal_tune-paper-small": lambda vit: CausalTune(**TOKENS, recipe="paper", init="small"),
    "causal_tune-fft-small": lambda vit: CausalTuneFFT(**TOKENS, recipe="centered", init="small"),
    "rein-small": lambda vit: Rein(**TOKENS, init="small"),
    "set-small": lambda vit: SetAdapter(**TOKENS, init="small"),
    "fada-small": lambda vit: Fada(**TOKENS, init="small"),
}
AFTER_BLOCKS |= SMALL_START
# Changes within the blocks that start as the backbone itself.
INSIDE = {
    "full": lambda vit: FullTune(vit),
    "full-last_block": lambda vit: FullTune(vit, layers=[1]),
    "lora": lambda vit: PeftAdapter(vit, LoraAdapterConfig(rank=2)),
    "lora-all-last_block": lambda vit: PeftAdapter(
        vit, LoraAdapterConfig(rank=4, targets="all", layers=[1])
    ),
    "lora-bias": lambda vit: PeftAdapter(vit, LoraAdapterConfig(rank=2, bias="adapted")),
    "dora": lambda vit: PeftAdapter(vit, DoraAdapterConfig(rank=2)),
    "peft-loha": lambda vit: PeftAdapter(vit, PeftAdapterConfig(type="LOHA", options={"r": 2})),
    "peft-ia3": lambda vit: PeftAdapter(vit, PeftAdapterConfig(type="IA3", targets=["attn.proj"])),
    "dora-bias": lambda vit: PeftAdapter(vit, DoraAdapterConfig(rank=2, bias="adapted")),
    "soma": lambda vit: Soma(vit, rank=2),
    "soma-bias": lambda vit: Soma(vit, rank=2, bias="adapted"),
    "causal_lora": lambda vit: CausalLora(vit, rank=4, split={"low": 1, "causal": 1, "high": 1}),
    "causal_lora-minor": lambda vit: CausalLora(vit, rank=4, init="minor", split={"all": 1}),
    "adaptformer": lambda vit: AdaptFormer(48, 2, bottleneck=4),
    "chain-lora-adaptformer": lambda vit: Chain(
        [PeftAdapter(vit, LoraAdapterConfig(rank=2)), AdaptFormer(48, 2, bottleneck=4)]
    ),
}
PROMPTS = {"vpt": lambda vit: Vpt(48, 2, num_prompts=3)}
MIXED = {
    "chain-lora-causal_tune": lambda vit: Chain(
        [PeftAdapter(vit, LoraAdapterConfig(rank=2)), CausalTune(**TOKENS)]
    ),
    "chain-causal_tune-vpt": lambda vit: Chain([CausalTune(**TOKENS), Vpt(48, 2, num_prompts=3)]),
}
ADAPTERS = AFTER_BLOCKS | INSIDE | PROMPTS | MIXED


def make_trained(name, vit):
    """An adapter away from its start, where every part of it has an effect."""
    torch.manual_seed(1)
    adapter = ADAPTERS[name](vit)
    with torch.no_grad():
        for key, parameter in adapter.named_parameters():
            if key.endswith("scale"):
                parameter.fill_(0.5)
            else:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return adapter.eval()


@pytest.fixture
def vit():
    return make_backbone()


@pytest.fixture(params=ADAPTERS)
def adapter(request, vit):
    return make_trained(request.param, vit)


@pytest.fixture(autouse=True)
def forget_compiled_code():
    torch._dynamo.reset()  # it counts recompilations of the same lines over all tests


def test_making_it_leaves_the_model_as_it_was(vit, adapter):
    plain = make_backbone()
    assert list(vit.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(vit.parameters(), plain.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in vit.parameters())
    assert isinstance(adapter, Adapter)


def test_it_takes_the_mode_of_the_model(vit, adapter):
    for mode in (True, False):
        adapter.train(not mode)
        with attach(vit.train(mode), adapter):
            assert {module.training for module in adapter.modules()} == {mode}


def test_it_changes_the_output_and_detaching_restores_it_bit_for_bit(vit, adapter, images):
    before, names = vit(images), list(vit.state_dict())
    with attach(vit, adapter):
        assert not torch.allclose(vit(images), before, atol=1e-3)
    assert torch.equal(vit(images), before)
    attachment = attach(vit, adapter)
    attachment.detach()
    attachment.detach()
    assert torch.equal(vit(images), before)
    assert list(vit.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in vit.parameters())


@pytest.mark.parametrize("name", SMALL_START)
def test_the_published_initialisation_starts_small_but_not_at_nothing(vit, images, name):
    before = vit(images)
    with attach(vit, SMALL_START[name](vit)):
        change = (vit(images) - before).norm() / before.norm()
    assert 0 < change < 0.01


@pytest.mark.parametrize("name", [*(n for n in AFTER_BLOCKS if n not in SMALL_START), *INSIDE])
def test_all_others_start_as_the_backbone(vit, images, name):
    before = vit(images)
    with attach(vit, ADAPTERS[name](vit)):
        assert torch.allclose(vit(images), before, atol=1e-5)


@pytest.mark.parametrize("name", AFTER_BLOCKS)
@pytest.mark.parametrize(("class_token", "num_registers"), [(False, 0), (True, 0), (True, 4)])
def test_prefix_tokens_of_a_block_pass_untouched(images, name, class_token, num_registers):
    vit = make_backbone(class_token=class_token, reg_tokens=num_registers)
    outputs = []
    block = vit.blocks[1]
    block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    with attach(vit, make_trained(name, vit)):
        block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        vit(images)
    plain, adapted = outputs
    num_prefix = class_token + num_registers
    assert plain.shape[1] == num_prefix + 15
    assert torch.equal(plain[:, :num_prefix], adapted[:, :num_prefix])
    assert (plain[:, num_prefix:] != adapted[:, num_prefix:]).any(-1).all()


class Whole(nn.Module):
    """A user's own model."""

    def __init__(self, vit, adapter):
        super().__init__()
        self.vit, self.adapter = vit, adapter
        attach(vit, adapter)

    def forward(self, images):
        return self.vit(images)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_tensor_has_one_name_and_loads_by_it(images, name, tmp_path):
    model, other = [
        Whole(vit, make_trained(name, vit)) for vit in (make_backbone(), make_backbone())
    ]
    state = model.state_dict()
    places = [tensor.data_ptr() for tensor in state.values() if tensor.numel()]
    assert len(set(places)) == len(places)
    own = {f"adapter.{key}" for key in model.adapter.state_dict()}
    assert own == {key for key in state if key.startswith("adapter.")}
    save_file(state, tmp_path / "model.safetensors")  # refuses tensors of two names
    with torch.no_grad():
        for parameter in other.adapter.parameters():
            parameter.zero_()
    before = other(images)
    for assign in (False, True):
        loaded = load_file(tmp_path / "model.safetensors")
        # Copies, aligned as torch does it: on some CPUs a product rounds by its operands' address.
        loaded = {key: tensor.clone() for key, tensor in loaded.items()}
        other.load_state_dict(loaded, assign=assign)
        assert torch.equal(other(images), model(images))
        assert not torch.equal(other(images), before)


def test_saved_weights_know_what_they_are_of(vit, images, adapter, tmp_path):
    adapter.save(tmp_path)
    again = causalseg.load_adapter(tmp_path, vit)
    assert type(again) is type(adapter)
    assert again.describe() == adapter.describe()
    outputs = []
    for model, each in ((vit, adapter), (make_backbone(), again)):
        with attach(model, each):
            outputs.append(model(images))
    assert torch.equal(*outputs)
    assert f"{causalseg.count_trainable(adapter):,} trainable" in repr(adapter) or adapter.parts
    with pytest.raises(WeightsError, match=r"adapter.safetensors is for blocks of widths \[48, 48"):
        causalseg.load_adapter(tmp_path, make_vit(depth=3))


@pytest.mark.parametrize(
    ("saved", "loaded", "said"),
    [
        ("causal_tune-centered", "causal_tune-paper", "recipe = centered, here paper"),
        ("causal_tune-last_block", "causal_tune-paper", "layers"),
        ("lora", "dora", "name = lora, here dora"),
        ("soma", "lora", "name = soma, here lora"),
        ("causal_lora", "causal_lora-minor", "split"),
        ("chain-rein-causal_tune", "chain-lora-causal_tune", "name = rein, here lora"),
    ],
)
def test_weights_of_another_recipe_are_refused(vit, saved, loaded, said):
    state = make_trained(saved, vit).state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)  # a checkpoint keeps it too
    buffer.seek(0)
    for weights in (state, torch.load(buffer, weights_only=True)):
        with pytest.raises(WeightsError, match=said):
            make_trained(loaded, vit).load_state_dict(weights)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(("class_token", "num_registers"), [(False, 0), (True, 4)])
def test_it_works_with_any_number_of_prefix_tokens(images, name, class_token, num_registers):
    vit = make_backbone(class_token=class_token, reg_tokens=num_registers)
    before = vit(images)
    with attach(vit, make_trained(name, vit)):
        after = vit(images)
    assert after.shape == before.shape
    assert not torch.allclose(after, before, atol=1e-3)


def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(vit, adapter, images):
    with attach(vit, adapter), torch.no_grad():
        together = vit(images)
        alone = torch.cat([vit(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_only_the_adapter_trains_and_every_part_of_it_moves(vit, adapter, images):
    frozen = list(vit.parameters())
    state = copy.deepcopy(vit.state_dict())
    start = copy.deepcopy(adapter.state_dict())
    with attach(vit, adapter):
        vit(images).square().mean().backward()
        assert all(p.grad is None for p in {*frozen, *vit.parameters()} - {*adapter.parameters()})
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
        torch.optim.SGD(adapter.parameters(), lr=1.0).step()
    after = vit.state_dict()
    assert all(torch.equal(after[name], state[name]) for name in state)
    moved = {name for name, _ in adapter.named_parameters()}
    now = adapter.state_dict()
    assert all(torch.equal(now[name], start[name]) != (name in moved) for name in now)


def test_every_parameter_has_a_learning_rate(adapter):
    assert all(0 < adapter.rate(name) <= 1 for name, _ in adapter.named_parameters())


def test_merged_it_gives_the_same_features_and_detaches_as_before(vit, adapter, images):
    before, state = vit(images), copy.deepcopy(vit.state_dict())
    with attach(vit, adapter), torch.no_grad():
        expected = vit(images)
        adapter.merge()
        assert torch.allclose(vit(images), expected, atol=1e-5)
    assert torch.equal(vit(images), before)
    after = vit.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], state[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in vit.parameters())


@pytest.mark.parametrize("is_merged", [False, True])
def test_a_model_converted_while_attached_is_whole_when_detached(vit, adapter, images, is_merged):
    attachment = attach(vit, adapter)
    if is_merged:
        adapter.merge()
    nn.ModuleList([vit, adapter]).double()
    attachment.detach()
    assert {parameter.dtype for parameter in vit.parameters()} == {torch.float64}
    assert torch.equal(vit(images.double()), make_backbone().double()(images.double()))


@pytest.mark.parametrize("name", ADAPTERS)
def test_saved_and_loaded_into_a_new_one_it_gives_the_same_features(vit, images, name):
    adapter = make_trained(name, vit)
    torch.manual_seed(5)
    other = ADAPTERS[name](vit).eval()
    other.load_state_dict(adapter.state_dict())
    with attach(vit, adapter):
        expected = vit(images)
    with attach(vit, other):
        assert torch.equal(vit(images), expected)


def test_threads_with_images_of_other_sizes_do_not_disturb_each_other(vit, adapter):
    batches = [torch.full((1, 3, *size), 0.5) for size in ((28, 56), (42, 42))]
    meeting = Barrier(len(batches))

    def meet(*_):
        meeting.wait(60)

    def features(batch):
        try:
            return vit(batch)
        except Exception:
            meeting.abort()  # the other thread does not wait for this one
            raise

    with attach(vit, adapter), torch.inference_mode():
        expected = [vit(batch) for batch in batches]
        for block in vit.blocks:  # no thread goes on before the other is there, in every block
            block.mlp.register_forward_hook(meet)
        with ThreadPoolExecutor(len(batches)) as pool:
            made = list(pool.map(features, batches))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(made, expected, strict=True))


@pytest.mark.parametrize("name", ADAPTERS)
def test_weights_assigned_while_attached_have_their_effect(vit, images, name):
    adapter, other = make_trained(name, vit), ADAPTERS[name](vit).eval()
    with attach(vit, adapter):
        expected = vit(images)
    with attach(vit, other):
        saved = {key: value.clone() for key, value in adapter.state_dict().items()}
        other.load_state_dict(saved, assign=True)
        assert torch.equal(vit(images), expected)
        vit(images).square().mean().backward()
        assert all(p.grad is not None for p in other.parameters() if p.requires_grad)
    assert torch.equal(vit(images), make_backbone()(images))


@pytest.mark.parametrize("second", ["full", "soma", "soma-bias"])
def test_an_adapter_below_another_is_not_detached_first(vit, images, second):
    first = attach(vit, make_trained("full", vit))
    between = vit(images)
    above = attach(vit, ADAPTERS[second](vit))
    with pytest.raises(ConfigError, match="detach that one first"):
        first.detach()
    above.detach()
    assert torch.equal(vit(images), between)
    first.detach()
    assert torch.equal(vit(images), make_backbone()(images))


def test_an_attachment_is_entered_once(vit):
    attachment = attach(vit, make_trained("lora", vit))
    with attachment, pytest.raises(ConfigError, match="entered before"):
        attachment.__enter__()


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
    assert not torch.allclose(twin["vit"](images), expected, atol=1e-3)
    assert torch.equal(vit(images), expected)


@pytest.mark.slow
def test_compiled_without_graph_breaks_it_gives_the_same_features(vit, adapter, images):
    attach(vit, adapter)
    expected = vit(images)
    compiled = torch.compile(vit, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(images), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["causal_tune-centered", "set", "chain-lora-causal_tune"])
def test_compiled_to_machine_code_it_gives_the_same_features(vit, images, name):
    attach(vit, make_trained(name, vit))
    expected = vit(images)
    compiled = torch.compile(vit, fullgraph=True)
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
    vit.bfloat16()
    adapter.bfloat16()
    assert torch.isfinite(vit(images.bfloat16())).all()


def test_bfloat16_features_stay_finite_and_close(vit, adapter, images):
    attach(vit, adapter)
    expected = vit(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = vit(images)
    assert torch.isfinite(half).all()
    # SET edits phases, which rounding changes freely where the amplitude is next to nothing.
    limit = 0.3 if isinstance(adapter, SetAdapter) else 0.05
    assert (half.float() - expected).norm() < limit * expected.norm()


@pytest.mark.gpu
def test_moved_to_a_gpu_while_attached_it_gives_the_same_features(vit, adapter, images):
    attachment = attach(vit, adapter)
    expected = vit(images)
    nn.ModuleList([vit, adapter]).cuda()
    assert torch.allclose(vit(images.cuda()).cpu(), expected, atol=1e-3)
    attachment.detach()
    assert torch.allclose(vit(images.cuda()).cpu(), make_backbone()(images), atol=1e-3)


def test_a_model_of_another_size_is_refused_with_both_sizes(vit):
    with pytest.raises(ConfigError, match="width=64, depth=2, the model has width=48, depth=2"):
        attach(vit, CausalTune(64, 2))
    with pytest.raises(ConfigError, match="depth=2"):
        attach(vit, CausalTune(48, 12))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="Linear has no blocks"):
        attach(nn.Linear(2, 2), CausalTune(48, 2))
