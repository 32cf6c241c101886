"""ResNet-50, crops and resizing, photos from packages and from TFDS, the workload and its sweep."""

import functools
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from PIL import Image
from small import first_epochs, grid, prepared

from samop import cli, sweep, validation, workloads
from samop import config as configs
from samop.data import augment, crops, load, photo, records, stream, streamed
from samop.data import tfds as tfds_source
from samop.errors import UserError
from samop.models import MODELS, ResNet50, resnet50, stem
from samop.models.resnet50 import Bottleneck

CONFIG = str(Path(__file__).parent.parent / "configs" / "imagenet_width.py")


# The network.


def both(ours, theirs, *args):
    """Value and all gradients of two functions of the same arguments."""

    def readings(fn):
        loss = lambda *args: jnp.sum(jnp.sin(fn(*args)))  # noqa: E731
        return jax.jit(lambda *args: (fn(*args), jax.grad(loss, range(len(args)))(*args)))(*args)

    for a, b in zip(*map(jax.tree.leaves, (readings(ours), readings(theirs))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 12), (7, 12)], ids=["even", "odd"])
def test_the_stem_is_a_convolution(x64, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (7, 7, 3, 5))
    where = ((2, 2), [(3, 3), (3, 3)])
    how = {
        "lhs_dilation": (1, 1),
        "rhs_dilation": (1, 1),
        "dimension_numbers": lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
        "feature_group_count": 1,
        "precision": None,
    }
    both(
        lambda x, k: stem.stem_conv(x, k, *where, **how),
        lambda x, k: lax.conv_general_dilated(x, k, *where, **how),
        x,
        kernel,
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_pooling_is_flax_s(x64, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    both(stem.max_pool, lambda x: nn.max_pool(x, (3, 3), (2, 2), padding="SAME"), x)


def test_a_new_block_is_the_identity():
    block = Bottleneck(2, 1, functools.partial(nn.BatchNorm, use_running_average=True))
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 8))
    variables = jax.jit(block.init)(jax.random.key(1), x)
    assert not variables["params"]["BatchNorm_2"]["scale"].any()
    np.testing.assert_array_equal(jax.jit(block.apply)(variables, x), x)


def test_strides_lie_in_the_middle_and_end_at_32():
    def outputs(key, x):
        return ResNet50(2, 7).init_with_output(key, x, capture_intermediates=True)

    x = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    out, variables = jax.eval_shape(outputs, jax.eval_shape(jax.random.key, 0), x)
    assert out.shape == (2, 7)
    seen = variables["intermediates"]
    assert seen["Bottleneck_15"]["__call__"][0].shape == (2, 2, 1, 64)
    assert "Bottleneck_16" not in seen
    halved = seen["Bottleneck_3"]
    shapes = [halved[f"Conv_{i}"]["__call__"][0].shape[1] for i in range(3)]
    assert shapes == [16, 8, 8]


def test_the_registry_builds_it():
    assert MODELS["resnet50"].build({"filters": 2}, 3) == ResNet50(2, 3)


# Crops and resizing.


def gradient_image(height, width):
    """A smooth photo, so that JPEG and reduced decoding change little."""
    rows, columns = np.mgrid[:height, :width]
    levels = (255 * rows / height, 255 * columns / width, 127 + 100 * np.sin(rows / 20))
    return np.stack(levels, -1).astype(np.uint8)


def jpeg(pixels, **how):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **how)
    return file.getvalue()


@pytest.mark.parametrize("shape", [(60, 80), (400, 20), (50, 50)])
def test_random_parts_lie_inside_and_have_their_shapes(shape):
    rng = np.random.default_rng(0)
    fallback = 0
    for _ in range(200):
        top, left, rows, columns = crops.random_box(rng.random(40), *shape, 0.08)
        assert min(top, left) >= 0
        assert top + rows <= shape[0] + 1e-9
        assert left + columns <= shape[1] + 1e-9
        assert 3 / 4 - 1e-9 <= columns / rows <= 4 / 3 + 1e-9
        area = rows * columns / np.prod(shape)
        fallback += area < 0.08
        if shape != (400, 20):
            assert 0.08 <= area <= 1 + 1e-9
    assert bool(fallback) == (shape == (400, 20))


def test_numpy_and_jax_draw_the_same_parts(x64):
    u = np.random.default_rng(1).random((50, 40))
    ours = [crops.random_box(row, 32, 48, 0.08) for row in u]
    theirs = jax.vmap(lambda row: jnp.stack(crops.random_box(row, 32, 48, 0.08, jnp)))(u)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("size", [9, 24, 64])
def test_resizing_is_pillow_s(size):
    """Of a part of an image, to larger and smaller sizes, within the rounding to bytes."""
    pixels = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
    box = (3.25, 7.5, 20.5, 16.75)
    down = crops.weights(box[0], box[2], 32, size)
    across = crops.weights(box[1], box[3], 32, size)
    ours = np.einsum("ih,hwc,jw->ijc", down, pixels, across)
    corners = (box[1], box[0], box[1] + box[3], box[0] + box[2])
    theirs = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=corners)
    assert np.abs(ours - np.asarray(theirs)).max() <= 1.01


def test_crops_on_the_device_belong_to_the_example():
    images = np.random.default_rng(3).integers(0, 256, (6, 16, 16, 3), np.uint8)
    index, key = np.arange(6, dtype=np.int32), jax.random.key(0)
    whole = augment.resized_crop(images, key, index, 24, 0.3)
    assert whole.shape == (6, 24, 24, 3)
    part = augment.resized_crop(images[[4, 1]], key, index[[4, 1]], 24, 0.3)
    np.testing.assert_allclose(part, whole[jnp.array([4, 1])], rtol=1e-5)
    assert not np.allclose(whole, augment.resized_crop(images, jax.random.key(1), index, 24, 0.3))
    np.testing.assert_allclose(augment.resized(images, 16), images, rtol=1e-5)
    # Of all of an area, a square image leaves nothing to draw but the mirror.
    full = np.asarray(augment.resized_crop(images, key, index, 16, 1.0))
    mirrored = [not np.allclose(a, b, atol=1e-3) for a, b in zip(full, images)]
    assert 0 < sum(mirrored) < 6
    wanted = np.where(np.array(mirrored)[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_allclose(full, wanted, atol=1e-3)


# Photos.


def test_a_photo_is_decoded_small_and_cut_where_it_should_be():
    pixels = gradient_image(512, 640)
    data = jpeg(pixels)
    square = photo.central(data, lambda: "it", 56)
    top, left, side, _ = crops.central_box(512, 640)
    box = (left, top, left + side, top + side)
    whole = Image.fromarray(pixels).resize((56, 56), Image.Resampling.BILINEAR, box=box)
    assert np.abs(square.astype(int) - np.asarray(whole)).max() <= 6
    one = photo.training(data, lambda: "it", 32, 0.08, 1, 2, 3)
    assert one.shape == (32, 32, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, photo.training(data, lambda: "it", 32, 0.08, 1, 2, 3))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert (one != photo.training(data, lambda: "it", 32, 0.08, *other)).any()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_become_rgb(mode):
    file = io.BytesIO()
    Image.fromarray(gradient_image(40, 50)).convert(mode).save(file, "JPEG")
    assert photo.central(file.getvalue(), lambda: "it", 16).shape == (16, 16, 3)


def test_damaged_photos_are_named():
    data = jpeg(gradient_image(64, 64))
    with pytest.raises(UserError, match=r"n01.JPEG: cannot be decoded .*truncated"):
        photo.central(data[: len(data) // 2], lambda: "n01.JPEG", 16)
    with pytest.raises(UserError, match=r"n01.JPEG: its 5 bytes are no JPEG"):
        photo.training(b"hello", lambda: "n01.JPEG", 16, 0.08, 0, 0, 0)


def test_photo_files_keep_bytes_and_labels():
    files = {"a/imagenet_01_7.jpg": b"xyz", "a/imagenet_00_243.jpg": b"ab"}
    arrays, about = records.photo_files(files)
    assert arrays["bytes"].tobytes() == b"abxyz"
    assert arrays["start"].tolist() == [0, 2, 5]
    assert arrays["label"].tolist() == [243, 7]
    assert about == {"files": ["imagenet_00_243.jpg", "imagenet_01_7.jpg"]}
    with pytest.raises(UserError, match=r"a/cat.jpg: should be named imagenet_NN_LABEL.jpg"):
        records.photo_files({"a/cat.jpg": b""})
    with pytest.raises(UserError, match=r"no file imagenet_NN_LABEL.jpg"):
        records.photo_files({})


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
    """A ResNet-50 of two blocks, which compiles at once."""
    monkeypatch.setattr(resnet50, "STAGES", (1, 1))
    workloads._build.cache_clear()
    yield
    workloads._build.cache_clear()


def test_sam_without_a_radius_is_the_base_and_both_learn(short):
    fields = {"train__epochs": 4, "train__diagnostics_every": 0, "optimizer__lr": 0.05}
    base = configs.defaults("resnet50", "imagenet").to_dict()["model"] | {"filters": 2}
    config = images(**fields)
    config["model"] = base
    cells = [{"optimizer__name": "base"}, {"optimizer__rho": 0.0}, {"optimizer__rho": 0.05}]
    ends = []
    for cell in cells:
        ready = prepared(grid(config, [cell], [0]))
        first, (params, last) = first_epochs(ready, 1)[1], first_epochs(ready, 4)
        assert last["train_loss"][0] < first["train_loss"][0]
        ends.append(params)
    for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert any(
        not np.allclose(a, b, atol=1e-4)
        for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[2]))
    )


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
        ("cpu", (4, 8, 16), {"data.name": "cifar10", "data.train_size": 5000}),
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
