"""mmdet's Mask2Former head, restated from its formulas, against ours with the same tensors.

The restatement reads tensors by mmdet's names and knows nothing of ours, so equal results prove
names, order of levels and layers, and the place of "no object".
"""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional

from causalseg.config.heads import Mask2FormerHeadConfig
from causalseg.errors import WeightsError
from causalseg.heads.mask2former import Mask2FormerHead
from causalseg.jobs.importing.mask2former import name_in_mmdet, read_size
from published import HEADS, LEVELS, POINTS, fill, head

WIDTH, HIDDEN, CLASSES, INNER = 24, 64, 5, 32
GRID = (4, 6)  # patches
OPTIONS = Mask2FormerHeadConfig(
    hidden=HIDDEN,
    num_queries=7,
    encoder_layers=2,
    decoder_layers=4,  # one more than levels: the first is seen twice
    feedforward=INNER,
)


def affine(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(w, name, x):
    variance = x.var(-1, correction=0, keepdim=True)
    x = (x - x.mean(-1, keepdim=True)) / (variance + 1e-5).sqrt()
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def convolve(w, name, x):
    """A convolution that keeps the size, and the group norm after it."""
    kernel = w[f"{name}.conv.weight"]
    x = functional.conv2d(x, kernel, w.get(f"{name}.conv.bias"), padding=kernel.shape[-1] // 2)
    return functional.group_norm(x, 32, w[f"{name}.gn.weight"], w[f"{name}.gn.bias"])


def resize(x, size):
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def feed_forward(w, name, x):
    return x + affine(w, f"{name}.layers.1", affine(w, f"{name}.layers.0.0", x).relu())


def attend(w, name, query, key, value, forbidden=None):
    """Multi-head attention on (b n d); ``forbidden`` (b q n) is True where nobody may look."""
    weights, biases = w[f"{name}.in_proj_weight"].chunk(3), w[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (
        (x @ weight.T + bias).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if forbidden is not None:
        scores = scores.masked_fill(forbidden[:, None], -math.inf)
    return affine(w, f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def sine(size, width):
    """Positions (1 d h w): y in the first half of the channels, x in the second."""
    pair = 2 * (torch.arange(width // 2) // 2) / (width // 2)
    halves = []
    for axis, cells in enumerate(size):
        position = 2 * math.pi * torch.arange(1, cells + 1) / (cells + 1e-6)
        angle = position[:, None] / 10000**pair
        waves = torch.where(torch.arange(width // 2) % 2 == 0, angle.sin(), angle.cos()).T
        halves.append(waves[..., None] if axis == 0 else waves[:, None])
    return torch.cat([half.expand(-1, *size) for half in halves])[None]


close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def rows(x):
    """(b d h w) -> (b n d)."""
    return x.flatten(2).mT


def centres(H, W):
    """Centres (n 2) of the cells of a grid, x and y in [0, 1]."""
    x, y = torch.meshgrid((torch.arange(W) + 0.5) / W, (torch.arange(H) + 0.5) / H, indexing="xy")
    return torch.stack([x, y], -1).flatten(0, 1)


def deform(w, name, query, value, sizes):
    """Every query samples every level at points around its own place."""
    places = torch.cat([centres(*size) for size in sizes])
    heads = (HEADS, LEVELS, POINTS)
    offsets = affine(w, f"{name}.sampling_offsets", query).unflatten(-1, (*heads, 2))
    share = affine(w, f"{name}.attention_weights", query).unflatten(-1, (HEADS, -1))
    share = share.softmax(-1).unflatten(-1, heads[1:])
    maps = affine(w, f"{name}.value_proj", value).split([H * W for H, W in sizes], dim=1)
    total = 0
    for level, (H, W) in enumerate(sizes):
        image = maps[level].mT.unflatten(1, (HEADS, -1)).unflatten(-1, (H, W)).flatten(0, 1)
        at = places[:, None, None] + offsets[:, :, :, level] / torch.tensor([W, H])
        at = at.transpose(1, 2).flatten(0, 1)  # one image a head
        seen = functional.grid_sample(image, 2 * at - 1, align_corners=False)
        weight = share[:, :, :, level].transpose(1, 2).flatten(0, 1)
        total = total + (seen * weight[:, None]).sum(-1)
    return affine(w, f"{name}.output_proj", total.unflatten(0, (-1, HEADS)).flatten(1, 2).mT)


def decode_pixels(w, pyramid):
    """Three maps, coarse to fine, and the stride-4 map of pixel embeddings."""
    coarse = pyramid[:0:-1]
    sizes = [x.shape[-2:] for x in coarse]
    inputs = [convolve(w, f"input_convs.{i}", x) for i, x in enumerate(coarse)]
    levels = w["level_encoding.weight"]
    position = torch.cat(
        [rows(sine(size, HIDDEN)) + levels[i] for i, size in enumerate(sizes)], dim=1
    )
    x = torch.cat([rows(level) for level in inputs], dim=1)
    for i in range(OPTIONS.encoder_layers):
        layer = f"encoder.layers.{i}"
        x = layer_norm(
            w, f"{layer}.norms.0", x + deform(w, f"{layer}.self_attn", x + position, x, sizes)
        )
        x = layer_norm(w, f"{layer}.norms.1", feed_forward(w, f"{layer}.ffn", x))
    maps = [
        part.mT.unflatten(-1, size)
        for part, size in zip(x.split([math.prod(s) for s in sizes], 1), sizes, strict=True)
    ]
    fine = convolve(w, "lateral_convs.0", pyramid[0])
    fine = convolve(w, "output_convs.0", fine + resize(maps[-1], fine.shape[-2:])).relu()
    return maps, functional.conv2d(fine, w["mask_feature.weight"], w["mask_feature.bias"])


def predict(w, x, pixels):
    """Class and mask logits of queries."""
    x = layer_norm(w, "transformer_decoder.post_norm", x)
    embedding = affine(w, "mask_embed.2", affine(w, "mask_embed.0", x).relu()).relu()
    masks = torch.einsum("bqc,bchw->bqhw", affine(w, "mask_embed.4", embedding), pixels)
    return affine(w, "cls_embed", x), masks


def decode_layer(w, layer, x, position, memory, places, forbidden):
    seen = attend(w, f"{layer}.cross_attn.attn", x + position, memory + places, memory, forbidden)
    x = layer_norm(w, f"{layer}.norms.0", x + seen)
    other = attend(w, f"{layer}.self_attn.attn", x + position, x + position, x)
    x = layer_norm(w, f"{layer}.norms.1", x + other)
    return layer_norm(w, f"{layer}.norms.2", feed_forward(w, f"{layer}.ffn", x))


def mmdet_head(w, pyramid, queries):
    """Class and mask logits before and after every decoder layer."""
    pixel = {k.removeprefix("pixel_decoder."): v for k, v in w.items() if k.startswith("pixel_")}
    maps, pixels = decode_pixels(pixel, pyramid)
    position = queries.expand(len(pixels), -1, -1)
    x = affine(w, "querys2feat", position)
    found = [predict(w, x, pixels)]
    for i in range(OPTIONS.decoder_layers):
        level = maps[i % LEVELS]
        forbidden = resize(found[-1][1], level.shape[-2:]).flatten(2).sigmoid() < 0.5
        forbidden &= ~forbidden.all(-1, keepdim=True)  # nowhere to look: look everywhere
        memory = rows(level) + w["level_embed.weight"][i % LEVELS]
        places = rows(sine(level.shape[-2:], HIDDEN))
        layer = f"transformer_decoder.layers.{i}"
        x = decode_layer(w, layer, x, position, memory, places, forbidden)
        found.append(predict(w, x, pixels))
    return found


def load(ours, theirs):
    state = {}
    for key in ours.state_dict():
        name, third = name_in_mmdet(key)
        state[key] = theirs[name] if third is None else theirs[name].chunk(3)[third]
    ours.load_state_dict(state)
    return ours.eval()


@pytest.fixture
def theirs():
    return fill(head(WIDTH, HIDDEN, CLASSES, OPTIONS.encoder_layers, OPTIONS.decoder_layers, INNER))


@pytest.fixture
def ours(theirs):
    return load(Mask2FormerHead([WIDTH] * 4, CLASSES, OPTIONS, external_queries=True), theirs)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_tensor_has_exactly_one_name_in_mmdet(ours, theirs):
    sources = [name_in_mmdet(key) for key in ours.state_dict()]
    assert len(set(sources)) == len(sources)
    assert {name for name, _ in sources} == theirs.keys()
    for name in theirs:  # a packed tensor comes in all of its thirds, or whole
        thirds = {third for other, third in sources if other == name}
        assert thirds in ({None}, {0, 1, 2})


def test_queries_of_the_head_itself_have_names_too():
    options = Mask2FormerHeadConfig(hidden=32, encoder_layers=1, decoder_layers=11)
    names = {name_in_mmdet(key) for key in Mask2FormerHead([8] * 4, 2, options).state_dict()}
    assert {("query_feat.weight", None), ("query_embed.weight", None)} <= names
    assert ("transformer_decoder.layers.10.self_attn.attn.in_proj_bias", 2) in names
    with pytest.raises(KeyError):
        name_in_mmdet("decoder.layers.0.gate.weight")


def test_sizes_are_read_off_the_shapes(theirs):
    options, classes = read_size(theirs)
    assert classes == CLASSES
    assert Mask2FormerHeadConfig(**options, num_queries=7) == OPTIONS
    with pytest.raises(WeightsError, match="only mmdet's Mask2Former"):
        read_size({"conv_seg.weight": torch.zeros(2, 3)})


@torch.no_grad()
def test_the_whole_head_is_the_same_after_every_layer(ours, theirs):
    features = [draw(2, WIDTH, *GRID, seed=seed) for seed in range(4)]
    queries = draw(7, HIDDEN, seed=9)
    pyramid = [
        resize(x, [round(cells * scale) for cells in GRID])
        for x, scale in zip(features, (4, 2, 1, 0.5), strict=True)
    ]
    expected = mmdet_head(theirs, pyramid, queries)
    found = ours._predict(features, queries)
    assert len(expected) == OPTIONS.decoder_layers + 1
    for layer, their_layer in zip(found, expected, strict=True):
        close(list(layer), list(their_layer))
    turned = {**theirs, "level_embed.weight": theirs["level_embed.weight"].flip(0)}
    assert (mmdet_head(turned, pyramid, queries)[-1][1] - found[-1][1]).abs().max() > 1e-2
    classes, masks = expected[-1]
    scores = torch.einsum("bqk,bqhw->bkhw", classes.softmax(-1)[..., :-1], masks.sigmoid())
    close(ours(features, queries, masks.shape[-2:]), scores)
