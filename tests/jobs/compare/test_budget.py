"""Methods of one size: which option is changed, how near the budget, what is refused."""

import pytest
import yaml

from causalseg.config.load import load_config
from causalseg.errors import ConfigError
from causalseg.jobs.compare.budget import TOLERANCE, parse_budget, size_methods
from causalseg.jobs.compare.methods import read_methods
from causalseg.jobs.train import train_run
from command_line import write_yaml
from conftest import SMALL_MASK2FORMER

# On the fixture's ViT: 6 blocks, 64 channels.
RANKED = ("lora", "dora", "soma", "causal_lora", "rein", "set", "fada", "causal_tune")
OPTIONS = dict.fromkeys(RANKED, "rank") | {"adaptformer": "bottleneck", "vpt": "num_prompts"}


@pytest.fixture
def config(tiny_options, tmp_path):
    """A configuration file without adapter."""
    del tiny_options["adapter"]
    return write_yaml(tmp_path / "tiny.yaml", tiny_options)


@pytest.fixture
def size(config, tmp_path):
    """Size methods of a file's text, or those named; returns them by name."""

    def size(budget, *names, text="", overrides=()):
        file = tmp_path / "methods.yaml"
        file.write_text(text or "{}")
        methods = read_methods(names, file)
        return {s.method.name: s for s in size_methods(config, overrides, methods, budget)}

    return size


def adapter_of(config, sized):
    return load_config(config, sized.method.overrides).adapter


def test_a_budget_is_a_number_with_its_unit():
    for text, number in (("400k", 400_000), ("1.2M", 1_200_000), ("400000", 400_000), ("4_0", 40)):
        assert parse_budget(text) == number
    for text in ("", "0", "many", "-3k", "4G", "1.2.3M"):
        with pytest.raises(ConfigError, match="such as 400k, 1.2M, 400000"):
            parse_budget(text)


def test_every_adapter_has_an_option_that_brings_it_within_five_percent(size, config):
    budget = 200_000
    sized = size(budget, "none", *OPTIONS)
    assert (sized["none"].chosen, sized["none"].parameters) == ({}, 0)
    for name, option in OPTIONS.items():
        each = sized[name]
        assert abs(each.parameters - budget) <= TOLERANCE * budget, name
        assert option in each.chosen
        assert getattr(adapter_of(config, each), option) == each.chosen[option]


def test_the_number_counted_is_the_one_that_trains(size, config):
    (each,) = size(30_000, "lora").values()
    run = train_run(load_config(config, [*each.method.overrides, "train.steps=1"]))
    assert run.read_json(run.eval)["model"]["adapter_parameters"] == each.parameters


def test_the_scale_of_an_update_stays_what_it_was(size, config):
    text = """
        wide: {adapter: {name: lora, rank: 4, alpha: 6}}
        loha: {adapter: {name: peft, type: LOHA}}
    """
    sized = size(150_000, "dora", "wide", "loha", text=text)
    for name, scale in (("dora", 2.0), ("wide", 1.5)):
        options = adapter_of(config, sized[name])
        assert options.rank > 8
        assert options.alpha / options.rank == pytest.approx(scale)
    given = adapter_of(config, sized["loha"]).options
    assert given["alpha"] == given["r"] > 8
    assert adapter_of(config, sized["loha"]).type == "LOHA"


def test_a_method_of_the_size_already_stays_as_it_is(size):
    text = "mine: {adapter: {name: vpt, num_prompts: 50}, train.lr: 0.5}"
    mine = size(20_000, "mine", text=text)["mine"]
    assert (mine.chosen, mine.parameters) == ({}, 6 * 50 * 64)  # 4 % less
    assert mine.method.overrides == ["adapter={name: vpt, num_prompts: 50}", "train.lr=0.5"]


def test_tokens_change_where_the_rank_alone_is_too_coarse(size, config):
    text = "full: {adapter: {name: rein, rank: null}}\nplain: {adapter: rein}"
    full = size(60_000, "full", text=text)["full"]
    assert full.chosen == {"num_tokens": adapter_of(config, full).num_tokens}
    floor = size(8_800, "plain", text=text)["plain"]  # 9,305 with a rank of 1
    assert floor.chosen["rank"] == 1
    assert 2 <= floor.chosen["num_tokens"] < 50
    assert abs(floor.parameters - 8_800) <= 6


def test_tokens_that_are_queries_keep_their_number(size, tiny_options, config):
    head = yaml.safe_load(SMALL_MASK2FORMER.removeprefix("head="))
    config.write_text(yaml.safe_dump({**tiny_options, "head": head}))
    text = f"linked: {{adapter: {{name: rein, num_tokens: {head['num_queries']}}}}}"
    linked = size(40_000, "linked", text=text)["linked"]
    assert set(linked.chosen) == {"rank"}
    alone = size(40_000, "linked", text=text.replace("}}", ", query_link: false}}"))["linked"]
    assert alone.chosen["rank"] > linked.chosen["rank"]  # the query link counts
    with pytest.raises(ConfigError, match=r"linked: nearest sizes: below none, above .*\(rank=1\)"):
        size(9_000, "linked", text=text)


def test_of_a_chain_the_first_part_that_reaches_the_size_changes(size, config):
    text = "both: {adapter: [lora, {name: causal_tune, num_tokens: 4, rank: 2}], intervene: dsu}"
    both = size(60_000, "both", text=text)["both"]
    assert set(both.chosen) == {"lora.rank", "lora.alpha"}
    lora, tuned = adapter_of(config, both).parts
    assert (lora.rank, tuned.num_tokens, tuned.rank) == (both.chosen["lora.rank"], 4, 2)
    assert lora.alpha / lora.rank == 2.0
    assert [o.partition("=")[0] for o in both.method.overrides] == ["adapter", "intervene"]


def test_all_that_cannot_be_sized_are_one_error_with_their_nearest_sizes(size):
    text = "ia3: {adapter: {name: peft, type: IA3}}"
    with pytest.raises(ConfigError) as caught:
        size(5_000, "none", "lora", "full", "rein", "ia3", text=text)
    message = str(caught.value)
    assert message.startswith("not all methods come within 5% of 5,000 parameters:")
    # A rank of qkv has (64 + 192) x 6 parameters.
    assert "lora: nearest sizes: below 4,608 (rank=3, alpha=6.0), above 6,144 (rank=4" in message
    assert "full: none of its options sets its size, " in message
    assert "ia3: none of its options sets its size, " in message
    assert "rein: nearest sizes: below none, above 8,716 (rank=1, num_tokens=2)" in message
    assert "none:" not in message


def test_a_rank_beyond_what_the_weights_have_is_not_chosen(size):
    with pytest.raises(ConfigError, match=r"soma: nearest sizes: below .*\(rank=64\), above none"):
        size(3_000_000, "soma")
