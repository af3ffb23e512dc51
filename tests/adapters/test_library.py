"""Adapters in other people's code: their models, trainers, averages and compilers."""

import copy

import pytest
import timm
import torch
from lightning_fabric import Fabric
from timm.utils import ModelEmaV3
from torch import nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Trainer,
    TrainingArguments,
)

import causalseg
from causalseg import adapters
from causalseg.adapters.base import Stages, attach
from causalseg.adapters.causal_tune import CausalTune
from causalseg.backbones.trunk import find_trunk
from causalseg.errors import ConfigError, WeightsError
from causalseg.jobs.train import train_run
from tiny_vit import make_vit

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}
HUGGING_FACE = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, image_size=28)),
    "dinov2_registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SIZES, image_size=28, num_register_tokens=4)
    ),
    "dinov3": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(**SIZES, image_size=28, intermediate_size=64, num_register_tokens=4)
    ),
}
METHODS = {
    "CausalTune": {},
    "Rein": {"layers": [1]},
    "SetAdapter": {},
    "Fada": {},
    "FullTune": {},
    "PeftAdapter": {"name": "dora", "rank": 2},
    "Soma": {"rank": 2},
    "CausalLora": {"rank": 4},
    "AdaptFormer": {},
    "Vpt": {},
}


class AddOne(causalseg.Adapter):
    def forward(self, tokens, layer, grid):
        assert grid == (2, 3)
        return tokens + 1


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_made_for_a_model_by_its_class(name):
    vit = make_vit()
    adapter = getattr(adapters, name).for_model(vit, **METHODS[name])
    assert adapter.widths == (48, 48)
    with attach(vit, adapter):
        vit(torch.rand(1, 3, 28, 42))
    assert causalseg.count_trainable(adapter) > 0
    with pytest.raises(ConfigError, match="no such option"):
        getattr(adapters, name).for_model(vit, **METHODS[name], rnak=3)


def test_stages_have_an_adapter_each_and_prompts_are_refused(tmp_path):
    model = timm.create_model("convnext_atto", pretrained=False).eval()
    adapter = CausalTune.for_model(model, num_tokens=4, rank=2, layers=[1, 3], query_width=8)
    assert isinstance(adapter, Stages)
    assert [part.width for part in adapter.parts] == [80, 320]
    assert adapter.queries().shape == (4, 8)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    adapter.save(tmp_path)
    images, outputs = torch.rand(1, 3, 64, 96), []
    for each in (adapter, causalseg.load_adapter(tmp_path, model)):
        with attach(model, each):
            outputs.append(model(images))
    assert torch.equal(*outputs)
    with pytest.raises(ConfigError, match="Vpt needs the blocks of a ViT"):
        adapters.Vpt.for_model(model)


def last_block_of(model, images, adapter):
    """The output of the last block, with an adapter after it."""
    attachment = adapter and attach(model, adapter.for_model(model, layers=1))
    outputs, block = [], model.get_submodule(find_trunk(model).outputs[-1])
    handle = block.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    model(images)
    handle.remove()
    if attachment:
        attachment.detach()
    return outputs[0]


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_models_of_hugging_face_need_no_attributes_set_by_hand(kind):
    torch.manual_seed(0)
    model, images = HUGGING_FACE[kind]().eval(), torch.rand(2, 3, 28, 42)
    num_prefix = 1 if kind == "dinov2" else 5
    plain, edited = [last_block_of(model, images, adapter) for adapter in (None, AddOne)]
    assert torch.equal(edited[:, num_prefix:], plain[:, num_prefix:] + 1)
    assert torch.equal(edited[:, :num_prefix], plain[:, :num_prefix])
    for adapter in (
        CausalTune.for_model(model),
        adapters.PeftAdapter.for_model(model, targets="all"),
    ):
        before = model(images).last_hidden_state
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        with attach(model, adapter):
            assert not torch.allclose(model(images).last_hidden_state, before, atol=1e-3)
        assert torch.equal(model(images).last_hidden_state, before)


class MetaBlock(nn.Module):
    """Takes and returns a list of batches, as the blocks of Meta's DINOv3 code do, or a tuple."""

    kind = list

    def forward(self, batches):
        return self.kind(batch.clone() for batch in batches)


class MetaVit(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_dim, self.n_storage_tokens = 48, 4
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 48))
        self.patch_embed = nn.Conv2d(3, 48, 14, 14)
        self.patch_embed.patch_size = (14, 14)
        self.blocks = nn.ModuleList([MetaBlock(), MetaBlock()])

    def forward(self, *sizes):
        batches = []
        for images in sizes:
            patches = self.patch_embed(images).flatten(2).transpose(1, 2)
            batches.append(torch.cat([self.cls_token.expand(1, 5, 48), patches], dim=1))
        for block in self.blocks:
            batches = block(batches)
        return batches


def test_blocks_that_give_a_tuple_are_edited_in_its_first(monkeypatch):
    monkeypatch.setattr(MetaBlock, "kind", tuple)
    model, images = MetaVit(), torch.rand(1, 3, 28, 42)
    plain = model(images, images)
    with attach(model, AddOne.for_model(model, layers=[0])):
        edited = model(images, images)
    assert torch.equal(edited[0][:, 5:], plain[0][:, 5:] + 1)
    assert torch.equal(edited[1], plain[1])  # such as attention weights


def test_blocks_that_pass_lists_are_edited_and_several_crops_are_refused():
    model, images = MetaVit(), torch.rand(1, 3, 28, 42)
    (plain,) = model(images)
    with attach(model, AddOne.for_model(model, layers=[0])):
        (edited,) = model(images)
        with pytest.raises(ConfigError, match="2 batches at once"):
            model(images, images)
    assert torch.equal(edited[:, 5:], plain[:, 5:] + 1)
    assert torch.equal(edited[:, :5], plain[:, :5])


class Classifier(nn.Module):
    """What a user trains: a frozen backbone with an adapter, and a head."""

    def __init__(self, name="lora"):
        super().__init__()
        torch.manual_seed(0)
        self.vit = make_vit()
        self.adapter = adapters.PeftAdapter.for_model(self.vit, name=name)
        attach(self.vit, self.adapter)
        self.head = nn.Linear(48, 2)

    def forward(self, pixel_values, labels=None):
        logits = self.head(self.vit(pixel_values).mean(1))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_an_average_of_weights_moves_each_once(name):
    model = Classifier(name)
    average = ModelEmaV3(model, decay=0.9)
    start = {key: value.clone() for key, value in model.adapter.state_dict().items()}
    with torch.no_grad():
        for parameter in model.adapter.parameters():
            parameter.add_(1.0)
    average.update(model)
    for key, value in average.module.adapter.state_dict().items():
        assert torch.allclose(value, start[key] + 0.1, atol=1e-5)
    images = torch.rand(1, 3, 28, 42)
    copied = copy.deepcopy(average.module)
    assert torch.equal(copied(images)["logits"], average.module(images)["logits"])


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_trains_and_saves_it(tmp_path):
    model = Classifier()
    data = [{"pixel_values": torch.rand(3, 28, 28), "labels": i % 2} for i in range(4)]
    options = TrainingArguments(
        tmp_path, max_steps=2, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    before = model.adapter.state_dict()["values.blocks/0/attn/qkv/lora_B/default/weight"].clone()
    Trainer(model, options, train_dataset=data).train()
    saved = sorted(path.name for path in tmp_path.glob("checkpoint-*/model.safetensors"))
    assert len(saved) == 2
    assert not torch.equal(
        model.adapter.state_dict()["values.blocks/0/attn/qkv/lora_B/default/weight"], before
    )


@pytest.mark.slow
def test_a_model_compiled_before_is_compiled_again(tmp_path):
    vit, images = make_vit(), torch.rand(1, 3, 28, 42)
    compiled = torch.compile(vit, backend="eager")
    plain = compiled(images)
    with attach(vit, AddOne.for_model(vit)):
        assert torch.equal(compiled(images), vit(images))
        assert not torch.equal(compiled(images), plain)
    assert torch.equal(compiled(images), plain)


def test_a_loaded_model_has_no_gradients(tiny):
    model = causalseg.load_segmenter(train_run(tiny("train.steps=1")).path)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda vit: CausalTune("48", 2), "CausalTune: width = '48' must be an integer"),
        (lambda vit: CausalTune(48.5, 2), "width = 48.5 must be an integer"),
        (lambda vit: CausalTune([48, 96], 2), r"has one width; .* use CausalTune.for_model"),
        (lambda vit: CausalTune(vit, 12), r"use CausalTune.for_model\(model\)"),
        (lambda vit: CausalTune(48, 0), "depth = 0 must be an integer of at least 1"),
        (lambda vit: adapters.Vpt(48, "2"), "Vpt: depth = '2'"),
        (lambda vit: adapters.AdaptFormer(-48, 2), "width = -48"),
        (lambda vit: CausalTune(48, 2, layers=4), "number of last blocks, at most 2"),
        (lambda vit: CausalTune(48, 2, band=(0.2, 0.7)), "allowed are both, .* or low and high"),
        (lambda vit: CausalTune(48, 2, init={"scale": float("nan")}), "init.scale = nan"),
        (lambda vit: adapters.PeftAdapter(vit, {"rank": 2}), "PeftAdapter takes a LoraAdapterConf"),
        (lambda vit: adapters.PeftAdapter.for_model(vit, name="lra"), "did you mean 'lora'"),
        (lambda vit: adapters.Soma(48), "int has no blocks"),
        (lambda vit: adapters.Chain([]), "at least one adapter"),
    ],
)
def test_a_wrong_argument_is_one_error_that_says_what_is_right(make, message):
    with pytest.raises(ConfigError, match=message):
        make(make_vit())


def test_images_that_timm_pads_to_whole_patches_have_the_grid_of_the_padded_ones():
    vit = make_vit(dynamic_img_pad=True)
    with attach(vit, AddOne.for_model(vit)):  # it checks the grid
        vit(torch.rand(1, 3, 27, 40))


def test_lightning_fabric_trains_saves_and_loads_it(tmp_path):
    model, other = Classifier(), Classifier()
    fabric = Fabric(accelerator="cpu", devices=1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(trained, lr=0.1))
    images, labels = torch.rand(2, 3, 28, 42), torch.tensor([0, 1])
    for _ in range(2):
        fabric.backward(wrapped(images, labels)["loss"])
        optimizer.step()
        optimizer.zero_grad()
    fabric.save(tmp_path / "model.ckpt", {"model": wrapped})
    names = torch.load(tmp_path / "model.ckpt", weights_only=True)["model"]
    assert not any("vit" in name and "lora" in name for name in names)
    fabric.load(tmp_path / "model.ckpt", {"model": other})
    assert torch.equal(other(images)["logits"], model(images)["logits"])


class Former(adapters.AdaptFormer):
    """A user's own variant."""


def test_a_subclass_is_not_restored_as_its_parent(tmp_path):
    vit = make_vit()
    Former(48, 2).save(tmp_path)
    with pytest.raises(WeightsError, match="Former is a class of your own"):
        causalseg.load_adapter(tmp_path, vit)
    with pytest.raises(WeightsError, match="class = Former, here AdaptFormer"):
        adapters.AdaptFormer(48, 2).load_state_dict(Former(48, 2).state_dict())


def test_weights_of_other_stages_or_shapes_are_refused_in_words(tmp_path):
    model = timm.create_model("convnext_atto", pretrained=False)
    one, other = (
        CausalTune.for_model(model, num_tokens=4, rank=2, layers=[layer]) for layer in (1, 2)
    )
    with pytest.raises(WeightsError, match=r"layers = \[1\], here \[2\]"):
        other.load_state_dict(one.state_dict())
    adapters.FullTune(make_vit()).save(tmp_path)
    with pytest.raises(WeightsError, match="belongs to another model; 2 tensors differ"):
        causalseg.load_adapter(tmp_path, make_vit(patch_size=16))
    with pytest.raises(ConfigError, match="2 widths for 4 blocks"):
        AddOne([48, 96], 4)


def test_an_option_that_is_younger_than_the_file_is_at_its_default():
    adapter = CausalTune(48, 2)
    about = adapter.describe()
    del about["suppress"]
    adapter.check_same(about)
    with pytest.raises(WeightsError, match="init = minor"):
        adapters.CausalLora(make_vit()).check_same(
            adapters.CausalLora(make_vit(), init="minor").describe()
        )


def test_a_finetuned_backbone_alone_has_all_its_weights():
    vit, adapter = make_vit(), adapters.FullTune(make_vit())
    with attach(vit, adapter):
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1)
        state, expected = vit.state_dict(), vit(torch.ones(1, 3, 28, 28))
    other = make_vit()
    other.load_state_dict(state)
    assert torch.equal(other(torch.ones(1, 3, 28, 28)), expected)
