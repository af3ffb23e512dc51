import pickle
import zipfile

import pytest
import torch
from torch import nn

from causalseg.backbones.weights.read import read_state
from causalseg.errors import WeightsError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.:FutureWarning")


class Net(nn.Module):
    """Has what an archive has to carry: nested and shared parts, buffers, odd strides and sizes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.tied = self.layers[0]
        self.turned = nn.Parameter(torch.rand(4, 2).T)
        self.empty = nn.Parameter(torch.empty(0))
        self.sizes = [1, 2]
        self.name = "net"

    def forward(self, images):
        x = self.norm(self.conv(images)).mean((2, 3))
        for layer in self.layers:
            x = layer(x)
        return self.tied(x) @ self.turned.T + self.empty.sum()


def save(path, module, traced=False):
    images = torch.rand(1, 3, 8, 8, dtype=next(module.parameters()).dtype)
    script = torch.jit.trace(module, images) if traced else torch.jit.script(module)
    torch.jit.save(script, path)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("scripts") / "net.pt", Net().eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("traced", [False, True])
def test_an_archive_gives_its_modules_state_dict(tmp_path, dtype, traced):
    torch.manual_seed(1)
    net = Net().to(dtype).eval()
    path = save(tmp_path / "any.name", net, traced)
    found, expected = read_state(path), net.state_dict()
    assert found.keys() == expected.keys()
    found["conv.weight"].add_(0)  # not read-only
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert found[key].shape == value.shape
        assert torch.equal(found[key], value)


@pytest.mark.parametrize("keep", [20, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_off_archive_is_called_broken(archive, tmp_path, keep):
    content = archive.read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(WeightsError, match=r"cut\.pt is broken or cut off"):
        read_state(path)


def rewrite(archive, path, changes):
    """Copy an archive with other content for some of its members; None leaves one out."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = changes.get(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def test_damaged_members_are_called_broken(archive, tmp_path):
    with zipfile.ZipFile(archive) as whole:
        pickled = whole.read("net/data.pkl")
    size = b"(K\x04K\x03K\x03K\x03t"  # of conv.weight; wider, its view is out of bounds
    assert pickled.count(size) == 1
    for number, changes in enumerate(
        [
            {"data/3": None},
            {"data/3": b"12"},
            {"data/3": b"123"},
            {"data/3": bytes(4000)},
            {"data.pkl": pickled.replace(size, size.replace(b"\x04", b"\x7f"))},
            {"data.pkl": b""},
            {"data.pkl": pickled[:-1]},
            {"data.pkl": pickled[: len(pickled) // 2]},
            {"data.pkl": pickle.dumps([1, 2])},
            {"data.pkl": b"\x80\x02c__torch__\nNet\n)\x81K\x01b."},
        ]
    ):
        path = rewrite(archive, tmp_path / f"{number}.pt", changes)
        with pytest.raises(WeightsError, match="broken or cut off"):
            read_state(path)


def test_numbers_of_another_byte_order_are_refused(archive, tmp_path):
    path = rewrite(archive, tmp_path / "big.pt", {"byteorder": b"big"})
    with pytest.raises(WeightsError, match="big-endian values: save it again"):
        read_state(path)


@pytest.mark.parametrize("name", ["builtins open", "os system", "torch._utils _rebuild_qtensor"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_malicious_name_is_refused_and_nothing_runs(archive, tmp_path, name, inside):
    ran = tmp_path / "ran"
    command = {"builtins open": f"V{ran}\nVw\n", "os system": f"Vtouch {ran}\n"}.get(name, "V\n")
    call = f"c{name.replace(' ', chr(10))}\n({command}tR".encode()
    module = b"c__torch__\nNet\n)\x81}Vx\n" + call + b"sb"
    content = b"\x80\x02" + (module if inside else call) + b"."
    path = rewrite(archive, tmp_path / "bad.pt", {"data.pkl": content})
    with pytest.raises(WeightsError, match=rf"run code .* names {name.replace(' ', '.')}.*jit\.lo"):
        read_state(path)
    assert not ran.exists()
    if name == "builtins open":  # the attack itself works
        pickle.loads(content if not inside else b"\x80\x02" + call + b".").close()
        assert ran.exists()


def test_a_pickle_cannot_change_the_reader(archive, tmp_path):
    """BUILD sets attributes of any object that a pickle holds; of the stand-ins it must not."""
    before = read_state(archive)
    state = b"N}V__doc__\nVchanged\ns\x86"  # attributes that BUILD sets with setattr
    for name in ("__torch__\nNet", "torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict"):
        content = b"\x80\x02c" + name.encode() + b"\n" + state + b"b."
        with pytest.raises(WeightsError, match="broken or cut off"):
            read_state(rewrite(archive, tmp_path / "bad.pt", {"data.pkl": content}))
    after = read_state(archive)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
