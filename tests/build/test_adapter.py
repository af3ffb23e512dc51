"""Every adapter by its name: built, trained, saved, loaded, placed, joined, merged."""

import pytest
import torch
import yaml
from torch.optim import AdamW

from causalseg.adapters.base import Chain
from causalseg.adapters.intervene import MixStyle
from causalseg.adapters.tokens import BlockTokens
from causalseg.build.adapter import place
from causalseg.build.model import build_segmenter, check_method
from causalseg.config.adapters import _Part, label
from causalseg.config.load import dump_config, parse_config
from causalseg.engine.schedule import parameter_groups
from causalseg.errors import ConfigError
from conftest import SMALL_MASK2FORMER

NAMES = {
    "none": "none",
    "full": "full",
    "rein": "{name: rein, num_tokens: 4, rank: 2}",
    "set": "{name: set, num_tokens: 4, rank: 2}",
    "fada": "{name: fada, num_tokens: 4, rank: 2}",
    "lora": "{name: lora, rank: 2}",
    "dora": "{name: dora, rank: 2}",
    "soma": "{name: soma, rank: 2}",
    "causal_lora": "{name: causal_lora, rank: 2}",
    "peft": "{name: peft, type: LOKR, options: {r: 2}}",
    "adaptformer": "{name: adaptformer, bottleneck: 4}",
    "vpt": "{name: vpt, num_prompts: 2}",
    "causal_tune": "{name: causal_tune, num_tokens: 4, rank: 2}",
    "chain": "[{name: lora, rank: 2}, {name: causal_tune, num_tokens: 4, rank: 2}]",
}
VARIANTS = {
    "fft": "{transform: fft, num_tokens: 4}",
    "haar": "{transform: haar, num_tokens: 4}",
    "released": "{recipe: released, num_tokens: 4}",  # on square images
    "full path": "{recipe: full_path, num_tokens: 4}",
    "suppress": "{suppress: true, num_tokens: 4}",
    "low removed": "{band: low_removed, num_tokens: 4}",
}
CHAIN = NAMES["chain"]
TOKEN_VARIANTS = [VARIANTS[name] for name in ("fft", "haar", "released", "full path")]

SQUARE = ("train.crop=[32, 32]", "eval.size=[32, 32]")


def batch(size=(32, 32)):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *size, generator=generator)
    return images, torch.randint(0, 3, (2, *size), generator=generator)


def test_the_table_names_every_adapter_there_is():
    names = {kind.model_fields["name"].default for kind in _Part.__args__}
    assert names | {"none", "chain"} == set(NAMES)


@pytest.mark.parametrize("head", ["head=linear", SMALL_MASK2FORMER], ids=["linear", "mask2former"])
@pytest.mark.parametrize("adapter", [*NAMES.values(), *VARIANTS.values()], ids=[*NAMES, *VARIANTS])
def test_it_trains_adapter_and_head_and_nothing_else(tiny, adapter, head):
    config = tiny("adapter=" + adapter, head, "intervene=spectral", *SQUARE)
    if adapter == "none":
        config = tiny("adapter=none", head)
    model = build_segmenter(config).train()
    parts = model.trainable()
    trained = {id(p) for part in parts.values() for p in part.parameters()}
    start = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = AdamW(parameter_groups(model, 1e-2, None, 0.1))
    torch.manual_seed(0)
    model.loss(*batch()).backward()
    for parameter in model.parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (id(parameter) in trained)
    optimizer.step()
    now = model.state_dict()
    for name, parameter in model.named_parameters():
        has_moved = not torch.equal(start[name], now[name])
        is_idle = parameter.grad is None or not parameter.grad.any()  # LoRA's A at first
        assert has_moved == (id(parameter) in trained) or is_idle, name
        assert name.startswith(("adapter.", "head.")) == (id(parameter) in trained), name


@pytest.mark.parametrize("adapter", [*NAMES.values(), *VARIANTS.values()], ids=[*NAMES, *VARIANTS])
def test_saved_loaded_and_merged_it_gives_the_same_logits(tiny, adapter, tmp_path):
    config = tiny("adapter=" + adapter, *SQUARE)
    model = build_segmenter(config)
    with torch.no_grad():
        for part in model.trainable().values():
            for parameter in part.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save(tmp_path)
    loaded = build_segmenter(config)
    loaded.load(tmp_path)
    images, _ = batch()
    model.eval()
    loaded.eval()
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(loaded(images), expected)
        loaded.merge()
        assert torch.allclose(loaded(images), expected, atol=1e-5)


def test_a_configuration_written_and_read_again_is_the_same(tiny):
    for adapter in (*NAMES.values(), *VARIANTS.values()):
        config = tiny("adapter=" + adapter, *SQUARE)
        assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_a_chain_has_one_query_link_that_of_the_last_adapter_with_tokens(tiny):
    parts = "[{name: rein, num_tokens: 4}, {name: causal_tune, num_tokens: 4}, adaptformer]"
    config = tiny("adapter=" + parts, SMALL_MASK2FORMER)
    assert label(config.adapter) == "rein + causal_tune + adaptformer"
    model = build_segmenter(config)
    assert isinstance(model.adapter, Chain)
    rein, causal_tune, adaptformer = model.adapter.parts
    assert rein.queries() is None
    assert adaptformer.queries() is None
    assert torch.equal(model.adapter.queries(), causal_tune.queries())


def test_without_its_link_a_method_leaves_the_queries_to_another_or_to_the_head(tiny):
    unlinked = "{name: rein, num_tokens: 3, query_link: false}"  # other than the 4 queries
    model = build_segmenter(tiny("adapter=" + unlinked, SMALL_MASK2FORMER))
    assert model.adapter.queries() is None
    assert model.head.query_content.weight.shape == (4, 32)
    parts = f"[{{name: causal_tune, num_tokens: 4}}, {unlinked}]"
    model = build_segmenter(tiny("adapter=" + parts, SMALL_MASK2FORMER))
    assert torch.equal(model.adapter.queries(), model.adapter.parts[0].queries())
    assert not hasattr(model.head, "query_content")


LINKED = ["{name: rein, num_tokens: 4}", "{name: set, num_tokens: 4}", CHAIN, *TOKEN_VARIANTS]


@pytest.mark.parametrize("adapter", LINKED)
def test_linked_queries_start_as_far_apart_as_a_heads_own(tiny, adapter):
    def deviation(*overrides):
        config = tiny("adapter=" + adapter, SMALL_MASK2FORMER, *SQUARE, *overrides)
        return build_segmenter(config).adapter.queries().std(0, correction=0).square().mean().sqrt()

    assert deviation().item() == pytest.approx(1)


def test_the_start_of_linked_queries_may_be_that_of_rein(tiny):
    def build(spread):
        adapter = f"{{name: causal_tune, num_tokens: 4, init: {{query_std: {spread}}}}}"
        return build_segmenter(tiny("adapter=" + adapter, SMALL_MASK2FORMER))

    wide, plain = build(0.5), build("null")
    assert plain.adapter.queries().std(0).max() < 0.05
    for (name, one), other in zip(wide.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other) == (name != "adapter.link.transform.weight")


@pytest.mark.parametrize("method", ["rein", "rein, rank: null", "set", "fada", "causal_tune"])
def test_tokens_may_start_larger(tiny, method):
    def build(spread):
        return build_segmenter(tiny(f"adapter={{name: {method}, init: {{token_std: {spread}}}}}"))

    large, plain = build(4), build("null")
    tokens = [m() for m in large.modules() if isinstance(m, BlockTokens)]
    assert tokens
    for each in tokens:
        assert each.std().item() == pytest.approx(4, rel=1e-4)
    for (name, one), other in zip(large.named_parameters(), plain.parameters(), strict=True):
        is_token = name.rpartition(".")[2] in ("A", "B", "T")
        assert torch.equal(one, other) == (not is_token), name
        if is_token:
            torch.testing.assert_close(one / one.norm(), other / other.norm())


def test_interventions_change_features_in_training_alone(tiny):
    images, labels = batch()
    plain = build_segmenter(tiny("adapter=none"))
    for kind in ("spectral", "mixstyle", "dsu"):
        model = build_segmenter(tiny("adapter=none", f"intervene={{kind: {kind}, p: 1}}"))
        assert torch.equal(model.eval()(images), plain.eval()(images))
        torch.manual_seed(0)
        changed = model.train().loss(images, labels)
        assert not torch.allclose(changed, plain.train().loss(images, labels), atol=1e-4)


def test_interventions_happen_after_the_blocks_named(tiny):
    images, _ = batch()
    model = build_segmenter(tiny("adapter=none", "intervene={p: 1, layers: 1}")).train()
    plain = build_segmenter(tiny("adapter=none"))
    *shallow, last = (
        torch.equal(a, b)
        for a, b in zip(model.backbone(images), plain.backbone(images), strict=True)
    )
    assert all(shallow)
    assert not last


def test_layers_are_a_list_or_the_last_k_that_reach_the_head(tiny):
    backbone = build_segmenter(tiny("adapter=none")).backbone
    depth = backbone.depth
    assert place(None, backbone) == list(range(depth))
    assert place([0, 1], backbone) == [0, 1]
    assert place(2, backbone) == [depth - 2, depth - 1]
    with pytest.raises(ConfigError, match=f"99: .*at most {depth}.*{depth} blocks"):
        place(99, backbone)
    backbone = build_segmenter(tiny("adapter=none", "backbone.levels=[0,0,1,1]")).backbone
    assert place(None, backbone) == [0, 1]
    assert place(1, backbone) == [1]
    with pytest.raises(ConfigError, match="2 blocks of the backbone reach the head"):
        place([2], backbone)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter={recipe: released, band: all}"], "band has no effect with recipe=released"),
        (["adapter.band=middle"], "allowed are both, low_removed, high_removed, all"),
        (["intervene=style"], "spectral"),
        (["adapter=[]"], "at least 1"),
        (["adapter=[none]"], "unknown name"),
        (["adapter={name: lora, targets: [attn.q]}"], "attn.qkv"),
        (["adapter={name: rein, layers: [99]}"], "blocks from 0"),
        (["adapter={name: rein, layers: true}"], "layers"),
        (["intervene.layers=[99]"], "blocks from 0"),
        (["intervene.low=0.1"], "low has no effect with low_gain=null"),
        (["intervene=dsu", "train.batch=1"], "needs two at least"),
        (["adapter={recipe: released}"], "make train.crop square"),
        (["adapter={recipe: released}", "train.crop=[32, 32]"], "make eval.size square"),
        (["adapter=[lora, dora]"], "attn.qkv"),
        (["adapter=[lora, full]"], "this adapter before others"),
        (["adapter={transform: haar, band: {low: 0.7, high: null}}"], "allowed are both, low_rem"),
        (["adapter={band: {high: .inf}}"], "high = inf"),
        (["adapter={init: {kind: small, scale: .nan}}"], "scale = nan"),
        (["adapter={query_link: false}"], "query_link = false has no effect with head = linear"),
        (["adapter={init: {query_std: 2}}"], "query_std = 2.0 has no effect"),
        (["adapter={init: {query_std: null}, query_link: false}", SMALL_MASK2FORMER], "of causal"),
        (
            [
                "adapter=[{name: rein, init: {query_std: 2}}, {name: causal_tune, num_tokens: 4}]",
                SMALL_MASK2FORMER,
            ],
            "not made of the tokens of rein",
        ),
        (["adapter=[full, soma]"], "no other full, soma or bias=adapted with it"),
        (["adapter=[full, {name: lora, bias: adapted}]"], "full trains all weights"),
        (["adapter={name: peft, type: LORA, options: {rank_pattern: 3}}"], "LORA refuses"),
    ],
)
def test_a_mistake_is_named(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_segmenter(tiny(*overrides))
    with pytest.raises(ConfigError, match=message):  # the same without weights
        check_method(tiny(*overrides))


@pytest.mark.parametrize("adapter", [*NAMES.values(), *VARIANTS.values()], ids=[*NAMES, *VARIANTS])
def test_a_method_is_checked_without_weights(tiny, adapter):
    check_method(tiny("adapter=" + adapter, *SQUARE))


def test_an_intervention_on_one_side_may_have_any_radius(tiny):
    images, _ = batch()
    model = build_segmenter(tiny("adapter=none", "intervene={p: 1, high: 0.15}"))
    assert not torch.equal(model.train()(images), model.eval()(images))
    check_method(tiny("intervene={high_gain: null, low_gain: [0.5, 1.5], low: 0.8}"))


def test_full_trains_no_block_beyond_the_last_that_reaches_the_head(tiny):
    images, labels = batch()
    model = build_segmenter(tiny("adapter=full", "backbone.levels=[0,0,0,0]"))
    assert {key.split("/")[1] for key in model.adapter.values if key.startswith("blocks")} == {"0"}
    assert "patch_embed/proj/weight" in model.adapter.values
    model.train().loss(images, labels).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_second_intervention_takes_the_place_of_the_first(tiny):
    images, _ = batch()
    model = build_segmenter(tiny("adapter=none", "intervene={p: 1}"))
    model.intervene(MixStyle(p=1))
    model.eval()
    assert torch.equal(model(images), build_segmenter(tiny("adapter=none")).eval()(images))
