"""Crops and resizing; photos, decoded and cut."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from samop.data import augment, crops, photo, records
from samop.errors import UserError

CONFIG = str(Path(__file__).parent.parent / "configs" / "imagenet_width.py")


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
    order = np.array([4, 1, 0, 3, 2, 5], np.int32)
    drawn = jax.jit(lambda x, seed, i: augment.resized_crop(x, jax.random.key(seed), i, 16, 0.3))
    whole = drawn(images, 0, np.arange(6, dtype=np.int32))
    np.testing.assert_allclose(drawn(images[order], 0, order), whole[order], rtol=1e-5)
    assert not np.allclose(whole, drawn(images, 1, np.arange(6, dtype=np.int32)))
    np.testing.assert_allclose(augment.resized(images, 16), images, rtol=1e-5)


def test_all_of_a_square_image_leaves_the_mirror_to_chance():
    images = np.random.default_rng(3).integers(0, 256, (6, 16, 16, 3), np.uint8)
    index = np.arange(6, dtype=np.int32)
    full = jax.jit(lambda x: augment.resized_crop(x, jax.random.key(0), index, 16, 1.0))(images)
    mirrored = np.array([not np.allclose(a, b, atol=1e-3) for a, b in zip(full, images)])
    assert 0 < mirrored.sum() < 6
    wanted = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
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
