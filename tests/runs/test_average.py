"""The average of the weights: its formula, what is scored and saved, exact resuming."""

import pytest
import torch
from safetensors.torch import load_file

from causalseg.build.model import build_segmenter, load_run
from causalseg.config.run import EmaConfig
from causalseg.jobs.train import train_run
from causalseg.runs.average import WeightAverage, list_weights
from killed import assert_equal, events_of, resume_equals_straight

pytestmark = pytest.mark.slow  # every test trains several runs

RATE = ("train.lr=0.01", "eval.every=2")
EMA = (*RATE, "train.ema={momentum: 0.25, start: 0.5}")


def test_the_average_follows_its_formula_from_a_copy_at_its_start(tiny):
    model = build_segmenter(tiny())
    average = WeightAverage(model, EmaConfig(momentum=0.25, start=0.5), steps=4)
    weight = list_weights(model)["head.classifier.bias"]
    expected = None
    for step in (1, 2, 3, 4):
        with torch.no_grad():
            weight += step
        average.update(step)
        if step < 2:
            assert average.values is None
        elif step == 2:
            expected = weight.detach().clone()
        else:
            expected = 0.75 * expected + 0.25 * weight.detach()
    assert torch.allclose(average.values["head.classifier.bias"], expected)
    raw = weight.detach().clone()
    with average.applied():
        assert torch.equal(weight, average.values["head.classifier.bias"])
    assert torch.equal(weight, raw)


def test_weights_that_do_not_train_and_the_backbone_are_not_copied(tiny):
    model = build_segmenter(tiny("adapter={name: lora, rank: 2}"))
    names = set(WeightAverage(model, EmaConfig(start=0), steps=9).values)
    assert all(name.startswith(("adapter.", "head.")) for name in names)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in list_weights(model).values()} == trained


def test_ema_weights_are_what_is_saved_and_scored(tiny, tmp_path):
    plain = train_run(tiny(*RATE, f"run.out={tmp_path / 'plain'}"))
    run = train_run(tiny(*EMA))
    content = torch.load(run.checkpoint, weights_only=True)
    raw, average = content["model"], content["average"]
    for name, tensors in raw.items():
        before = torch.load(plain.checkpoint, weights_only=True)["model"][name]
        assert_equal(tensors, before)  # training itself is not changed
        saved = load_file(run.path / f"{name}.safetensors")
        assert_equal(saved, {key: average.get(f"{name}.{key}", tensors[key]) for key in tensors})
    assert not torch.equal(average["head.classifier.weight"], raw["head"]["classifier.weight"])
    first, last = (events_of(each, "eval") for each in (plain, run))
    assert first[0] == last[0]  # at step 2 the average is the copy that it begins with
    assert run.read_json(run.eval)["domains"]["here"]["confusion"]
    model = load_run(run.path, checkpoint="last.ckpt")
    assert_equal(dict(model.head.state_dict()), load_file(run.head))


@pytest.mark.parametrize("stop", [2, 4])
@pytest.mark.parametrize("adapter", ["causal_tune", "lora"])
def test_an_average_resumes_bit_for_bit(tiny, tmp_path, adapter, stop):
    options = (*EMA, f"adapter={{name: {adapter}, rank: 2}}", "run.save_every=1")
    if adapter == "causal_tune":
        options = (*options, "train.warmup=2", "train.weight_decay_end=0.2")
    straight, run = resume_equals_straight(tiny, tmp_path, options, stop)
    first, second = (torch.load(each.checkpoint, weights_only=True) for each in (straight, run))
    assert_equal(first["average"], second["average"])
    assert events_of(straight, "train", "eval") == events_of(run, "train", "eval")
