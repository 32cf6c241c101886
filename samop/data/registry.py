"""The data sets that are fetched: one explicit table."""

import dataclasses
from collections.abc import Callable, Mapping

from samop.data import decode
from samop.data.dataset import Arrays
from samop.data.packages import PACKAGES, Package
from samop.data.tfds import TfdsSource


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one data set of images is had.

    Attributes:
      num_classes: of its labels.
      scale: pixels divided by this lie in [0, 1].
      content: `dataset.content_hash` of its arrays in the original order. Every source must give
        exactly these, so results do not depend on where the data came from.
      tfds: where TFDS has it.
      package: its package copy.
      decode: the package's wanted files → arrays.
    """

    num_classes: int
    scale: float
    content: str
    tfds: TfdsSource
    package: Package
    decode: Callable[[Mapping[str, bytes]], Arrays]


ENTRIES: dict[str, Entry] = {
    "mnist": Entry(
        num_classes=10,
        scale=255.0,
        content="87b3bf195e6545dc79e576a3d9bf940e59b225d6623bdee5c3cb99074b4c545f",
        tfds=TfdsSource(
            "mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
        ),
        package=PACKAGES["mnist"],
        decode=decode.mnist_files,
    ),
    "fashion_mnist": Entry(
        num_classes=10,
        scale=255.0,
        content="0eac220f28e228020ca03a59a2d6d8d02bf8811b633368583399b15a2353489c",
        tfds=TfdsSource(
            "fashion_mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
        ),
        package=PACKAGES["fashion_mnist"],
        decode=decode.mnist_files,
    ),
    "cifar10": Entry(
        num_classes=10,
        scale=255.0,
        content="cf07546ce53c6df8e37fcfc3931b60603a421ed5ee8c45b22c52ea1788c91b2b",
        tfds=TfdsSource("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        package=PACKAGES["cifar10"],
        decode=decode.cifar10_png_files,
    ),
}
