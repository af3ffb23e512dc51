"""The tables of docs/spectrum.md: they have the numbers of the files."""

import json

from spectra import END, START, spectrum_page

EDGES = [0.0, 0.7, 1.4]
MATRIX = [[0.1, 0.2]] * 12


def write(folder, name, **changes):
    found = {
        "adapter": "lora",
        "edges": EDGES,
        "transfer": {"gain": [[1.0, 1.5]] * 12, "added": [[0.0, 0.25]] * 12, "spike": [3.0] * 12},
        "interventions": None,
        **changes,
    }
    (folder / f"{name}.json").write_text(json.dumps(found))


def test_the_page_has_transfer_function_spike_and_change_of_the_score(tmp_path):
    page = tmp_path / "spectrum.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    used = {"dusk": {"images": 7, "miou": 41.26, "change": {"0.0": [[-20.04, 0.5]] * 12}}}
    write(tmp_path, "one", interventions=used)
    text = spectrum_page(page, tmp_path)
    assert text.startswith(f"before\n{START}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| one | 0 | 1.00 / 0.0 | 1.50 / 25.0 | 3.0 |" in text
    assert "mIoU 41.3 on 7 images" in text
    assert "| 11 | −20.0 | +0.5 |" in text


def test_a_frozen_backbone_has_its_verdict(tmp_path):
    page = tmp_path / "spectrum.md"
    page.write_text(f"{START}\n{END}\n")
    ring = {"classes": [0.031, 0, 0], "missed": [0.012, 0, 0], "shift": [1.29, 0, 0]}
    verdict = {"sentence": "No band.", "rings": [{**ring, "is_non_causal": True}] * 2}
    write(
        tmp_path,
        "frozen",
        **{"adapter": "none", "transfer": None, "model": "vit", "size": [28, 42], "severity": 3},
        verdict=verdict,
        sets={"source": {"images": 9}},
        shift={"fog": MATRIX},
        unpaired={"fog": {"auc": MATRIX}, "dusk": {"auc": [[0.75, 1.0]] * 12}},
    )
    text = spectrum_page(page, tmp_path)
    assert "images of 42 × 28 pixels: source 9" in text
    assert "| class information, % of the richest ring | 3.1 | 3.1 |" in text
    assert "| shift, 1 is all rings | 1.29 | 1.29 |" in text
    assert "| AUC, dusk, last block | 0.75 | 1.00 |" in text
    assert "AUC, fog" not in text  # its shift says more
