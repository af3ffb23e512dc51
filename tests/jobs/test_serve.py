"""The server: answers as the model predicts, refuses what is wrong, and the page in a browser."""

import io
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

import causalseg
from causalseg.build.loaded import LoadedModel
from causalseg.config.load import parse_config
from causalseg.errors import ConfigError, DataError
from causalseg.jobs.serve import app as server
from causalseg.jobs.serve.answers import Wanted, answer, run_lengths
from causalseg.jobs.serve.app import Limits, make_app
from causalseg.jobs.serve.served import Served
from causalseg.jobs.serve.worker import Worker
from causalseg.jobs.train import train_run
from command_line import run as command
from conftest import tiny_run, write_folder

ADAPTERS = ("{name: causal_tune, num_tokens: 4, rank: 2}", "{name: lora, rank: 2, targets: all}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, trained once: no test changes them."""
    place = tmp_path_factory.mktemp("served")
    folder, made = write_folder(place / "data"), []
    for name, adapter in zip("ab", ADAPTERS, strict=True):
        learn = ("train.steps=3", "train.lr=0.05", "train.adapter_lr=0.05", f"adapter={adapter}")
        made.append(train_run(parse_config(tiny_run(folder, place / name), learn)).path)
    return made


@pytest.fixture
def served(runs):
    names = zip(("street", "other"), runs, strict=True)
    return [Served(name, causalseg.load(run), partial(causalseg.load, run)) for name, run in names]


@pytest.fixture
def model(served):
    return served[0].model


@pytest.fixture
def worker(served):
    worker = Worker(served, answer)
    yield worker
    worker.close()


@pytest.fixture
def client(worker):
    with TestClient(make_app(worker, Limits(bytes=100_000, pixels=64 * 96))) as client:
        yield client


@pytest.fixture
def content(folder):
    return (folder / "images" / "000.png").read_bytes()


def picture(response):
    assert response.status_code == 200, response.text
    return np.array(Image.open(io.BytesIO(response.content)))


def test_every_output_is_what_the_model_predicts(client, model, content):
    expected = model.predict(content)
    ask = lambda output: client.post("/predict", params={"output": output}, content=content)  # noqa: E731
    assert np.array_equal(picture(ask("labels")), expected.label_ids())
    assert np.array_equal(picture(ask("overlay")), np.array(expected.overlay()))
    assert np.abs(picture(ask("confidence")) / 255 - expected.confidence).max() < 0.003
    assert ask("json").json()["shares"] == expected.shares()
    told = ask("rle").json()
    ids = np.concatenate([np.full(length, value) for value, length in told["rle"]])
    assert np.array_equal(ids.reshape(told["size"]), expected.labels)
    page = ask("page").json()
    assert all(page[key].startswith("data:image/png") for key in ("image", "labels", "confidence"))
    assert picture(client.post("/predict?run=other", content=content)).shape == (48, 64)


def test_a_corrupted_image_is_predicted_after_the_corruption(client, model, content):
    from causalseg.corruptions import corrupt
    from causalseg.data.dataset import decode_image

    image = corrupt(decode_image(content, "it"), "contrast", 5, seed=0)
    made = client.post("/predict?corruption=contrast&severity=5", content=content)
    assert np.array_equal(picture(made), model.predict(image).label_ids())


def png(width, height):
    with io.BytesIO() as file:
        Image.new("RGB", (width, height)).save(file, "PNG")
        return file.getvalue()


@pytest.mark.parametrize(
    ("query", "body", "status", "text"),
    [
        ("", b"", 400, "is empty"),
        ("", b"no image", 400, "no image of the formats"),
        ("", png(8, 8)[:45], 400, "cannot read"),
        ("", png(97, 64), 413, "97 x 64 pixels"),
        ("", b"x" * 100_001, 413, "MB"),
        ("?run=typo", png(8, 8), 422, "street, other"),
        ("?corruption=typo", png(8, 8), 422, "typo"),
        ("?severity=9", png(8, 8), 422, "severity"),
        ("?output=typo", png(8, 8), 422, "output"),
    ],
)
def test_what_is_wrong_is_refused_with_a_sentence(client, query, body, status, text):
    response = client.post(f"/predict{query}", content=body)
    assert response.status_code == status
    assert text in json.dumps(response.json()["detail"])


def test_malformed_images_never_break_the_server(client, content):
    random.seed(0)
    for _ in range(300):
        broken = bytearray(content)
        for _ in range(random.randint(1, 40)):
            broken[random.randrange(len(broken))] = random.randrange(256)
        sent = bytes(broken[: random.randint(0, len(broken))])
        assert client.post("/predict", content=sent).status_code in (200, 400, 413)
    assert client.post("/predict", content=content).status_code == 200


def test_a_full_queue_and_a_late_answer_are_told(served, content):
    hold, began = threading.Event(), threading.Event()

    def late(*asked):
        began.set()
        hold.wait()
        return answer(*asked)

    worker = Worker(served, late)
    held = worker.submit(served[0], content, Wanted())
    began.wait()
    with TestClient(make_app(worker, Limits(seconds=0.2))) as client:
        assert client.post("/predict", content=content).status_code == 504
    with TestClient(make_app(worker, Limits(requests=1))) as client:
        first = threading.Thread(
            target=client.post, args=("/predict",), kwargs={"content": content}
        )
        first.start()
        while worker.waiting < 2:  # the one that was too late, and the first
            time.sleep(0.01)
        refused = client.post("/predict", content=content)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        hold.set()
        first.join()
        assert client.post("/predict", content=content).status_code == 200
        assert 'causalseg_requests_total{status="429"} 1' in client.get("/metrics").text
    assert held.result() == answer(served[0], [(content, Wanted())])[0]
    worker.close()


def test_alike_requests_that_wait_are_answered_together(served, content):
    go_on, sizes = threading.Event(), []

    def watched(which, asked):
        sizes.append(len(asked))
        go_on.wait()
        return answer(which, asked)

    worker = Worker(served, watched)
    first = worker.submit(served[0], content, Wanted())
    while not sizes:
        time.sleep(0.01)
    alike = [worker.submit(served[0], content, Wanted(output)) for output in ("labels", "json")]
    broken = worker.submit(served[0], b"broken", Wanted())
    other = worker.submit(served[1], content, Wanted())
    go_on.set()
    assert alike[0].result() == first.result()
    assert alike[1].result()[1] == "application/json"
    with pytest.raises(DataError):
        broken.result()
    assert other.result() == answer(served[1], [(content, Wanted())])[0]
    worker.close()
    assert sizes == [1, 3, 1]


def test_an_error_with_one_request_is_not_that_of_its_neighbours(served, content):
    go_on, began = threading.Event(), threading.Event()

    def broken(which, asked):
        began.set()
        go_on.wait()
        if any(wanted.output == "rle" for _, wanted in asked):
            raise RuntimeError("out of memory")
        return answer(which, asked)

    worker, left = Worker(served, broken), []
    submit = lambda output, pixels=0: worker.submit(  # noqa: E731
        served[0], content, Wanted(output), pixels, lambda: left.append(output)
    )
    first = submit("labels")
    began.wait()
    waiting = [submit(output) for output in ("json", "rle")]
    cancelled = submit("page")
    cancelled.cancel()
    go_on.set()
    assert waiting[0].result()[1] == "application/json"
    with pytest.raises(RuntimeError):
        waiting[1].result()
    assert first.result()
    worker.close()
    assert sorted(left) == ["json", "labels", "page", "rle"]


def test_large_images_are_answered_one_by_one(served, content):
    sizes, began, go_on = [], threading.Event(), threading.Event()

    def watched(which, asked):
        sizes.append(len(asked))
        began.set()
        go_on.wait()
        return answer(which, asked)

    worker = Worker(served, watched)
    futures = [worker.submit(served[0], content, Wanted())]
    began.wait()
    futures += [worker.submit(served[0], content, Wanted(), 3_000_000) for _ in range(2)]
    go_on.set()
    assert len({future.result() for future in futures}) == 1
    worker.close()
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize("name", ["street", "other"])
def test_without_its_adapter_a_run_predicts_as_the_bare_backbone(client, served, content, name):
    run = next(each for each in served if each.name == name)
    bare = causalseg.load_segmenter(run._again.args[0])
    bare.attachment.detach()
    expected = LoadedModel([bare], run.model.config).predict(content)
    made = client.post(f"/predict?run={name}&adapter=false", content=content)
    assert np.array_equal(picture(made), expected.label_ids())
    own = client.post(f"/predict?run={name}", content=content)
    assert np.array_equal(picture(own), run.model.predict(content).label_ids())
    assert not np.array_equal(picture(own), picture(made))


def test_a_band_holds_for_its_request_alone(client, model, content):
    before = [adapter.low for adapter in model.models[0].modules() if hasattr(adapter, "low")]
    ask = lambda query: client.post(f"/predict?{query}", content=content)  # noqa: E731
    usual = ask("output=page&bands=true").json()
    other = ask("output=page&bands=true&low=0.4&high=0.5").json()
    assert usual["causal"] != other["causal"]
    assert usual["image"] == other["image"]
    assert "causal" not in ask("output=page").json()
    after = [adapter.low for adapter in model.models[0].modules() if hasattr(adapter, "low")]
    assert before == after == [0.2]
    for wrong in ("low=0.5&high=0.4", "low=0.5&high=0.5000001", "low=nan", "high=1e300"):
        assert ask(wrong).status_code == 422
    refused = ask("run=other&low=0.5")
    assert refused.status_code == 422
    assert "no band" in refused.json()["detail"]


def test_a_token_opens_everything_but_the_page(worker, content, capsys):
    for wrong in ("", "ü"):
        assert command("serve", "nowhere", "--token", wrong) == 2
        assert "token" in capsys.readouterr().err
    client = TestClient(make_app(worker, Limits(token="secret")))
    assert client.post("/predict", content=content).status_code == 401
    assert client.get("/info").status_code == 401
    sly = {"Host": "x/healthz?"}  # would make the path of the URL an open one
    assert client.post("/predict", content=content, headers=sly).status_code == 401
    assert client.get("/info", headers={"Authorization": "secret"}).status_code == 401
    assert client.get("/healthz").status_code == client.get("/").status_code == 200
    headers = {"Authorization": "Bearer secret"}
    assert client.post("/predict", content=content, headers=headers).status_code == 200


def test_it_says_what_it_has_and_that_it_is_ready(client, worker):
    about = client.get("/info").json()
    assert [run["name"] for run in about["runs"]] == ["street", "other"]
    assert about["runs"][0]["classes"] == ["flat", "thing", "sky"]
    assert client.get("/example/0").headers["content-type"] == "image/png"
    assert client.get("/example/99").status_code == 404
    assert client.get("/readyz").status_code == 200
    assert "/predict" in client.get("/openapi.json").json()["paths"]
    for file in ("/", "/page.js", "/page.css"):
        assert client.get(file).status_code == 200
    assert client.get("/../../pyproject.toml").status_code == 404


def test_run_lengths_and_names_of_runs(capsys):
    assert run_lengths(np.array([[1, 1, 2], [2, 0, 0]])) == [[1, 2], [2, 2], [0, 2]]
    assert server._name(["a/x/seed1", "a/y/seed1"]) == {
        "x/seed1": "a/x/seed1",
        "y/seed1": "a/y/seed1",
    }
    assert list(server._name(["x/roads.zip", "x/roads"])) == ["roads.zip", "roads"]
    with pytest.raises(ConfigError, match="twice"):
        server._name(["x", "x"])
    assert command("serve") == 2
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert command("serve", "nowhere", "--port", port) == 2
    assert "cannot listen" in capsys.readouterr().err
    assert command("serve", "nowhere", "--timeout", "0") == 2
    assert command("serve", "nowhere") == 2


@pytest.fixture
def address(worker):
    """A real server on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(make_app(worker, Limits()), port=port, log_level="error", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()


@pytest.mark.slow
def test_what_the_interface_allows_is_never_an_error_of_the_server(address, content, tmp_path):
    tool = Path(sys.executable).with_name("schemathesis")
    options = ["--checks", "not_a_server_error", "--max-examples", "50", "--seed", "0"]
    options += ["--phases", "examples,coverage,fuzzing", "--no-color"]
    place = f"{address}/openapi.json"
    done = subprocess.run(
        [tool, "run", place, *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 100
    assert httpx.post(f"{address}/predict", content=content).status_code == 200


@pytest.mark.slow
def test_a_crowd_is_answered_or_told_to_come_again_in_the_same_memory(address, content):
    def ask(asked):
        with httpx.Client(timeout=60) as client:
            for _ in range(asked):
                told.append(client.post(f"{address}/predict", content=content).status_code)

    def crowd():
        threads = [threading.Thread(target=ask, args=(8,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    told = []
    before, after = crowd(), crowd()
    assert len(told) == 800  # none is lost
    assert set(told) == {200, 429}
    assert after < 1.1 * before
    assert httpx.post(f"{address}/predict", content=content).status_code == 200


CHROMIUM = shutil.which("chromium")
SHOTS = os.environ.get("SHOTS")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize(("size", "scheme"), [((1280, 800), "light"), ((390, 844), "dark")])
def test_a_browser_drives_the_page_without_an_error(address, folder, tmp_path, size, scheme):
    from playwright.sync_api import sync_playwright

    told = []
    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = play.chromium.launch(executable_path=CHROMIUM, args=options)
        viewport = {"width": size[0], "height": size[1]}
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#legend input")
        page.set_input_files("#file", folder / "images" / "000.png")
        page.wait_for_selector("#view:not([hidden])")
        colours = "document.querySelector('#canvas').toDataURL()"
        seen = [page.evaluate(colours)]
        page.fill("#opacity", "90")
        seen.append(page.evaluate(colours))
        page.keyboard.press("c")
        seen.append(page.evaluate(colours))
        page.keyboard.press("c")
        with page.expect_response("**/predict?*"):
            page.click(".chips button[data-name=contrast]")
        page.wait_for_function("document.querySelector('#status').textContent.includes(' s ')")
        page.click("#legend input")
        seen.append(page.evaluate(colours))
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 5)
        page.wait_for_function("document.querySelector('#wipe').ariaValueNow === '80'")
        page.select_option("#other", "street without its adapter")
        with page.expect_response("**/predict?*bands=true"):
            page.keyboard.press("b")
        page.wait_for_function("document.querySelector('#status').textContent.includes(' s ')")
        seen.append(page.evaluate(colours))
        with page.expect_response("**/predict?*low=0.6*"):
            page.evaluate("low.value = 0.6; low.oninput(); low.onchange()")
        page.wait_for_function("document.querySelector('#status').textContent.includes(' s ')")
        seen.append(page.evaluate(colours))
        assert len(set(seen)) == len(seen)
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{scheme}.png", full_page=True)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0]  # nothing to scroll to the side
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"x"})
        page.wait_for_selector("#error:not([hidden])")
        assert "no image of the formats" in page.inner_text("#error")
        browser.close()
    told = [line for line in told if "400 (Bad Request)" not in line]  # the broken image
    assert told == []
