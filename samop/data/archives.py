"""Members of a package file, read into memory by name. Nothing is written or run.

npm packages and Python source distributions are gzipped tar files, wheels are zip files, and a
.deb is an `ar` archive that holds a `data.tar.*`. Since no member's name ever becomes a path on
this machine, a hostile name cannot escape; an archive that has one is refused all the same.
"""

import fnmatch
import functools
import glob
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from samop.errors import UserError

_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
)
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def _checked(name: str, archive: str) -> str:
    """The member's name without a leading "./"; raises where it points outside the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise UserError(f"{archive}: member {name!r} points outside the archive; refused")
    return str(path)


_Member = tuple[str, int, bool, Callable[[], IO[bytes] | None]]  # name, bytes, is a file, open


def _tar_members(file: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r:*") as tar:
        for info in tar:
            if not info.isdir():
                yield info.name, info.size, info.isreg(), functools.partial(tar.extractfile, info)


def _zip_members(file: IO[bytes]) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                # The upper half of external_attr is the Unix mode: 0o12 there is a link.
                link = (info.external_attr >> 28) == 0o12
                yield info.filename, info.file_size, not link, functools.partial(archive.open, info)


def _deb_data(file: IO[bytes], archive: str) -> io.BytesIO:
    """The data.tar.* inside a .deb (deb(5)): `ar` members with 60-byte headers, padded to even."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise UserError(f"{archive}: does not begin like a .deb")
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        digits = header[48:58].decode("ascii", "replace").strip()
        if header[58:] != b"`\n" or not digits.isdigit():
            raise UserError(f"{archive}: has a damaged header before member {name!r}")
        size = int(digits)
        data = file.read(size)
        if len(data) != size:
            raise UserError(f"{archive}: member {name!r} has {len(data)} bytes, expected {size}")
        if name.startswith("data.tar"):
            return io.BytesIO(data)
        file.read(size % 2)
    raise UserError(f"{archive}: has no data.tar member")


def _members(path: Path, file: IO[bytes]) -> Iterator[_Member]:
    if path.name.endswith((".tgz", ".tar.gz")):
        return _tar_members(file)
    if path.suffix in (".whl", ".zip"):
        return _zip_members(file)
    if path.suffix == ".deb":
        return _tar_members(_deb_data(file, path.name))
    raise UserError(f"{path.name}: unknown kind; allowed: .tgz, .tar.gz, .whl, .zip, .deb")


def read_members(path: Path, patterns: tuple[str, ...], max_bytes: int) -> dict[str, bytes]:
    """The wanted files of a package.

    Args:
      path: a .tgz, .tar.gz, .whl, .zip or .deb file.
      patterns: shell patterns for whole names inside ("package/c[a-r][0-9][0-9]"); each must match.
      max_bytes: the wanted members may hold this much together.

    Returns:
      name → content.

    Raises:
      UserError: names the archive and the member.
    """
    with path.open("rb") as file:
        return _wanted(lambda: _members(path, file), path.name, patterns, max_bytes)


def zip_member(data: bytes, archive: str, member: str, max_bytes: int) -> bytes:
    """One file of a zip archive held in memory, which errors call `archive`.

    Raises:
      UserError: it is damaged, has no such member, or one of more than `max_bytes`.
    """
    pattern = glob.escape(member)
    found = _wanted(lambda: _zip_members(io.BytesIO(data)), archive, (pattern,), max_bytes)
    return found[member]


def _wanted(
    members: Callable[[], Iterator[_Member]],
    archive: str,
    patterns: tuple[str, ...],
    max_bytes: int,
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    used: set[str] = set()
    total = 0
    try:
        for raw, size, regular, opener in members():
            name = _checked(raw, archive)
            matching = [p for p in patterns if fnmatch.fnmatchcase(name, p)]
            if not matching:
                continue
            if not regular:
                raise UserError(f"{archive}: member {raw!r} is no regular file; refused")
            total += size
            if total > max_bytes:
                raise UserError(
                    f"{archive}: the wanted members hold more than the {max_bytes} bytes "
                    f"allowed (at member {raw!r})"
                )
            stream = opener()
            content = stream.read(size) if stream else b""
            if len(content) != size:
                raise UserError(
                    f"{archive}: member {raw!r} has {len(content)} bytes, expected {size}"
                )
            found[name] = content
            used.update(matching)
    except _DAMAGED as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}); is it truncated?") from error
    if missing := [p for p in patterns if p not in used]:
        raise UserError(f"{archive}: has no member {', '.join(map(repr, missing))}")
    return found
