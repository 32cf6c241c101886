"""Decoding data sets from the archives that packages bring."""

import gzip
import io
import stat
import zipfile

import numpy as np
import pytest
from offered import MNIST_MEMBERS, cifar_parts, deb, idx_bytes, mnist_parts, tgz
from PIL import Image

from samop.data import archives, decode
from samop.data.dataset import content_hash
from samop.errors import UserError

pytestmark = pytest.mark.usefixtures("hermetic")


# Decoding


def test_idx_is_decoded_and_a_truncated_file_is_named():
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(decode.idx(idx_bytes(array), "f", 3), array)
    with pytest.raises(UserError, match=r"some/images: has 39 bytes, .* 2×3×4, which takes 40"):
        decode.idx(idx_bytes(array)[:-1], "some/images", 3)
    with pytest.raises(UserError, match=r"some/labels: 40 bytes beginning '00000803' are no IDX"):
        decode.idx(idx_bytes(array), "some/labels", 1)
    with pytest.raises(UserError, match="f: 2 bytes"):
        decode.idx(b"\0\0", "f", 1)


def test_mnist_files_gzipped_or_not_are_the_same():
    plain = mnist_parts()
    zipped = {f"{name}.gz": gzip.compress(data) for name, data in plain.items()}
    first, second = decode.mnist_files(plain), decode.mnist_files(zipped)
    assert content_hash(first) == content_hash(second)
    assert first.train_x.shape == (30, 28, 28, 1)
    assert first.train_x.dtype == np.uint8
    assert first.train_y.dtype == np.int32
    assert first.test_y.tolist() == list(range(10))
    name = f"{MNIST_MEMBERS[2]}.gz"
    zipped[name] = zipped[name][:-20]
    with pytest.raises(UserError, match=f"{name}: cannot be decompressed .*truncated"):
        decode.mnist_files(zipped)


def test_mnist_labels_are_checked():
    parts = mnist_parts()
    parts[MNIST_MEMBERS[1]] = idx_bytes(np.full(30, 11))
    with pytest.raises(
        UserError, match=r"train-labels-idx1-ubyte: labels span 11…11, allowed: 0…9"
    ):
        decode.mnist_files(parts)
    parts[MNIST_MEMBERS[1]] = idx_bytes(np.zeros(29))
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: has 29 labels for 30 images"):
        decode.mnist_files(parts)
    del parts[MNIST_MEMBERS[1]]
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: is not among the files"):
        decode.mnist_files(parts)


def test_cifar_png_rows_are_images_in_order():
    members, batches = cifar_parts()
    arrays = decode.cifar10_png_files(members)
    np.testing.assert_array_equal(arrays.train_x, batches[:5].reshape(20, 32, 32, 3))
    np.testing.assert_array_equal(arrays.test_x, batches[5])
    assert arrays.train_y.tolist() == [i % 10 for i in range(20)]
    assert arrays.test_y.tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize(
    ("member", "damage", "message"),
    [
        (
            "package/data_batch_3.png",
            lambda b: b[: len(b) // 2],
            "data_batch_3.png: is no readable",
        ),
        ("package/data_batch_3.png", lambda b: b"", "data_batch_3.png: is no readable PNG"),
        ("package/test_lables.json", lambda b: b[:-1], "test_lables.json: is no JSON"),
        ("package/test_lables.json", lambda b: b'["9"]', "test_lables.json: must be a JSON list"),
        ("package/test_lables.json", lambda b: b"[1]", "test_lables.json: has 1 labels for 4"),
        ("package/test_lables.json", lambda b: b"[1,1,1,10]", "labels span 1…10"),
    ],
)
def test_damaged_cifar_files_are_named(member, damage, message):
    members, _ = cifar_parts()
    members[member] = damage(members[member])
    with pytest.raises(UserError, match=message):
        decode.cifar10_png_files(members)


def test_png_of_another_width_is_refused():
    file = io.BytesIO()
    Image.new("RGB", (1000, 2)).save(file, "PNG")
    with pytest.raises(UserError, match=r"x.png: is 1000 pixels wide in mode 'RGB', expected 1024"):
        decode.png_rows(file.getvalue(), "x.png")


# Archives


def test_wanted_members_are_read_from_tar_deb_and_zip(tmp_path):
    members = {"package/a": b"one", "package/b1": b"two", "other/c": b"three"}
    wanted = ("package/a", "package/b[0-9]")
    expected = {"package/a": b"one", "package/b1": b"two"}
    assert archives.read_members(tgz(tmp_path / "x.tgz", members), wanted, 6) == expected
    dotted = {f"./{name}": content for name, content in members.items()}
    assert archives.read_members(deb(tmp_path / "x.deb", dotted), wanted, 6) == expected
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    assert archives.read_members(tmp_path / "x.whl", wanted, 6) == expected


@pytest.mark.parametrize(
    "name", ["../evil", "package/../../evil", "/etc/evil", "C:\\evil", "..\\x"]
)
def test_members_that_point_outside_are_refused(tmp_path, name):
    path = tgz(tmp_path / "x.tgz", {"package/a": b"1", name: b"2"})
    with pytest.raises(UserError, match=r"x.tgz: member .* points outside the archive; refused"):
        archives.read_members(path, ("package/a",), 100)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(name, b"2")
    with pytest.raises(UserError, match="points outside"):
        archives.read_members(tmp_path / "x.zip", ("package/a",), 100)


def test_links_too_much_and_too_little_are_refused(tmp_path):
    path = tgz(tmp_path / "x.tgz", {"b": b"12345"}, links=[("a", "/etc/passwd")])
    with pytest.raises(UserError, match=r"x.tgz: member 'a' is no regular file; refused"):
        archives.read_members(path, ("a",), 100)
    with pytest.raises(UserError, match=r"more than the 4 bytes allowed \(at member 'b'\)"):
        archives.read_members(path, ("b",), 4)
    with pytest.raises(UserError, match=r"x.tgz: has no member 'c\*'"):
        archives.read_members(path, ("b", "c*"), 100)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        link = zipfile.ZipInfo("a")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="no regular file"):
        archives.read_members(tmp_path / "x.zip", ("a",), 100)


def test_truncated_archives_are_named(tmp_path):
    noise = np.random.default_rng(0).bytes(50_000)
    for path in (tgz(tmp_path / "x.tgz", {"a": noise}), deb(tmp_path / "x.deb", {"a": noise})):
        whole = path.read_bytes()
        for keep in (len(whole) // 2, 70, 20, 0):
            path.write_bytes(whole[:keep])
            with pytest.raises(UserError, match=path.name):
                archives.read_members(path, ("a",), 10**6)
    (tmp_path / "x.rar").touch()
    with pytest.raises(UserError, match=r"x.rar: unknown kind; allowed: .tgz"):
        archives.read_members(tmp_path / "x.rar", ("a",), 1)
