"""Checkpoints of Rein's and Causal-Tune's published code become run folders that predict."""

import json
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from causalseg.adapters.ablations.released import ReleasedCausalTune
from causalseg.adapters.rein import Rein
from causalseg.build.model import load_run
from causalseg.errors import ConfigError, MissingFileError, RunError, WeightsError
from causalseg.jobs.importing.rein import find_tensor, import_checkpoint
from command_line import run
from golden_modules import error, options
from published import checkpoint

TINY = ("backbone.name=test_vit", "backbone.weights=random")
SMALL = {"encoder_layers": 1, "decoder_layers": 2, "inner": 32}


def write(tmp_path, tensors, **more):
    """A file as mmengine writes it."""
    file = tmp_path / "iter_40000.pth"
    torch.save({"meta": {"iter": 40000}, "state_dict": tensors, **more}, file)
    return file


def config_of(run):
    return yaml.safe_load(run.config.read_text())


@pytest.fixture
def tiny(tmp_path):
    """Import a small checkpoint for timm's test_vit, changed by a function."""

    def make(change=lambda tensors: None, code="rein", overrides=TINY, **sizes):
        tensors = checkpoint(second=code == "causal-tune", **SMALL, **sizes)
        change(tensors)
        return import_checkpoint(write(tmp_path, tensors), code, tmp_path / "run", overrides)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("code", "kind"), [("rein", Rein), ("causal-tune", ReleasedCausalTune)])
def test_a_whole_vit_s_checkpoint_loads_and_predicts(code, kind, tmp_path):
    sizes = {"width": 384, "blocks": 12, "hidden": 256, "classes": 19, "tokens": 100, "rank": 16}
    tensors = checkpoint(second=code == "causal-tune", backbone=4, **sizes)
    run, notes = import_checkpoint(write(tmp_path, tensors), code, tmp_path / "run")
    config = config_of(run)
    backbone, head = config["backbone"], config["head"]
    assert backbone["name"] == "dinov2_vits14"
    assert backbone["weights"] == str(run.path / "backbone.safetensors")
    assert (backbone["patch"], backbone["patch_resize"]) == (16, "bicubic")
    assert (backbone["levels"], backbone["position"]) == ([2, 5, 8, 11], "auto")
    assert len(backbone["sha256"]) == 64
    assert (head["encoder_layers"], head["decoder_layers"]) == (6, 9)
    assert config["data"]["classes"] == "cityscapes19"
    assert config["eval"]["window"] == [64, 64]  # 4 x 4 positions
    assert config["eval"]["stride"] == [43, 43]
    assert "which of its 12 blocks" in notes[1]

    model = load_run(run.path)
    assert type(model.adapter) is kind
    frozen = {k.removeprefix("backbone."): v for k, v in tensors.items() if k[:9] == "backbone."}
    written = load_file(run.path / "backbone.safetensors")
    assert written.keys() == {key for key in frozen if not key.startswith("reins.")}
    placed = sum(p.numel() for part in model.trainable().values() for p in part.parameters())
    idle = [key for key in frozen if re.search("tokens2|feat2|f2", key)]
    assert len(idle) == (5 if code == "causal-tune" else 0)
    given = [v for k, v in tensors.items() if "reins." in k or k.startswith("decode_head.")]
    assert placed == sum(v.numel() for v in given) - sum(frozen[key].numel() for key in idle)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model.logits(image)
    assert scores.shape == (1, 19, 64, 64)
    assert scores.isfinite().all()


def test_the_tensors_are_those_of_the_file(tiny):
    given = {}
    run = tiny(lambda tensors: given.update(tensors)).run
    model = load_run(run.path)
    adapter, head = model.adapter, model.head
    for ours, name in (
        (adapter.tokens.A, "learnable_tokens_a"),
        (adapter.tokens.B, "learnable_tokens_b"),
        (adapter.delta.weight, "mlp_delta_f.weight"),
        (adapter.link.merge.bias, "merge.bias"),
    ):
        assert torch.equal(ours, given[f"backbone.reins.{name}"])
    packed = given["decode_head.transformer_decoder.layers.1.self_attn.attn.in_proj_weight"]
    attention = head.decoder.layers[1].self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    for projection, third in zip(projections, packed.chunk(3), strict=True):
        assert torch.equal(projection.weight, third)


def test_full_rank_and_a_missing_scale_are_options_of_rein(tiny):
    published = tiny(rank=None).run
    adapter = config_of(published)["adapter"]
    assert (adapter["rank"], adapter["init"]["kind"]) == (None, "small")
    assert load_run(published.path).adapter.tokens.T.shape == (6, 5, 64)
    shutil.rmtree(published.path)

    def change(tensors):
        tensors.pop("backbone.reins.scale")
        tensors["decode_head.conv_seg.weight"] = torch.zeros(3, 256, 1, 1)  # never used

    run = tiny(change).run
    assert config_of(run)["adapter"]["init"]["kind"] == "zero"
    assert load_run(run.path).adapter.scale is None


@pytest.mark.parametrize(
    ("name", "kind", "grid"),
    [
        ("rein_lorareins_8x8_b2_c32", Rein, (8, 8)),
        ("rein_reins_7x9_b2_c32", Rein, (7, 9)),
        ("causal_tune_released_lorareins_8x8_b2_c32", ReleasedCausalTune, (8, 8)),
    ],
)
def test_an_imported_adapter_computes_what_the_published_code_computes(name, kind, grid, golden):
    data = {key: torch.from_numpy(array) for key, array in np.load(golden / f"{name}.npz").items()}
    state = {key.replace("param/", "backbone.reins."): value for key, value in data.items()}
    adapter = kind(**options(data), init="small")
    keys = adapter.state_dict()
    adapter.load_state_dict({key: find_tensor(state, "adapter", key)[1] for key in keys})
    y = data["x"]
    with torch.no_grad():
        for layer in range(adapter.depth):
            y = torch.cat([y[:, :1], adapter(y[:, 1:], layer, grid)], dim=1)
    assert error(y, data["out"]) < 1e-5
    assert error(adapter.queries(), data["queries"]) < 1e-5


def test_an_imported_run_is_scored_and_predicts_but_has_no_data_to_train_on(
    tmp_path, folder, capsys
):
    file = write(tmp_path, checkpoint(**SMALL))
    out = tmp_path / "runs" / "rein"
    window = ("train.crop=[32,32]", "eval.window=[32,32]", "eval.stride=[21,21]")
    assert run("import", "rein", file, "--out", out, *TINY, *window) == 0
    assert "3 classes without names" in capsys.readouterr().out
    assert run("eval", out) == 2
    assert "data.domains is empty" in capsys.readouterr().err
    pair = "{here: {images: images, labels: labels}}"
    use = ("run.threads=1", "train.workers=0")
    assert run("eval", out, f"data.root={folder}", f"data.domains={pair}", *use) == 0
    card = (out / "README.md").read_text()
    assert "Not trained here: imported with `causalseg import rein` from `iter_40000.pth`" in card
    assert "steps" not in card
    assert json.loads((out / "eval.json").read_text())["domains"]["here"]["images"] == 3
    assert (out / "report.html").is_file()
    images = folder / "images"
    assert run("predict", out, images, "--out", tmp_path / "p", *use) == 0
    assert len(list((tmp_path / "p" / "predictions").iterdir())) == 3
    assert run("train", out / "config.yaml", f"run.out={tmp_path / 'other'}") == 2
    assert "data.sources is empty" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_without_a_backbone_in_the_file_its_patches_are_resampled_as_reins_were(tiny):
    large = {"width": 1024, "blocks": 24, "tokens": 3, "rank": 2}
    found = tiny(overrides=("backbone.weights=random",), **large)
    backbone = config_of(found.run)["backbone"]
    assert (backbone["name"], backbone["weights"]) == ("dinov2_vitl14", "random")
    assert (backbone["patch"], backbone["patch_resize"]) == (16, "bicubic")
    assert (backbone["levels"], backbone["position"]) == ([7, 11, 15, 23], "plain")
    assert config_of(found.run)["eval"]["stride"] == [341, 341]
    assert not any("blocks" in note for note in found.notes)


def test_the_checkpoint_of_a_training_run_is_read_without_the_objects_of_its_log(tmp_path):
    """The log holds objects of mmengine and numpy; neither is executed, mmengine is not needed."""

    class HistoryBuffer:
        def mean(self):
            raise AssertionError

        def __getstate__(self):
            return {"_log_history": np.ones(3), "last": np.float64(2), "mean": HistoryBuffer.mean}

        def __setstate__(self, state):
            raise AssertionError

    HistoryBuffer.__qualname__ = "HistoryBuffer"
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    name = "mmengine.logging.history_buffer"
    HistoryBuffer.__module__ = HistoryBuffer.mean.__module__ = name
    tensors = checkpoint(**SMALL)
    with pytest.MonkeyPatch.context() as patch:
        module = types.ModuleType(name)
        module.HistoryBuffer = HistoryBuffer
        for part in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, part, types.ModuleType(part))
        patch.setitem(sys.modules, name, module)
        log = {"message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}}}
        file = write(tmp_path, tensors, optimizer={"state": {}, "lr": np.float32(1e-4)}, **log)
    before = set(torch.serialization.get_safe_globals())
    run = import_checkpoint(file, "rein", tmp_path / "run", TINY).run
    assert set(torch.serialization.get_safe_globals()) == before
    assert load_run(run.path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    file = write(tmp_path, checkpoint(**SMALL), hook=subprocess.Popen)
    with pytest.raises(WeightsError, match="would run code when loaded"):
        import_checkpoint(file, "rein", tmp_path / "run", TINY)


PACKED = "decode_head.transformer_decoder.layers.1.self_attn.attn.in_proj_bias"


def drop(name):
    return lambda tensors: tensors.pop(name)


def add(name, *shape):
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop(PACKED), f"1 missing: {PACKED}$"),
        (drop("backbone.reins.merge.weight"), "1 missing: backbone.reins.merge.weight$"),
        (
            add("decode_head.input_projs.0.weight", 3),
            "1 unknown: decode_head.input_projs.0.weight$",
        ),
        (add("backbone.reins.gate", 3), "1 unknown: backbone.reins.gate$"),
        (add("auxiliary_head.conv_seg.bias", 3), "1 unknown: auxiliary_head.conv_seg.bias$"),
        (
            add("backbone.reins.transform.weight", 16, 64),
            r"1 of another shape: backbone.reins.transform.weight \(16, 64\), expected \(32, 64\)$",
        ),
        (drop("decode_head.cls_embed.weight"), "only mmdet's Mask2Former"),
        (drop("backbone.reins.learnable_tokens_b"), "not low-rank tokens of Rein"),
        (add("backbone.reins.learnable_tokens2", 6, 5, 64), "use `causalseg import causal-tune`"),
        (add("decode_head.query_feat.weight", 5, 32), "a head with queries of its own"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_error_and_no_folder(change, message, tiny, tmp_path):
    with pytest.raises(WeightsError, match=rf"(?m){message}"):
        tiny(change)
    assert [path.name for path in tmp_path.iterdir()] == ["iter_40000.pth"]


def test_rein_and_causal_tune_are_told_apart(tmp_path, tiny):
    file = write(tmp_path, checkpoint(**SMALL))
    with pytest.raises(WeightsError, match="use `causalseg import rein`"):
        import_checkpoint(file, "causal-tune", tmp_path / "run", TINY)
    with pytest.raises(WeightsError, match="tokens of full rank"):
        tiny(code="causal-tune", rank=None)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ((), WeightsError, "64 channels and 6 blocks, which no DINOv2 has"),
        (("backbone.name=dinov2_vits14",), WeightsError, "the backbone has 384 and 12"),
        (("backbone.name=dinov2",), ConfigError, "dinov2"),
        ((*TINY, "head.num_heads=4"), ConfigError, "no such option"),
        ((*TINY, "train.crop=[50, 50]"), ConfigError, "not divisible by the patch of 16"),
        ((*TINY, "backbone.levels=[0, 1, 2, 3]"), WeightsError, r"learnable_tokens_a \(6, 5, 4\)"),
        ((*TINY, "adapter=lora"), ConfigError, "leave out those that change adapter or head"),
        ((*TINY, "adapter.name=causal_tune"), ConfigError, "the options say .*causal_tune"),
        ((*TINY, "head=linear"), ConfigError, "the options say .*linear"),
        ((*TINY, "data.classes=[a, b]"), WeightsError, r"cls_embed.bias \(4,\), expected \(3,\)"),
    ],
)
def test_options_that_do_not_fit_are_one_error_and_no_folder(
    overrides, error, message, tiny, tmp_path
):
    with pytest.raises(error, match=message):
        tiny(overrides=overrides)
    assert not (tmp_path / "run").exists()


def test_a_backbone_in_the_file_that_is_another_leaves_no_folder(tmp_path):
    """Found only when its tensors are placed: test_vit has no layer scale."""
    file = write(tmp_path, checkpoint(backbone=2, **SMALL))
    with pytest.raises(WeightsError, match="belong to another architecture"):
        import_checkpoint(file, "rein", tmp_path / "run", TINY[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["iter_40000.pth"]
    found = import_checkpoint(file, "rein", tmp_path / "run", TINY)
    assert any("left out" in note for note in found.notes)
    assert not (found.run.path / "backbone.safetensors").exists()


def test_files_that_are_no_checkpoint_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="no checkpoint"):
        import_checkpoint(tmp_path / "none.pth", "rein", tmp_path / "run")
    with pytest.raises(WeightsError, match="no adapter of Rein's code"):
        import_checkpoint(write(tmp_path, {"x": torch.ones(1)}), "rein", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_not_touched_and_an_empty_one_is_taken(tiny, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    assert tiny().run.head.is_file()
    before = sorted(out.iterdir())
    with pytest.raises(RunError, match="is in use"):
        tiny()
    assert sorted(out.iterdir()) == before


def test_another_normalisation_is_noted(tiny):
    changed = ("backbone.name=vit_tiny_patch16_224", "backbone.weights=random")
    found = tiny(overrides=changed, width=192, blocks=12)
    assert any("the training of vit_tiny_patch16_224" in note for note in found.notes)


def test_a_checkpoint_of_our_own_is_nothing_to_import(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"step": 1, "model": {"head": {}}, "optimizer": {}}, file)
    with pytest.raises(WeightsError, match="of causalseg itself: nothing to import, use `causals"):
        import_checkpoint(file, "rein", tmp_path / "run")
