"""The whole model: its terms, saving, refusing what does not fit, what it leaves alone."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import causalseg
from causalseg.build.model import build_segmenter, load_run
from causalseg.config.load import dump_config
from causalseg.errors import ConfigError, DataError, MissingFileError, WeightsError
from conftest import SMALL_MASK2FORMER, SMALL_QUERIES

HEADS = {"linear": "head=linear", "queries": SMALL_QUERIES, "mask2former": SMALL_MASK2FORMER}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def head(request):
    return request.param


@pytest.fixture(params=["causal_tune", "none"])
def model(request, tiny, head):
    if request.param == "none":
        return build_segmenter(tiny(head, "adapter=none"))
    return build_segmenter(tiny(head))


def batch(size=(32, 48)):
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, *size))
    labels[:, :4] = 255
    return torch.rand(2, 3, *size), labels


def test_logits_have_a_score_for_every_class_and_pixel(model):
    images, _ = batch((48, 80))
    assert model.logits(images).shape == (2, 3, 48, 80)
    assert torch.equal(model.eval()(images), model.logits(images))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda images: (255 * images).byte(), "uint8"),
        (lambda images: 255 * images, "divide 8-bit values by 255"),
        (lambda images: images - 0.5, "in \\[0, 1\\]"),
        (lambda images: images / 0 * 0, "nan"),
    ],
)
def test_images_of_another_range_are_refused(tiny, wrong, message):
    model = build_segmenter(tiny("adapter=none")).eval()
    images, _ = batch()
    model(images)
    with pytest.raises(DataError, match=message):
        model(wrong(images))


def test_loss_is_the_sum_of_its_terms(model):
    torch.manual_seed(3)
    terms = model.loss_terms(*batch())
    torch.manual_seed(3)
    assert torch.allclose(model.loss(*batch()), sum(terms.values()))


def test_saved_parts_are_small_and_load_back(model, tmp_path):
    saved = tmp_path / "saved"
    model.save(saved)
    names = {file.name for file in saved.iterdir()}
    assert names == {f"{part}.safetensors" for part in model.trainable()}
    other = copy.deepcopy(model)
    with torch.no_grad():
        for part in other.trainable().values():
            for parameter in part.parameters():
                parameter.add_(1)
    images, _ = batch()
    expected = model.eval().logits(images)
    other.eval()
    assert not torch.allclose(other.logits(images), expected)
    other.load(saved)
    assert torch.equal(other.logits(images), expected)


def test_a_copy_and_a_pickle_give_the_same_logits(model):
    images, _ = batch()
    expected = model.eval().logits(images)
    assert torch.equal(copy.deepcopy(model).logits(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model)).logits(images), expected)


def test_a_run_loads_from_its_folder_alone(tiny, tmp_path):
    config = tiny()
    model = build_segmenter(config).eval()
    (tmp_path / "config.yaml").write_text(dump_config(config))
    model.save(tmp_path)
    images, _ = batch()
    assert torch.equal(load_run(tmp_path).logits(images), model.logits(images))
    assert torch.equal(causalseg.load_segmenter(tmp_path).logits(images), model.logits(images))
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no head.safetensors: `causalseg train`"):
        load_run(tmp_path)
    with pytest.raises(MissingFileError, match="no run folder"):
        load_run(tmp_path / "nowhere")


def test_weights_of_another_model_are_refused_with_shapes(tiny, tmp_path):
    model = build_segmenter(tiny())
    model.save(tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    tensors["extra"] = torch.zeros(2)
    tensors["tokens.A"] = torch.zeros(1, 2)
    save_file(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(WeightsError) as caught:
        model.load(tmp_path)
    assert "extra: file (2,), model nothing" in str(caught.value)
    assert "tokens.A: file (1, 2), model (6, 4, 2)" in str(caught.value)
    (tmp_path / "adapter.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="is broken"):
        model.load(tmp_path)


@pytest.mark.parametrize(
    "override", ["train.crop=[30, 48]", "eval={mode: slide, window: [32, 50]}"]
)
def test_a_crop_or_window_that_does_not_fit_the_patch_names_the_nearest(tiny, override):
    with pytest.raises(ConfigError, match=r"not divisible by the patch of 16 .* \[32, 48\]"):
        build_segmenter(tiny(override))


def test_the_head_starts_the_same_with_and_without_an_adapter(tiny, head):
    with_adapter, without = (
        build_segmenter(tiny(head, *extra)).head.state_dict() for extra in ((), ("adapter=none",))
    )
    shared = with_adapter.keys() & without.keys()
    assert len(shared) >= 2
    assert all(torch.equal(with_adapter[key], without[key]) for key in shared)


def test_building_leaves_the_global_random_state_alone(tiny, head):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_segmenter(tiny(head))
    assert torch.equal(torch.rand(3), expected)


def test_dropout_in_the_backbone_follows_the_mode_of_the_model(tiny):
    model = build_segmenter(tiny("adapter={name: lora, dropout: 0.5}"))
    for mode in (True, False, True):
        model.train(mode)
        dropouts = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Dropout)]
        layers = [layer for layer in dropouts if layer.p == 0.5]
        assert layers
        assert all(layer.training == mode for layer in layers)
