"""One JPEG photo → a square of bytes, by Pillow. Every error names the file it came from."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from samop.data import crops
from samop.errors import UserError


def training(
    data: bytes, name: Callable[[], str], size: int, least: float, seed: int, epoch: int, index: int
) -> np.ndarray:
    """A random part of the photo, mirrored in half of the cases; uint8 [size, size, 3].

    Args:
      data: a JPEG (ImageNet hides a PNG among its own).
      name: `name()` is what errors call it.
      size: side of the square, in pixels.
      least: least share of the photo's area.
      seed, epoch, index: all that the part depends on, besides the photo.

    Raises:
      UserError: a photo that cannot be decoded.
    """
    # Philox counts, so that no example's numbers depend on how many others were drawn. NumPy keeps
    # a bit generator's stream for ever, but not what is made of it.
    key = np.array([(seed << 32) | epoch, index], np.uint64)
    raw = np.random.Philox(key=key).random_raw(crops.NUMBERS)
    u = (raw >> np.uint64(11)) * 2.0**-53
    with _opened(data, name) as image:
        box = crops.random_box(u[:-1], image.height, image.width, least)
        out = _part(image, box, size)
    return out[:, ::-1] if u[-1] < 0.5 else out


def central(data: bytes, name: Callable[[], str], size: int) -> np.ndarray:
    """The photo's centre, uint8 [size, size, 3]; arguments and errors as in `training`."""
    with _opened(data, name) as image:
        return _part(image, crops.central_box(image.height, image.width), size)


@contextmanager
def _opened(data: bytes, name: Callable[[], str]) -> Iterator:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
            yield image
    except UnidentifiedImageError:
        raise UserError(f"{name()}: its {len(data)} bytes are no JPEG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name()}: cannot be decoded ({error}); is it truncated?") from error


def _part(image, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    """The part (top, left, rows, columns) of an opened photo, resized."""
    from PIL import Image

    top, left, rows, columns = box
    height, width = image.height, image.width
    # A JPEG decodes at a half, a quarter or an eighth of its size in less time; what is left of
    # the part must not be smaller than what is made of it.
    image.draft("RGB", (int(width * size / columns), int(height * size / rows)))
    down, across = image.height / height, image.width / width
    corners = (left * across, top * down, (left + columns) * across, (top + rows) * down)
    # Rounding must not put a corner beyond the edge.
    corners = tuple(min(x, end) for x, end in zip(corners, 2 * (image.width, image.height)))
    image = image.convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=corners))
