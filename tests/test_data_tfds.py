"""Reading what TFDS prepared, and asking it to download."""

import importlib.util
import io
import json
import socket
import time

import numpy as np
import pytest
from offered import REAL_ANSWERS, mnist_parts, tgz
from PIL import Image

from samop.data import decode, load, packages, sources
from samop.data import tfds as tfds_source
from samop.data.client import Unavailable
from samop.errors import UserError

pytestmark = pytest.mark.usefixtures("hermetic")


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
