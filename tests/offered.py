"""Small archives made in tests, and a world in which only they can be had."""

import dataclasses
import hashlib
import io
import json
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from samop.data import archives, packages, sources
from samop.data import tfds as tfds_source
from samop.data.client import Unavailable
from samop.data.dataset import content_hash

REAL_ANSWERS = tfds_source.answers
MNIST_MEMBERS = sources.ENTRIES["mnist"].package.members
CIFAR_MEMBERS = sources.ENTRIES["cifar10"].package.members


@pytest.fixture
def hermetic(tmp_path, monkeypatch):
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


def cifar_parts():
    rng = np.random.default_rng(5)
    batches = rng.integers(0, 256, (6, 4, 32, 32, 3), np.uint8)
    members = {name: png_bytes(b) for name, b in zip(CIFAR_MEMBERS[:6], batches, strict=True)}
    members["package/train_lables.json"] = json.dumps([i % 10 for i in range(20)]).encode()
    members["package/test_lables.json"] = b"[9,8,7,6]"
    return members, batches


@pytest.fixture
def offer(monkeypatch):
    """offer(name, archive): that file is now the package copy of the data set `name`."""

    def install(name, archive, content=None, sha256=None):
        entry = sources.ENTRIES[name]
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        package = dataclasses.replace(entry.package, sha256=sha256 or digest)
        if content is None:
            files = archives.read_members(archive, package.members, package.max_bytes)
            decoded = entry.decode(files)  # of a collection: arrays and what there is to tell
            content = content_hash(decoded[0] if isinstance(decoded, tuple) else decoded)
        entry = dataclasses.replace(entry, package=package, content=content)
        monkeypatch.setitem(sources.ENTRIES, name, entry)

        def hand_over(package, folder):
            (folder / archive.name).write_bytes(archive.read_bytes())
            return "*" + archive.suffix

        monkeypatch.setitem(packages.CLIENTS, package.client, hand_over)
        return entry

    return install
