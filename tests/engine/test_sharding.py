"""Sharded frozen weights: the same losses and gradients, for every kind of method."""

from types import SimpleNamespace

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from causalseg.build.model import build_segmenter
from causalseg.engine.sharding import gathered, shard_frozen
from causalseg.errors import ConfigError

ALONE = SimpleNamespace(device=torch.device("cpu"), world_size=1)


@pytest.fixture(autouse=True)
def group(tmp_path):
    store = f"file://{tmp_path}/store"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def gradients(model):
    torch.manual_seed(1)
    images, labels = torch.rand(2, 3, 32, 64), torch.randint(0, 3, (2, 32, 64))
    torch.manual_seed(2)
    model.train().loss(images, labels).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


METHODS = [
    ["adapter=none"],
    ["adapter={name: causal_tune, num_tokens: 4, rank: 2}", "backbone.checkpointing=true"],
    ["adapter={name: rein, num_tokens: 4, rank: 2}"],
    ["adapter={name: set, num_tokens: 4}"],
    ["adapter={name: fada, num_tokens: 4}"],
    ["adapter={name: adaptformer}"],
    ["adapter={name: vpt, num_prompts: 4}"],
    ["adapter={name: lora, rank: 2}"],
    ["adapter={name: dora, rank: 2}"],
    ["adapter={name: soma, rank: 2, bias: adapted}"],
    ["adapter={name: causal_lora, rank: 2}"],
    ["adapter={name: full, layers: 1}"],
    ["adapter=[{name: lora, rank: 2}, {name: causal_tune, num_tokens: 4, rank: 2}]"],
    ["adapter={name: lora, rank: 2}", "intervene={p: 0.5}", "backbone.repair=shift_average"],
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_sharding_changes_no_gradient(tiny, method):
    model, whole = build_segmenter(tiny(*method)), build_segmenter(tiny(*method))
    shard_frozen(ALONE, model)
    frozen = {name: p for name, p in model.backbone.vit.named_parameters() if not p.requires_grad}
    assert any(isinstance(p, DTensor) for name, p in frozen.items())
    expected = gradients(whole)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name])
    images = torch.rand(1, 3, 64, 32)
    with gathered(model.eval()), torch.inference_mode():
        torch.testing.assert_close(model(images), whole.eval()(images))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["adapter=full"], "this adapter trains all of them: set run.strategy=ddp"),
        (["backbone.name=test_convnext", "train.crop=[32,64]"], "ConvNeXt has others"),
    ],
)
def test_what_has_no_frozen_blocks_of_tokens_is_refused(tiny, options, text):
    with pytest.raises(ConfigError, match=text):
        shard_frozen(ALONE, build_segmenter(tiny(*options)))
