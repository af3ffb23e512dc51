"""The quickstart: a linear probe and Causal-Tune with one head and seed, in unseen weather."""

from importlib.resources import files
from pathlib import Path

import yaml

from causalseg.config.load import parse_config
from causalseg.jobs.train import train_run
from causalseg.report import DomainTable, domain_table, write_report
from causalseg.runs.folder import RunFolder


def run_quickstart(out: Path) -> tuple[DomainTable, Path]:
    """Train unfinished runs below ``out``; return the mIoU by domain and the path of the report."""
    text = files("causalseg.jobs").joinpath("quickstart.yaml").read_text(encoding="utf-8")
    runs = []
    for adapter in ("none", "causal_tune"):
        run = RunFolder(out / adapter)
        if not run.report.is_file():
            resume = str(run.checkpoint.is_file()).lower()
            options = yaml.safe_load(text) | {"adapter": adapter}
            if adapter == "none":
                options["train"].pop("adapter_lr")
            overrides = [f"run.out={run.path}", f"run.resume={resume}"]
            train_run(parse_config(options, overrides, "the quickstart"))
        runs.append(run)
    report = out / "report.html"
    write_report(runs, report)
    return domain_table(runs), report
