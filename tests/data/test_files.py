"""One tree of folders and zip files: what it holds, how it is read, what is refused by name."""

import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch.utils.data

from causalseg.data.files import Files, open_files
from causalseg.errors import DataError, MissingFileError


def write(root: Path, *names: str, content="disk") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content} {name}")
    return root


def write_zip(path: Path, *names: str, content="zip", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name in names:
            archive.writestr(name, f"{content} {name} ".encode() * 40)
    return path


def change(path: Path, signature: bytes, offset: int, new: bytes) -> None:
    """Overwrite bytes after the first occurrence of a signature."""
    content = path.read_bytes()
    at = content.index(signature) + offset
    path.write_bytes(content[:at] + new + content[at + len(new) :])


def settle(root: Path) -> None:
    """Make everything look as if it was last changed a while ago."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (1e9, 1e9))


def test_folders_and_zips_are_one_sorted_tree(tmp_path):
    write(tmp_path, "b/two.txt", "a.txt")
    write_zip(tmp_path / "x.ZIP", "b/one.txt", "c/d/")
    write_zip(tmp_path / "deep" / "er" / "still" / "y.zip", "b/three.txt")
    files = Files(tmp_path)
    assert files.names == ("a.txt", "b/one.txt", "b/two.txt", "deep/er/still/b/three.txt")
    assert files.zips == ("deep/er/still/y.zip", "x.ZIP")
    assert files.read("b/two.txt") == b"disk b/two.txt"
    assert files.read("b/one.txt").startswith(b"zip b/one.txt")
    assert files.read("deep/er/still/b/three.txt").startswith(b"zip b/three.txt")


def test_a_zip_may_be_the_root(tmp_path):
    path = write_zip(tmp_path / "all.zip", "a/x", "b")
    files = Files(path)
    assert files.names == ("a/x", "b")
    assert files.read("b").startswith(b"zip b")
    assert files.describe() == f"zip file {path}"
    assert files.where("a/x") == f"{path}: a/x"
    assert files.names_in_zip_folders() == {"all/a/x": "a/x", "all/b": "b"}


def test_members_also_have_a_path_in_a_folder_of_the_zips_name(tmp_path):
    write(tmp_path, "sub/plain")
    write_zip(tmp_path / "sub" / "Name.v1.zip", "x")
    assert Files(tmp_path).names_in_zip_folders() == {"sub/Name.v1/x": "sub/x"}


def test_messages_name_the_root_and_the_zip_of_a_file(tmp_path):
    write(tmp_path, "a")
    assert Files(tmp_path).describe() == f"folder {tmp_path}"
    for number in range(5):
        write_zip(tmp_path / "z" / f"{number}.zip", f"m{number}")
    files = Files(tmp_path)
    assert files.describe() == f"folder {tmp_path} with z/0.zip, z/1.zip, z/2.zip and 2 more"
    assert files.where("a") == str(tmp_path / "a")
    assert files.where("z/m3") == f"{tmp_path / 'z' / '3.zip'}: m3"


def test_hidden_files_and_those_of_macos_are_left_out(tmp_path):
    write(tmp_path, ".x", ".git/y", "__MACOSX/z", "a/.b", "a/c")
    write_zip(tmp_path / "x.zip", "__MACOSX/a/d", "a/._d", ".e/f", "a/d")
    assert Files(tmp_path).names == ("a/c", "a/d")


def test_a_file_on_disk_hides_a_member_of_the_same_path(tmp_path):
    write(tmp_path, "a")
    write_zip(tmp_path / "x.zip", "a")
    files = Files(tmp_path)
    assert files.names == ("a",)
    assert files.read("a") == b"disk a"


def test_the_same_content_may_be_in_two_zips_but_not_another(tmp_path):
    write_zip(tmp_path / "x.zip", "same", "unlike")
    write_zip(tmp_path / "y.zip", "same")
    write_zip(tmp_path / "z.zip", "unlike", content="another")
    files = Files(tmp_path)
    assert files.read("same").startswith(b"zip same")
    with pytest.raises(DataError, match=r"unlike is in .*x.zip and .*z.zip with different content"):
        files.read("unlike")


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "far", "x")
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    for link, target in (("one", "far"), ("in/two", "far"), ("in/back", "root")):
        (root / link).symlink_to(tmp_path / target)
    (root / "nowhere").symlink_to(tmp_path / "gone")
    files = Files(root)
    assert files.names == ("in/two/x", "nowhere", "one/x")
    assert files.read("in/two/x") == b"disk x"
    with pytest.raises(DataError, match="cannot read .*nowhere: .*No such file"):
        files.read("nowhere")


def test_a_tree_is_scanned_again_only_if_it_changed(tmp_path):
    write(tmp_path, "a/b/c")
    archive = write_zip(tmp_path / "a" / "x.zip", "m")
    settle(tmp_path)
    first = open_files(tmp_path)
    assert open_files(tmp_path / "a" / "..") is first
    (tmp_path / "a" / "b" / "new").touch()
    second = open_files(tmp_path)
    assert "a/b/new" in second.names
    write_zip(archive, "m", "n")
    assert "a/n" in open_files(tmp_path).names


def test_a_tree_that_just_changed_is_not_trusted(tmp_path):
    write(tmp_path, "a")
    before = open_files(tmp_path)
    stamp = tmp_path.stat().st_mtime_ns
    (tmp_path / "b").touch()
    os.utime(tmp_path, ns=(stamp, stamp))  # as on a clock that ticks slowly
    assert "b" not in before.names
    assert "b" in open_files(tmp_path).names


def test_a_root_that_vanished_is_named(tmp_path):
    root = tmp_path / "x"
    write(root, "a")
    open_files(root)
    (root / "a").unlink()
    root.rmdir()
    with pytest.raises(MissingFileError, match="no folder or zip file .*x: check the path"):
        open_files(root)


def test_an_unknown_name_and_a_root_of_another_kind_are_named(tmp_path):
    write(tmp_path, "a")
    with pytest.raises(MissingFileError, match="no file b in folder"):
        Files(tmp_path).read("b")
    with pytest.raises(DataError, match="cannot open zip file .*a: .*download it again"):
        Files(tmp_path / "a")


def test_a_broken_zip_is_listed_and_stops_no_other_file(tmp_path):
    write(tmp_path, "a")
    write_zip(tmp_path / "z.zip", "b")
    write_zip(tmp_path / "cut.zip", "c", "d")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:60])
    (tmp_path / "gone.zip").symlink_to(tmp_path / "nowhere")
    files = Files(tmp_path)
    assert files.names == ("a", "b")
    assert files.read("b").startswith(b"zip b")
    assert len(files.broken) == 2
    assert "cut.zip" in files.broken[0]
    assert "gone.zip" in files.broken[1]
    (tmp_path / "gone.zip").unlink()
    settle(tmp_path)
    assert open_files(tmp_path).broken == files.broken[:1]
    write_zip(tmp_path / "cut.zip", "c")
    assert open_files(tmp_path).names == ("a", "b", "c")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_broken_member_is_named_with_its_zip(tmp_path, compression):
    path = write_zip(tmp_path / "x.zip", "a/b", compression=compression)
    change(path, b"PK\3\4", 30 + len("a/b") + 4, b"\xff" * 5)
    with pytest.raises(DataError, match=r"cannot read .*x.zip: a/b: .*broken, download it again"):
        Files(tmp_path).read("a/b")


def test_a_member_of_a_zip_that_was_replaced_is_named(tmp_path):
    path = write_zip(tmp_path / "x.zip", "a", "b")
    files = Files(path)
    files.read("a")
    copy = pickle.loads(pickle.dumps(files))  # as in another process: the zip is opened again
    write_zip(path, "a")
    assert copy.read("a").startswith(b"zip a")
    with pytest.raises(DataError, match=r"x.zip: b is gone: the zip was replaced"):
        copy.read("b")


def test_encrypted_and_unknown_members_say_to_unpack(tmp_path):
    path = write_zip(tmp_path / "x.zip", "a")
    change(path, b"PK\1\2", 8, b"\x01\0")
    with pytest.raises(DataError, match=r"^\S*x.zip: a is encrypted: unpack the zip"):
        Files(path).read("a")
    path = write_zip(tmp_path / "y.zip", "a")
    for signature, offset in ((b"PK\1\2", 10), (b"PK\3\4", 8)):
        change(path, signature, offset, struct.pack("<H", 9))  # Deflate64
    with pytest.raises(DataError, match=r"cannot read .*y.zip: a: .*; unpack the zip"):
        Files(path).read("a")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(f"not allowed: {folder}")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot list .*not allowed"):
        Files(tmp_path)


def test_a_zip_with_an_unreadable_name_is_broken_and_stops_no_other_file(tmp_path):
    write(tmp_path, "a.txt")
    path = write_zip(tmp_path / "x.zip", "ü.txt")
    change(path, b"PK\x01\x02", 46, b"\xff")  # in the directory, flagged as UTF-8
    files = Files(tmp_path)
    assert files.names == ("a.txt",)
    assert "cannot open zip file" in files.broken[0]
    path = write_zip(tmp_path / "x.zip", "ü.txt")
    change(path, b"PK\x03\x04", 30, b"\xff")  # before the member itself
    with pytest.raises(DataError, match="the zip is broken, download it again"):
        Files(tmp_path).read("ü.txt")


def test_names_that_are_not_utf8_are_left_out(tmp_path):
    write(tmp_path, "a.txt")
    odd = os.fsdecode(b"\xff.txt")
    (tmp_path / odd).write_text("?")
    files = Files(tmp_path)
    assert files.names == ("a.txt",)
    assert files.not_utf8 == (odd,)


class Members(torch.utils.data.Dataset):
    def __init__(self, files: Files):
        self.files = files

    def __len__(self):
        return len(self.files.names)

    def __getitem__(self, index):
        return self.files.read(self.files.names[index])


def test_forked_processes_do_not_disturb_each_other(tmp_path):
    path = write_zip(tmp_path / "x.zip", *map(str, range(300)))
    data = Members(Files(path))
    expected = [data[i] for i in range(300)]  # the zip is open before the processes start
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    assert list(loader) == expected
