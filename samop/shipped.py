"""Which file `--config=…` means: one of the user's, or one of those that come with samop.

An installed samop has its configs inside the package; one that is used from a checkout has them
beside it.
"""

from collections.abc import Iterator
from pathlib import Path

from samop.errors import UserError, nearest


def folder() -> Path:
    """The configs that come with samop: samop/configs of a wheel, else the checkout's configs/."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """What they are called, without `.py`."""
    return sorted(path.stem for path in folder().glob("*.py"))


def find(name: str) -> Path:
    """The file that a name means; the first that there is of

    1. that path itself, `NAME.py`, `configs/NAME` and `configs/NAME.py`, seen from here,
    2. the config of that name that comes with samop, for `NAME`, `NAME.py` and `configs/NAME.py`.

    Args:
      name: as typed after `--config=`, without the colon and what follows it.

    Raises:
      UserError: there is none; says which there are.
    """
    for path in (*_here(name), *_shipped(name)):
        if path.is_file():
            return path
    there = names()
    stem = Path(name).name.removesuffix(".py")
    local = sorted(str(path) for path in Path(name).parent.glob("*.py"))
    close = nearest(stem, there) or nearest(name, local)
    raise UserError(
        f"--config={name}: there is no such file, and no config of that name comes with samop"
        f"{close}; those that do: {', '.join(there)}"
    )


def _here(name: str) -> Iterator[Path]:
    yield Path(name)
    yield from (Path(f"{name}.py"), Path("configs") / name, Path("configs") / f"{name}.py")


def _shipped(name: str) -> Iterator[Path]:
    path = Path(name)
    if path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py"):
        yield folder() / f"{path.stem}.py"
