"""Options of the loop that fit together, and what an override makes idle."""

import logging

import pytest
import yaml

from causalseg.config.load import dump_config, parse_config
from causalseg.errors import ConfigError

OPTIONS = {
    "adapter": "lora",
    "data": {
        "sources": [{"type": "scenes", "first": 1000}],
        "domains": {
            "clear": {"type": "scenes"},
            "night": {"type": "scenes", "domain": "night"},
            "hazy": {"type": "scenes", "corrupt": {"name": "fog"}},
        },
        "mean_over": ["night"],
    },
}


def parse(*overrides, **options):
    return parse_config({**OPTIONS, **options}, overrides)


def mistake(*overrides, **options):
    with pytest.raises(ConfigError) as caught:
        parse(*overrides, **options)
    return str(caught.value)


EVERY = "eval.every=2"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.ema={start: 1.0}"], "less than 1"),
        (
            ["train.steps=100", "train.ema={momentum: 0.001}"],
            "averages over 1 / momentum = 1000 steps, but only 70 remain after its start at step "
            "30 of 100",
        ),
        (["train.steps=9", "train.warmup=9"], "warmup = 9 must be below the number of steps, 9"),
        (["train.weight_decay_end=0.05"], "weight_decay_end = 0.05 has no effect"),
        (["train.steps=7", "train.epochs=2"], "steps = 7 and epochs = 2 exclude each other"),
        (["train={steps: 7, epochs: 2}"], "steps = 7 and epochs = 2 exclude each other"),
        (
            ["run.best=claer.miou", EVERY],
            "did you mean 'clear.miou'? Allowed: clear.miou, hazy.miou, mean.miou, night.miou",
        ),
        (["run.best=clear.iou", EVERY], "run.best = 'clear.iou'"),
        (["run.best=clear.miou", EVERY, "data.only=[night]"], "Allowed: mean.miou, night.miou"),
        (["run.best=clear.miou"], "run.best = clear.miou has no effect without evaluations"),
        (["run.patience=2"], "patience has no effect without best"),
        (["run.allow_target=true"], "allow_target has no effect without best"),
        (["run.best=clear.miou", EVERY, "data.mean_over=null"], "on clear, a target"),
        (["run.trackers=[wandbb]"], "run.trackers"),
        (["run.trackers=[mlflow, mlflow]"], "names a tracker twice"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(overrides, message):
    assert message in mistake(*overrides)


def test_an_average_starts_and_weighs_by_the_length_of_the_run():
    ema = parse("train.steps=100", "train.ema={}", "train.warmup=99").train.ema
    assert (ema.start_step(100), ema.share(100)) == (30, 0.05)
    assert (ema.share(2), ema.share(1_000_000)) == (1.0, 2e-4)
    parse("train.steps=100", "train.ema={momentum: 0.002, start: 0.5}")


def test_of_steps_and_epochs_an_override_takes_the_place_of_the_file(caplog):
    assert "steps = 7 and epochs = 2 exclude" in mistake(train={"steps": 7, "epochs": 2})
    caplog.set_level(logging.INFO)
    assert parse("train.epochs=2", train={"steps": 7}).train.epochs == 2
    assert caplog.messages == ["train.steps has no effect beside train.epochs=2: dropped"]
    config = parse("train.steps=7", train={"epochs": 2})
    assert (config.train.steps, config.train.epochs) == (7, None)
    assert parse("train.epochs=null", train={"steps": 7}).train.steps == 7
    config = parse("train.epochs=2")  # reads back equal
    assert parse_config(yaml.safe_load(dump_config(config))).train == config.train


def test_the_rate_of_an_adapter_goes_with_the_adapter_that_an_override_drops(caplog):
    caplog.set_level(logging.INFO)
    rate = {"adapter_lr": 1e-3, "lr": 1e-2}
    for override in ("adapter=none", "adapter={name: none}", "adapter.name=none"):
        config = parse(override, train=rate)
        assert (config.train.adapter_lr, config.train.lr) == (None, 1e-2)
        assert caplog.messages[-1].startswith("train.adapter_lr has no effect beside adapter=")
    assert parse("adapter=rein", train=rate).train.adapter_lr == 1e-3
    said = "train.adapter_lr has no effect without an adapter"
    assert said in mistake(adapter="none", train=rate)
    assert said in mistake("adapter=none", "train.adapter_lr=0.1")
    assert said in mistake("adapter=none", "train={adapter_lr: 0.1}", train=rate)


@pytest.mark.parametrize("metric", ["night", "mean", "hazy"])
def test_nothing_is_chosen_on_a_target_unless_that_is_said(metric):
    best = (f"run.best={metric}.miou", EVERY)
    assert "a target: nothing may be chosen there" in mistake(*best)
    assert parse(*best, "run.allow_target=true").run.allow_target
    assert parse("run.best=clear.miou", EVERY).run.best == "clear.miou"


def test_a_mean_over_source_domains_alone_is_no_target():
    mean = ("run.best=mean.miou", EVERY, "data.only=[clear]")
    assert parse(*mean).data.averaged == ["clear"]
    assert "allow_target has no effect with run.best = mean.miou" in mistake(
        *mean, "run.allow_target=true"
    )
