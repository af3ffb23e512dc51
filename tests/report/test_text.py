"""The numbers of a report as Markdown and LaTeX."""

import pytest

from causalseg.report import to_latex, to_markdown
from causalseg.report.read import read_runs
from causalseg.report.tables import build_headline
from report.runs import edit, make_corrupted, make_domain, make_run, make_two


@pytest.fixture
def two(tmp_path):
    """Runs whose numbers are round: everything that is printed can be written down here."""
    runs = make_two(tmp_path)
    for run, miou in zip(runs, (50.0, 62.5), strict=True):
        edit(run, lambda scores, miou=miou: round_off(scores, miou))
    return runs


def round_off(scores, miou):
    for i, about in enumerate(scores["domains"].values()):
        value = miou - 20 * i
        about |= {"miou": value, "miou_interval": [value - 1, value + 1]}
        about["iou"] = {"road": value, "sky": value - 0.25, "car": None}
    scores["mean"] |= {"miou": miou - 20, "interval": [miou - 21, miou - 19]}
    held = scores["robustness"]
    held["source"]["miou"], held["target"]["miou"], held["retention"] = miou, miou - 20, 60.0


BEST = [("42.5", "[41.5, 43.5]"), ("62.5", "[61.5, 63.5]")]


def changes(runs):
    """The intervals of the differences as printed: of the mean, by day and by night."""
    base, tuned = read_runs(runs)
    table = build_headline([base, tuned], base)
    cells = [table.mean[1], *(row[1] for row in table.rows.values())]
    ends = [[f"{end:+.1f}" for end in cell.change_interval] for cell in cells]
    return [f"[{low}, {high}]" for low, high in ends]


def test_markdown_has_the_tables_of_the_page(two):
    mean, day, night = (change.replace("-", "−") for change in changes(two))
    assert (
        to_markdown(two)
        == f"""\
## mIoU by domain in %

| run | mean | day | night |
| --- | --- | --- | --- |
| frozen backbone, linear | 30.0 [29.0, 31.0] | 50.0 [49.0, 51.0] | 30.0 [29.0, 31.0] |
| rein, linear | **42.5** [41.5, 43.5], +12.5 {mean} | **62.5** [61.5, 63.5], +12.5 {day} | \
**42.5** [41.5, 43.5], +12.5 {night} |

## Robustness in %

| run | source | target | worst target | retention |
| --- | --- | --- | --- | --- |
| frozen backbone, linear | 50.0 (day) | 30.0 (night) | 30.0 (night) | 60.0 |
| rein, linear | 62.5 (day) | 42.5 (night) | 42.5 (night) | 60.0 |

## IoU by class in %, frozen backbone, linear

| class | day | night |
| --- | --- | --- |
| road | 50.0 | 30.0 |
| sky | 49.8 | 29.8 |

## IoU by class in %, rein, linear

| class | day | night |
| --- | --- | --- |
| road | 62.5 | 42.5 |
| sky | 62.2 | 42.2 |

- IoU of one confusion matrix.
- day, night: each 6 images, 64 × 48 px
- The mean is over night. In brackets: 95 % bootstrap intervals over images.
- After the comma: difference to frozen backbone, linear in points. CD and rCD: corruption \
degradation, and relative to clean, in percent of the reference (Kamann and Rother, CVPR 2020).
- frozen backbone, linear: predicted from images at the sizes of their domains, in windows of \
40 × 32 px every 26 × 21 px, averaged.
- rein, linear: predicted from images at the sizes of their domains, in windows of \
40 × 32 px every 26 × 21 px, averaged.
"""
    )


def test_latex_has_them_with_booktabs(two):
    mean, day, night = (change.replace("-", "$-$") for change in changes(two))
    first, second = to_latex(two).split("\n\n")[:2]
    assert first == r"% needs \usepackage{booktabs}"
    best = [rf"\textbf{{{score}}} {ends}, +12.5" for score, ends in BEST]
    assert second.splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{mIoU by domain in \%}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"run & mean & day & night \\",
        r"\midrule",
        r"frozen backbone, linear & 30.0 [29.0, 31.0] & 50.0 [49.0, 51.0] & 30.0 [29.0, 31.0] \\",
        rf"rein, linear & {best[0]} {mean} & {best[1]} {day} & {best[0]} {night} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_differences_are_to_the_baseline_and_a_single_run_has_none(two):
    text = to_markdown(two, two[1])
    assert "| frozen backbone, linear | 30.0 [29.0, 31.0], −12.5 [" in text
    text = to_markdown(two[:1])
    assert "**" not in text
    assert "| frozen backbone, linear | 30.0 [29.0, 31.0] | 50.0 [49.0, 51.0] |" in text


def test_corruptions_have_a_row_for_each_run(tmp_path):
    runs = make_corrupted(tmp_path)
    text = to_markdown(runs)
    rows = [line for line in text.splitlines() if "fog, severity 2, of day" in line]
    assert rows[0].startswith("| frozen backbone, linear | fog, severity 2, of day | ")
    assert rows[0].endswith(" | 100.0 | 100.0 |")
    assert len(rows) == 2
    assert "| CD | rCD |" in text
    assert "| CD | rCD |" not in to_markdown(runs[:1])


def test_many_domains_are_rows(tmp_path):
    domains = {f"d{i}": make_domain(0.8) for i in range(9)}
    text = to_markdown([make_run(tmp_path / "run", domains)])
    assert "| domain | causal_tune, linear |" in text
    assert "\n| d8 | " in text
    assert "| domain | road | sky |" in text


def test_special_characters_are_escaped(tmp_path):
    odd, link = r"[a]_b & 50% $x$ #1 {y} ~^\ <z> |", "[click](there) &lt;"
    names = ["[sky]", "*road*", "car"]
    domains = {odd: make_domain(0.8, names), link: make_domain(0.7, names)}
    run = make_run(tmp_path / "run", domains, "*odd* _adapter_", names=names)
    accents = r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    brackets = r"\textless{}z\textgreater{} \textbar{}"
    latex, markdown = to_latex([run]), to_markdown([run])
    assert rf"[a]\_b \& 50\% \$x\$ \#1 \{{y\}} {accents} {brackets} & " in latex
    for name in names[:2]:  # not an option of the line break before it
        assert f"\n{{}}{name} & " in latex
    assert r"[a]\_b & 50% $x$ #1 {y} ~^\\ \<z> \|" in markdown
    assert r"\*odd\* \_adapter\_, linear" in markdown
    assert r"[click\](there) \&lt;" in markdown
    assert "](" not in markdown.replace(r"\](", "")
    assert r"\\|" not in markdown
