"""The data sets that are fetched: one explicit table."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from samop.data import decode, human, molecules, records, sentiment, tagged
from samop.data.dataset import Arrays, Collection, Dataset, collection, image_dataset
from samop.data.packages import PACKAGES, Package
from samop.data.tfds import TfdsSource

Decoded = Arrays | tuple[Mapping[str, np.ndarray], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one data set is had.

    Attributes:
      content: `dataset.content_hash` of its arrays in the original order. Every source must give
        exactly these, so results do not depend on where the data came from. Empty for data that
        none of us could fetch yet: what comes is recorded, and not compared.
      package: its package copy; None: there is none.
      decode: the package's wanted files → four arrays of images and labels, or (arrays, about) of
        a `Collection`.
      tfds: where TFDS has it; None: it has not.
      from_tfds: examples by split, in TFDS's form → (arrays, about); None for images.
      splits: TFDS's splits that are read.
      num_classes: of images.
      scale: of images: pixels divided by this lie in [0, 1].
      stand_in: what to use instead on a machine that cannot get it.
      revision: of its decoder: one more wherever it comes to give other arrays.
    """

    content: str
    package: Package | None = None
    decode: Callable[[Mapping[str, bytes]], Decoded] | None = None
    tfds: TfdsSource | None = None
    from_tfds: Callable[[Mapping[str, Iterable[Mapping[str, Any]]]], Decoded] | None = None
    splits: tuple[str, ...] = ("train", "test")
    num_classes: int = 0
    scale: float = 1.0
    stand_in: str = ""
    revision: int = 1

    @property
    def provenance(self) -> dict[str, str]:
        """What a data set's `source` says of how it was decoded."""
        return {"revision": str(self.revision)} if self.revision > 1 else {}

    def build(self, name: str, decoded: Decoded, source: Mapping[str, str]) -> Dataset | Collection:
        """The data set of what a decoder returned."""
        if isinstance(decoded, Arrays):
            return image_dataset(name, decoded, self.num_classes, self.scale, source)
        return collection(name, *decoded, source)


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
    "cifar10n": Entry(
        content="34fbc660ee73804d91fde053ef4a1df9622ebb31f3eca25f3468c4dee9ae0db5",
        package=PACKAGES["cifar10n"],
        decode=human.cifar_n,
    ),
    "sst2": Entry(
        content="",
        tfds=TfdsSource("glue/sst2", "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip"),
        from_tfds=sentiment.sst2,
        splits=("train", "validation"),
        stand_in="movie_snippets",
    ),
    "movie_snippets": Entry(
        content="a6fcdfe7c1e61dadd17f929912ea30e5909a788a9cc006357919eb0228f10515",
        package=PACKAGES["movie_snippets"],
        decode=sentiment.movie_snippets,
    ),
    "moleculeace": Entry(
        content="c876e5c39ed39b053760ce532791fa4ee845c70a07b51b8c495a7f7405302f40",
        package=PACKAGES["moleculeace"],
        decode=molecules.smiles_tables,
    ),
    "ogbg_molpcba": Entry(
        content="",
        tfds=TfdsSource(
            "ogbg_molpcba",
            "https://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download/pcba.zip",
        ),
        from_tfds=molecules.ready_graphs,
        splits=("train", "validation", "test"),
        stand_in="moleculeace",
    ),
    "universal_dependencies": Entry(
        # Ancient Greek (Perseus), the treebank of Flax's nlp_seq example: of release 2.10, as TFDS
        # has it, where the example's is 2.0. Tags: XPOS.
        content="",
        tfds=TfdsSource(
            "universal_dependencies/grc_perseus",
            "https://raw.githubusercontent.com/UniversalDependencies/UD_Ancient_Greek-Perseus/"
            "r2.10/grc_perseus-ud-train.conllu",
        ),
        from_tfds=tagged.universal_dependencies,
        splits=("train", "dev", "test"),
        stand_in="brown",
    ),
    "brown": Entry(
        content="7da6008e2b32d0fe685f1220ebcad3a5ea1bf8b32e1aea93349735b20bda2ba5",
        package=PACKAGES["brown"],
        decode=tagged.brown,
    ),
    "turkish_web": Entry(
        content="7a536783221741a1aa68c34be6c7fbe268fa9998179761b707616de4e999f74d",
        package=PACKAGES["turkish_web"],
        decode=tagged.conllu,
    ),
    "imagenet_photos": Entry(
        content="a35247982b1f41c0757819cf1f7b0eb09de56427b970a02707ac967088460845",
        package=PACKAGES["imagenet_photos"],
        decode=records.photo_files,
    ),
}
