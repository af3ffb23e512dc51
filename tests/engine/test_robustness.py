"""The robustness summary: worked cases, and what is left out where a score is missing."""

from types import SimpleNamespace

import pytest

from causalseg.engine.robustness import corruption_degradation, summarise_robustness
from causalseg.runs.scores import AppliedCorruption


def fog(miou, severity, clean="day"):
    return {"miou": miou, "corruption": {"name": "fog", "severity": severity, "clean": clean}}


def test_retention_is_what_is_left_of_the_source():
    domains = {"clear": {"miou": 80.0}, "night": {"miou": 20.0}, "rain": {"miou": 60.0}}
    found = summarise_robustness(domains, ["night", "rain"], ["clear"])
    assert found["source"] == {"miou": 80, "domains": ["clear"]}
    assert found["target"] == {"miou": 40, "domains": ["night", "rain"]}
    assert (found["worst"], found["retention"], found["corruptions"]) == ("night", 50, [])
    alone = summarise_robustness(domains, list(domains), [])
    assert (alone["source"], alone["retention"]) == (None, None)


def test_a_corruption_counts_with_its_mean_over_severities_against_its_clean_domain():
    domains = {"day": {"miou": 80.0}, "fog_5": fog(20.0, 5), "fog_1": fog(60.0, 1)}
    found = summarise_robustness(domains, ["fog_5", "fog_1"], ["day"])
    assert found["source"]["domains"] == ["day"]
    assert found["corruptions"] == [
        {"corruption": "fog", "clean": "day", "severities": [1, 5], "miou": 40, "relative": 50}
    ]
    without = summarise_robustness({"fog_1": fog(60.0, 1, None)}, ["fog_1"], [])
    assert without["corruptions"][0]["relative"] is None


def test_a_missing_score_gives_no_number():
    domains = {"day": {"miou": None}, "night": {"miou": 10.0}}
    found = summarise_robustness(domains, ["night"], ["day"])
    assert (found["retention"], found["worst"]) == (None, "night")
    assert summarise_robustness({"day": {"miou": None}}, ["day"], [])["worst"] is None


def scored(domains):
    applied = {name: domain.get("corruption") for name, domain in domains.items()}
    corruptions = {name: each and AppliedCorruption(**each) for name, each in applied.items()}
    return {
        name: SimpleNamespace(
            miou=domain["miou"],
            corruption=corruptions[name],
            per_image=SimpleNamespace(names=domain.get("names", ["image"])),
        )
        for name, domain in domains.items()
    }


def degradation(ours, reference, clean="day"):
    part = SimpleNamespace(corruption="fog", clean=clean)
    return corruption_degradation(scored(ours), scored(reference), part)


def test_corruption_degradation_is_a_ratio_of_sums_to_the_reference():
    ours = {"day": {"miou": 80.0}, "a": fog(70.0, 1), "b": fog(50.0, 2)}
    theirs = {"day": {"miou": 60.0}, "a": fog(40.0, 1), "b": fog(20.0, 2)}
    cd, rcd = degradation(ours, theirs)
    assert cd == pytest.approx(100 * (30 + 50) / (60 + 80))
    assert rcd == pytest.approx(100 * (10 + 30) / (20 + 40))
    del theirs["b"]  # only what both were scored on
    assert degradation(ours, theirs) == (50, 50)
    theirs["b"] = fog(20.0, 5)  # of another severity under the same name
    assert degradation(ours, theirs) == (50, 50)
    theirs["b"] = {**fog(20.0, 2), "names": ["other"]}  # of another image
    assert degradation(ours, theirs) == (50, 50)
    ours["c"], theirs["c"] = fog(10.0, 1, "dusk"), fog(55.0, 1, "dusk")  # apart from the day's
    assert degradation(ours, theirs, "dusk") == (200, None)
    del theirs["day"]
    assert degradation(ours, theirs) == (50, None)
    assert degradation({"day": {"miou": 80.0}}, theirs) == (None, None)
