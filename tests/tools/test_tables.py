"""Results become tables: seeds are joined, data sets kept apart, mistakes named."""

import json

import pytest

import fabricated
import tables


def make_result(seed, miou, **train):
    """A result as collect_result gives it, on two domains."""
    result = fabricated.make_result(0.8, seed, **train)
    result["config"]["adapter"]["rank"] = 8
    domains = result["eval"]["domains"]
    domains["day"]["miou"], domains["night"]["miou"] = miou + 10, miou
    return {**result, "eval": fabricated.make_scores(domains), "seconds_per_step": 0.25}


@pytest.fixture
def project(tmp_path):
    """A folder with a README to fill and no results."""
    (tmp_path / "README.md").write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    (tmp_path / "results").mkdir()
    return tmp_path


def write_pages(project, **results):
    """Write results and make the pages from them; return the rows of runs and docs/results.md."""
    for name, result in results.items():
        (project / "results" / f"{name}.json").write_text(json.dumps(result))
    tables.main([], project)
    page = (project / "docs" / "results.md").read_text()
    return [line for line in page.splitlines() if line.startswith("| [")], page


def test_check_fails_until_the_pages_are_written_and_the_rest_of_the_readme_stays(project):
    with pytest.raises(SystemExit, match=r"README.md, .*parameters.md; run `make tables`"):
        tables.main(["--check"], project)
    write_pages(project)
    tables.main(["--check"], project)
    text = (project / "README.md").read_text()
    assert text == f"before\n{tables.START}\nNo results yet.\n{tables.END}\nafter\n"


def test_seeds_of_one_name_are_one_row_with_mean_and_deviation(project):
    results = {f"x_seed{seed}": make_result(seed, miou) for seed, miou in ((0, 40.0), (1, 42.0))}
    (alone, joined), page = write_pages(project, **results, a=make_result(0, 30.0, lr=1e-3))
    cells = "causal_tune | linear | 51.0 ± 1.4 | 41.0 ± 1.4 | 46.0 ± 1.4 | 12,345 | 7"
    assert joined == f"| [x](#x) | {cells} | 42 × 28 | 4 | 2 seeds |"
    assert "| 40.0 | 30.0 | 35.0 |" in alone
    assert "`causal_tune` (rank=8)" in page
    assert "| night | 40.0 | 42.0 |" in page


def test_results_on_other_images_go_into_another_table(project):
    other = make_result(0, 30.0)
    other["eval"]["domains"]["day"].update(size=[72, 96], miou=None)
    _, page = write_pages(project, a=make_result(0, 40.0), b=other)
    assert page.count("| run |") == 2
    assert "docs/results.md" in (project / "README.md").read_text()


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([make_result(0, 40.0), make_result(1, 40.0, lr=1e-3)], "x_seed1.json .* differ in train"),
        ([make_result(0, 40.0), make_result(0, 41.0)], "have the same seed 0"),
        ([{"eval": {}}], "x_seed0.json is no result"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(project, results, message):
    with pytest.raises(SystemExit, match=message):
        write_pages(project, **{f"x_seed{i}": result for i, result in enumerate(results)})


def test_a_trained_run_is_collected_into_the_tables(project, tiny):
    from causalseg.jobs.train import train_run

    run = train_run(tiny("train.steps=2"))
    tables.main(["collect", str(run.path), "tiny_seed0"], project)
    written = (project / "results" / "tiny_seed0.json").read_text()
    assert str(run.path.parent) not in written
    assert tables.stale(project) == {}
    with pytest.raises(SystemExit, match="lower-case letters"):
        tables.main(["collect", str(run.path), "../tiny"], project)
