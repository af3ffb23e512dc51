"""What may change when: on resume, in use, between the runs of a comparison."""

import pytest

from causalseg.config import Config
from causalseg.config.stages import Stage, keys_of, stage_of


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        ("train.lr", Stage(0)),
        ("train.steps", Stage.RESUME),
        ("run.seed", Stage.OWN),
        ("data.classes.names", Stage(0)),
        ("data.ignore", Stage.USE),
        ("data.sources", Stage.TRAINING),
        ("data.cache", Stage.RESUME | Stage.TRAINING),
        ("data.domains.night.images", Stage.SCORES | Stage.USE),
        ("eval.flip", Stage.SCORES | Stage.USE),
        ("eval.limit", Stage.SCORES | Stage.COMPARE | Stage.TRAINING),
        ("run.threads", Stage.RESUME | Stage.COMPARE | Stage.USE),
        ("nothing.of.this.name", Stage(0)),
    ],
)
def test_the_innermost_mark_counts(key, stage):
    assert stage_of(Config, key) == stage


def test_outermost_options_of_a_stage_are_listed():
    assert list(keys_of(Config, Stage.OWN)) == ["run.out", "run.seed", "run.resume"]
    in_use = set(keys_of(Config, Stage.USE))
    assert {"data", "eval", "backbone.weights"} < in_use
    assert not any(key.startswith(("data.", "eval.", "adapter")) for key in in_use)
