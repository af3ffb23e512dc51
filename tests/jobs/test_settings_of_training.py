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


def test_an_average_longer_than_the_run_is_refused_with_the_numbers():
    ema = parse("train.steps=100", "train.ema={}").train.ema
    assert (ema.start_step(100), ema.share(100)) == (30, 0.05)
    assert (ema.share(2), ema.share(1_000_000)) == (1.0, 2e-4)
    parse("train.steps=100", "train.ema={momentum: 0.002, start: 0.5}")
    said = mistake("train.steps=100", "train.ema={momentum: 0.001}")
    assert "averages over 1 / momentum = 1000 steps, but only 70 remain after its start" in said
    assert "at step 30 of 100" in said
    assert "less than 1" in mistake("train.ema={start: 1.0}")


def test_a_warmup_as_long_as_the_run_is_refused():
    parse("train.steps=10", "train.warmup=9")
    assert "warmup = 10 must be below the number of steps, 10" in mistake(
        "train.steps=10", "train.warmup=10"
    )


def test_a_decay_that_ends_where_it_starts_is_refused():
    assert "weight_decay_end = 0.05 has no effect" in mistake("train.weight_decay_end=0.05")


def test_steps_and_epochs_in_one_place_exclude_each_other():
    assert "steps = 7 and epochs = 2 exclude each other" in mistake(train={"steps": 7, "epochs": 2})
    assert "exclude each other" in mistake("train.steps=7", "train.epochs=2")
    assert "exclude each other" in mistake("train={steps: 7, epochs: 2}")


def test_of_steps_and_epochs_an_override_takes_the_place_of_the_file(caplog):
    caplog.set_level(logging.INFO)
    assert parse("train.epochs=2", train={"steps": 7}).train.epochs == 2
    assert caplog.messages == ["train.steps has no effect beside train.epochs=2: dropped"]
    config = parse("train.steps=7", train={"epochs": 2})
    assert (config.train.steps, config.train.epochs) == (7, None)
    assert parse("train.epochs=null", train={"steps": 7}).train.steps == 7


def test_a_dumped_configuration_with_epochs_reads_back_equal():
    config = parse("train.epochs=2")
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


EVERY = "eval.every=2"


def test_an_unknown_metric_lists_those_there_are():
    said = mistake("run.best=claer.miou", EVERY)
    assert (
        "did you mean 'clear.miou'? Allowed: clear.miou, hazy.miou, mean.miou, night.miou" in said
    )
    assert "run.best = 'clear.iou'" in mistake("run.best=clear.iou", EVERY)
    assert "Allowed: mean.miou, night.miou" in mistake(
        "run.best=clear.miou", EVERY, "data.only=[night]"
    )


def test_a_choice_without_evaluations_is_refused():
    assert "run.best = clear.miou has no effect without evaluations" in mistake(
        "run.best=clear.miou"
    )
    assert "patience has no effect without best" in mistake("run.patience=2")
    assert "allow_target has no effect without best" in mistake("run.allow_target=true")


@pytest.mark.parametrize("metric", ["night", "mean", "hazy"])
def test_nothing_is_chosen_on_a_target_unless_that_is_said(metric):
    best = (f"run.best={metric}.miou", EVERY)
    assert "a target: nothing may be chosen there" in mistake(*best)
    assert parse(*best, "run.allow_target=true").run.allow_target


def test_without_mean_over_every_domain_is_a_target():
    best = ("run.best=clear.miou", EVERY)
    assert parse(*best).run.best == "clear.miou"
    assert "on clear, a target" in mistake(*best, "data.mean_over=null")


def test_a_mean_over_source_domains_alone_is_no_target():
    mean = ("run.best=mean.miou", EVERY, "data.only=[clear]")
    assert parse(*mean).data.averaged == ["clear"]
    assert "allow_target has no effect with run.best = mean.miou" in mistake(
        *mean, "run.allow_target=true"
    )


def test_trackers_are_known_and_named_once():
    assert "run.trackers" in mistake("run.trackers=[wandbb]")
    assert "names a tracker twice" in mistake("run.trackers=[mlflow, mlflow]")
    assert parse("run.trackers=[]").run.trackers == []
