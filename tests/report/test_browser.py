"""The report in a browser: nothing is wider than the window, and its script works.

A page cannot be measured from outside without a driver, so a copy of it measures itself: a script
is put in front, and what it posts is written into the page around it, which the browser prints.
"""

import html
import json
import re
import shutil
import subprocess

import pytest

from causalseg.report import write_report
from report.runs import make_domain, make_run

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome"),
]
WIDTHS = (390, 768, 1280)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--window-size=1300,1000", "--virtual-time-budget=20000", "--dump-dom"),
)
PROBE = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
console.error = (...words) => errors.push(words.join(" "));
addEventListener("load", () => {
  for (const details of document.querySelectorAll("details")) {
    details.removeAttribute("name"); // of a group that shares a name only one is open
    details.open = true;
  }
  const picture = document.querySelectorAll("img.ids")[1];
  const said = [];
  if (picture) {
    const box = picture.getBoundingClientRect();
    for (const share of [0.25, 0.75]) {
      const place = { clientX: box.left + share * box.width, clientY: box.top + 0.6 * box.height };
      picture.dispatchEvent(new PointerEvent("pointermove", place));
      said.push(document.querySelector(".tip").textContent);
    }
    picture.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp" }));
    said.push(document.querySelector(".tip").hidden);
    picture.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
    said.push(document.querySelector(".tip").hidden);
  }
  const width = document.documentElement.scrollWidth;
  parent.postMessage({ window: innerWidth, width, errors, said }, "*");
});
</script>"""
AROUND = """<!DOCTYPE html><pre></pre><script>
const found = [];
addEventListener("message", (event) => {
  found.push(event.data);
  document.querySelector("pre").textContent = JSON.stringify(found);
});
</script>"""


def look(page):
    """What a page says of itself at each width."""
    copy, around = page.with_name("copy.html"), page.with_name("around.html")
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
    frames = [f'<iframe src="copy.html" style="width: {w}px; border: 0"></iframe>' for w in WIDTHS]
    around.write_text(AROUND + "".join(frames))
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *FLAGS, profile, around.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    found = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1]))
    assert sorted(each["window"] for each in found) == list(WIDTHS)
    return sorted(found, key=lambda each: each["window"])


@pytest.mark.parametrize("number", [1, 3])
def test_a_report_is_never_wider_than_the_window_and_its_script_works(tmp_path, number):
    long = (
        "a_domain_whose_name_is_much_longer_than_a_telephone_is_wide_and_has_no_space_to_break_at"
    )
    names = ["road", "a_class_with_a_name_that_nobody_would_ever_want_to_write_down_" * 2, "car"]
    runs = []
    for i in range(number):
        domains = {
            name: make_domain(0.6 + 0.1 * i, names, first=j)
            for j, name in enumerate((long, "day", f"night {'and fog ' * 20}"))
        }
        adapter = f"an_adapter_with_a_long_name_{i}_" * 3
        runs.append(make_run(tmp_path / f"run{i}", domains, adapter, names=names))
    page = tmp_path / "report.html"
    write_report(runs, page, runs[0])
    for found in look(page):
        assert found["errors"] == []
        assert found["width"] <= found["window"]
        *pointed, is_hidden, is_hidden_after_escape = found["said"]
        left, right = (text.splitlines() for text in pointed)
        assert len(left) == len(right) == 1 + number
        assert left[0] == right[0] == "truth: road"
        assert left[1].endswith(": road")
        assert right[1].endswith(f": {names[1]}")
        assert (is_hidden, is_hidden_after_escape) == (False, True)


def test_the_probe_sees_a_box_that_is_too_wide_and_a_script_that_fails(tmp_path):
    page = tmp_path / "wide.html"
    body = '<body style="margin: 0"><div style="width: 600px">x</div><script>nothing()</script>'
    page.write_text(f"<!DOCTYPE html><html><head></head>{body}</body></html>")
    phone, *others = look(page)
    assert phone["width"] == 600
    assert [found["width"] for found in others] == [768, 1280]
    assert "nothing is not defined" in phone["errors"][0]
