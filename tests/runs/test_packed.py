"""Packed runs: the same logits without the data, nothing of the machine, and a hub."""

import base64
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile

import pytest
import torch
import yaml

import causalseg
from causalseg.errors import MissingFileError, RunError
from causalseg.jobs.predict import predict_run
from causalseg.jobs.train import train_run
from causalseg.runs.packed import opened, pack_run


@pytest.fixture
def run(tiny):
    return train_run(tiny("train.steps=1"))


@pytest.fixture
def packed(run, tmp_path):
    pack_run(run, str(tmp_path / "x.zip"))
    return tmp_path / "x.zip"


def test_a_packed_run_computes_the_same_without_data_and_run(run, packed, folder, tmp_path):
    image = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    models = [causalseg.load(run.path), causalseg.load(packed)]
    before, after = (model._score(model.models[0], image[None]) for model in models)
    assert torch.equal(before, after)
    photos = shutil.copytree(folder / "images", tmp_path / "photos")
    shutil.rmtree(folder)
    shutil.rmtree(run.path)
    assert predict_run(packed, photos, tmp_path / "out") == (3, 0)
    assert predict_run(packed, photos, tmp_path / "out") == (0, 3)


def test_it_holds_nothing_of_the_machine(run, packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        texts = [archive.read(name).decode() for name in names if not name.endswith("tensors")]
    assert names == [
        "config.yaml",
        "head.safetensors",
        "adapter.safetensors",
        "checksums.json",
        "README.md",
    ]
    assert not any(str(tmp_path) in text for text in texts)
    config = yaml.safe_load(texts[0])
    assert config["data"]["classes"]["names"] == ["flat", "thing", "sky"]
    assert config["data"]["sources"] == []


def test_what_is_no_packed_run_is_refused(run, tmp_path):
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 cut")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../config.yaml", "x")
    for name in ("cut", "other"):
        with pytest.raises(RunError, match=f"{name}.zip"):
            causalseg.load(tmp_path / f"{name}.zip")
    with pytest.raises(RunError, match="give the name of a zip file"):
        pack_run(run, str(tmp_path / "x.tar"))
    with pytest.raises(MissingFileError, match="best"):
        pack_run(run, str(tmp_path / "x.zip"), "best")
    with run.head.open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match="not what was written"):
        pack_run(run, str(tmp_path / "x.zip"))
    assert not list(tmp_path.glob("x.*"))


def test_a_hub_without_network_says_so(run):
    with pytest.raises(RunError, match="It takes a network"), opened("hub:someone/street"):
        pass
    with pytest.raises(RunError, match="It takes a network"):
        pack_run(run, "hub:someone/street")


COMMIT = "0" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does, for one repository, someone/street, whose files are in memory."""

    files: dict[str, bytes]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        place, _, name = self.path.rpartition("/")
        if self.path.startswith("/api/models/someone/street/tree"):
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": n} for n, c in self.files.items()
            ]
            self.answer_json(tree)
        elif self.path.startswith("/api/models/someone/street"):
            siblings = [{"rfilename": each} for each in self.files]
            self.answer_json({"id": "someone/street", "sha": COMMIT, "siblings": siblings})
        elif "/someone/street/resolve/" in place and name in self.files:
            self.answer(self.files[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        else:
            self.send_error(404)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.answer_json({"url": "http://127.0.0.1/someone/street"})
        elif self.path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [each["path"] for each in json.loads(content)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self.answer_json({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = "http://127.0.0.1/someone/street/commit/" + COMMIT
            self.answer_json({"commitUrl": url, "commitOid": COMMIT})
        else:
            self.send_error(404)

    def answer_json(self, content):
        self.answer(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def answer(self, content, headers):
        self.send_response(200)
        for key, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_a_run_is_pushed_to_a_hub_and_loaded_from_it(run, tmp_path):
    handler = type("OneHub", (Hub,), {"files": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "token",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
    }
    code = """
import sys, torch, causalseg
from causalseg.cli import app
app(["pack", sys.argv[1], "--out", "hub:someone/street"], result_action="return_value")
image = (255 * torch.rand(3, 48, 64)).byte()
one, other = (causalseg.load(each).predict(image) for each in (sys.argv[1], "hub:someone/street"))
assert (one.scores("energy") == other.scores("energy")).all()
"""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, run.path], env=env, capture_output=True, timeout=120
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr.decode()
    assert "head.safetensors" in handler.files
