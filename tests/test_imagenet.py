"""Photos from packages and from TFDS, the workload and its sweep."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from small import first_epochs, grid, prepared
from test_photos import gradient_image, jpeg

from samop import cli, sweep, validation, workloads
from samop import config as configs
from samop.data import augment, load, photo, records, stream, streamed
from samop.data import tfds as tfds_source
from samop.errors import UserError
from samop.models import resnet50

CONFIG = str(Path(__file__).parent.parent / "configs" / "imagenet_width.py")


# TFDS.


def tfds_folder(root, name, counts, classes, file_format="array_record"):
    """What TFDS leaves of a set of photos, as ArrayRecord, written without it: tiny JPEGs."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    short, splits = name.split("/")[0], []
    for split, count in counts.items():
        file = folder / f"{short}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for i in range(count):
            example = tf_example_pb2.Example()
            feature = example.features.feature
            data = jpeg(gradient_image(24 + i, 30))
            feature["image"].bytes_list.value.append(data[:200] if i == 7 else data)
            feature["file_name"].bytes_list.value.append(f"n{i:02d}.JPEG".encode())
            feature["label"].int64_list.value.append(i % classes)
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append(
            {
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(count)],
                "filepathTemplate": template,
            }
        )
    info = {"name": short, "version": "1.0.0", "fileFormat": file_format, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    base = "tensorflow_datasets.core.features"
    features = {
        "image": {
            "image": {
                "dtype": "uint8",
                "shape": {"dimensions": ["-1", "-1", "3"]},
                "encodingFormat": "jpeg",
            },
            "pythonClassName": f"{base}.image_feature.Image",
        },
        "file_name": {"text": {}, "pythonClassName": f"{base}.text_feature.Text"},
        "label": {
            "classLabel": {"numClasses": str(classes)},
            "pythonClassName": f"{base}.class_label_feature.ClassLabel",
        },
    }
    top = {
        "featuresDict": {"features": features},
        "pythonClassName": f"{base}.features_dict.FeaturesDict",
    }
    (folder / "features.json").write_text(json.dumps(top))
    return folder


@pytest.fixture
def tfds_root(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return tmp_path


def test_a_prepared_imagenet_is_streamed(tfds_root):
    tfds_folder(tfds_root, "imagenet2012", {"train": 7, "validation": 4}, 1000)
    opened = streamed.opened("imagenet2012", None, 2, 0, 3)
    assert opened.num_classes == 1000
    assert opened.source["origin"] == "tfds imagenet2012:1.0.0"
    sizes = {name: len(places) for name, places in opened.parts.items()}
    assert sizes == {"train": 5, "validation": 2, "test": 3}
    assert not set(opened.parts["train"]) & set(opened.parts["validation"])
    assert (opened.parts["test"] >= 7).all()
    data, label = opened.records.read(3)
    assert (data, label) == (jpeg(gradient_image(27, 30)), 3)
    photos = stream.of_photos(opened.records, opened.parts, 16, 0.08, threads=2)
    batches = photos.evaluation("test", 2)
    found = list(batches)
    batches.close()
    weights = np.concatenate([batch["weight"] for batch in found])
    labels = np.concatenate([batch["y"] for batch in found])
    assert weights.tolist() == [1, 1, 1, 0]
    assert labels[:3].tolist() == [int(place) - 7 for place in opened.parts["test"]]


def test_a_damaged_record_is_named(tfds_root):
    tfds_folder(tfds_root, "imagenette/full-size-v2", {"train": 12, "validation": 3}, 10)
    opened = streamed.opened("imagenette", None, 1, 0, 0)
    photos = stream.of_photos(opened.records, opened.parts, 16, 0.08)
    batches = photos.train(0, 0, 11)
    with pytest.raises(UserError, match=r"'train', record 7 \(n07.JPEG\): cannot be decoded"):
        next(batches)
    batches.close()


def test_what_cannot_be_streamed_says_why(tfds_root, monkeypatch):
    with pytest.raises(UserError, match=r"'imagenet2012' cannot be had here.*by hand.*'cifar10'"):
        streamed.opened("imagenet2012", None, 1, 0, 0)
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "tfds")
    with pytest.raises(
        UserError, match=r"imagenette/full-size-v2 holds no prepared version\. What"
    ):
        streamed.opened("imagenette", None, 1, 0, 0)
    tfds_folder(tfds_root, "imagenet2012", {"train": 1, "validation": 1}, 10, "tfrecord")
    with pytest.raises(UserError, match=r"is prepared as tfrecord, which has no random access"):
        streamed.opened("imagenet2012", None, 1, 0, 0)
    folder = tfds_root / "imagenet2012" / "1.0.0"
    (folder / "dataset_info.json").write_text("[]")
    with pytest.raises(tfds_source.Unavailable, match=r"dataset_info.json cannot be read"):
        tfds_source.records(folder, "train")


# The workload.


def images(**fields):
    """A small run on digits that are made larger; `section__key=value` sets a field."""
    config = configs.defaults("mlp", "imagenet").to_dict()
    config["data"].update(validation=50, train_size=192, test_size=70, augment="resized_crop")
    config["model"]["hidden"] = (16,)
    config["task"].update(image_size=12, crop_area=0.5)
    config["train"].update(epochs=2, batch_size=32)
    config["run"].update(compilation_cache=False, tensorboard=False)
    for name, value in fields.items():
        section, _, key = name.partition("__")
        config[section][key] = value
    validation.validate(config)
    return config


def test_small_images_stand_in_under_their_own_name():
    config = images(data__normalize="standardize")
    workload = workloads.build(config)
    train = workload.splits.train
    raw = train.x[:5]
    seen = workload.batch(raw, train.y[:5], None, None)
    data = load("digits")
    scaled = (augment.resized(raw, 12) / 16 - data.mean[0]) / data.std[0]
    np.testing.assert_allclose(seen["x"], scaled, rtol=1e-4, atol=1e-5)
    index = np.arange(5, dtype=np.int32)
    drawn = workload.batch(raw, train.y[:5], jax.random.key(0), index)
    assert drawn["x"].shape == (5, 12, 12, 1)
    assert not np.allclose(drawn["x"], seen["x"])
    plain = workloads.build(images(data__augment="none", data__normalize="standardize"))
    still = plain.batch(raw, train.y[:5], jax.random.key(0), index)
    np.testing.assert_allclose(still["x"], seen["x"], rtol=1e-5)
    assert workload.source["origin"].startswith("scikit-learn")


@pytest.fixture
def short(monkeypatch):
    """A ResNet-50 of one block, which compiles at once."""
    monkeypatch.setattr(resnet50, "STAGES", (1,))
    workloads._build.cache_clear()
    yield
    workloads._build.cache_clear()


def test_sam_without_a_radius_is_the_base_and_learns(short):
    fields = {"train__epochs": 4, "train__diagnostics_every": 0, "optimizer__lr": 0.05}
    base = configs.defaults("resnet50", "imagenet").to_dict()["model"] | {"filters": 2}
    config = images(**fields)
    config["model"] = base
    ends = []
    for cells in ([{"optimizer__name": "base"}], [{"optimizer__rho": 0.0}]):
        ready = prepared(grid(config, cells, [0]))
        first, (params, last) = first_epochs(ready, 1)[1], first_epochs(ready, 4)
        assert (last["train_loss"] < first["train_loss"]).all()
        ends.append(params)
    for base, sam in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(base, sam, rtol=1e-4, atol=1e-5)


def test_photos_from_tfds_train_from_the_command(tfds_root, tmp_path):
    tfds_folder(tfds_root, "imagenette/full-size-v2", {"train": 7, "validation": 3}, 10)
    config = images(data__name="imagenette", data__validation=1, data__train_size=0)
    config["data"].update(test_size=0, normalize="standardize")
    config["train"].update(batch_size=3, epochs=12, eval_batch_size=2)
    plan = sweep.plan(config, {"optimizer.name": ("base", "sam"), "optimizer.rho": (0.05,)}, "")
    sweep.run(plan, tmp_path / "work")
    for name in plan.points:
        rows = (tmp_path / "work" / "points" / name / "metrics.jsonl").read_text().splitlines()
        first, last = (json.loads(rows[i]) for i in (0, -1))
        assert last["train_loss"] < first["train_loss"]
        assert last["step"] == 12 * 2
        assert 0 <= last["test_accuracy"] <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task__image_size": 0}, r"task.image_size=0 should be a number of pixels ≥ 1"),
        ({"task__crop_area": 0.0}, r"task.crop_area=0.0 should be a share in \(0, 1\]"),
        ({"data__augment": "crop_flip"}, r"'crop_flip' is for small images"),
        ({"data__label_noise": 1.0}, r"data.label_noise=1.0 is not allowed"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(UserError, match=message):
        images(**fields)


def test_data_are_checked():
    with pytest.raises(UserError, match=r"data.name='synthetic' is no set of images"):
        workloads.build(images(data__name="synthetic"))
    config = configs.defaults().to_dict()
    config["data"]["augment"] = "resized_crop"
    with pytest.raises(UserError, match=r"'resized_crop' is for photos"):
        workloads.build(config)


# The sweep.


@pytest.mark.parametrize(
    ("arg", "widths", "fields"),
    [
        ("", (16, 32, 48, 64), {"data.name": "imagenet2012", "train.batch_size": 512}),
        ("data=cifar10", (16, 32, 48, 64), {"data.name": "cifar10", "task.image_size": 64}),
        ("data=imagenette,width=56", (56,), {"data.name": "imagenette", "data.validation": 1000}),
        ("cpu", (4, 8, 16), {"data.name": "cifar10", "data.train_size": 4000}),
        ("smoke", (4, 8), {"data.name": "cifar10", "task.image_size": 32}),
        ("smoke,data=imagenet_photos", (8,), {"data.name": "imagenet_photos"}),
        ("schedule=cosine", (16, 32, 48, 64), {"optimizer.schedule": "cosine"}),
    ],
)
def test_the_config(arg, widths, fields):
    request = cli.parse([f"--config={CONFIG}:{arg}"])
    assert tuple(request.axes[0]["model.filters"]) == widths
    for field, value in fields.items():
        assert configs.get(request.config, field) == value
    if arg == "schedule=cosine":
        steps = request.config.optimizer.warmup * 90 * ((1_281_167 - 10_000) // 512)
        assert steps == pytest.approx(5000)


def test_the_config_names_what_is_allowed():
    with pytest.raises(UserError, match="data='imagenet' is not allowed; allowed: imagenet2012, "):
        cli.parse([f"--config={CONFIG}:data=imagenet"])
    with pytest.raises(UserError, match="schedule='linear' is not allowed; allowed: step, cosine"):
        cli.parse([f"--config={CONFIG}:schedule=linear"])


@pytest.mark.slow
def test_real_photos_are_decoded_and_memorised(tmp_path):
    """Network needed: the 20 photos come in a package."""
    data = load("imagenet_photos", str(tmp_path))
    found = records.of_collection(data)
    assert found.count == 20
    squares = [
        photo.central(found.read(i)[0], functools.partial(found.name, i), 64) for i in range(20)
    ]
    assert len({square.tobytes() for square in squares}) == 20
    config = images(data__name="imagenet_photos", data__dir=str(tmp_path), data__validation=20)
    config["data"].update(train_size=0, test_size=0, normalize="standardize", augment="none")
    config["train"].update(batch_size=20, epochs=40)
    config["optimizer"].update(name="base", lr=0.02)
    _, values = first_epochs(prepared(grid(config, [{}], [0])), 40)
    assert values["test_accuracy"][0] >= 0.95
