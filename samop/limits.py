"""What a value of a config may be, as records that check a value and say what they allow.

Every record has `check(field, value)`, which raises UserError in one line, and `str`.
"""

import importlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from samop.errors import UserError, nearest


class Limit(Protocol):
    """What a value may be."""

    def check(self, field: str, value: Any) -> None:
        """Raises UserError where the value is not allowed; names the field."""


class Whole(NamedTuple):
    """A whole number from `low` to `high`, or `besides`, which stands for a default."""

    low: int = 0
    high: float = math.inf
    besides: int | None = None

    def check(self, field: str, value: Any) -> None:
        """See `Limit`."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and (self.low <= value <= self.high or value == self.besides)):
            raise UserError(f"{field}={value!r} is not allowed: it should be a {self}")

    def __str__(self) -> str:
        end = f" and ≤ {self.high}" if self.high < math.inf else ""
        other = "" if self.besides is None else f", or {self.besides}"
        return f"whole number ≥ {self.low}{end}{other}"


class Number(NamedTuple):
    """A finite number from `low` to `high`, without `high` itself if `open_end`, or `besides`."""

    low: float = 0
    high: float = math.inf
    open_end: bool = False
    besides: float | None = None

    def check(self, field: str, value: Any) -> None:
        """See `Limit`."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        inside = number and math.isfinite(value) and self.low <= value <= self.high
        inside = inside and not (self.open_end and value == self.high)
        if not (inside or (number and value == self.besides)):
            raise UserError(f"{field}={value!r} is not allowed: it should be a finite {self}")

    def __str__(self) -> str:
        close = ")" if self.open_end else "]"
        bounded = self.high < math.inf
        end = f"in [{self.low}, {self.high}{close}" if bounded else f"≥ {self.low}"
        other = "" if self.besides is None else f", or {self.besides}"
        return f"number {end}{other}"


class Words(NamedTuple):
    """One of these words."""

    words: Sequence[str]

    def check(self, field: str, value: Any) -> None:
        """See `Limit`."""
        one_of(field, value, self.words)

    def __str__(self) -> str:
        return ", ".join(self.words)


class WordsOf(NamedTuple):
    """One of the words of a table that is only loaded where it is needed."""

    module: str
    table: str

    def check(self, field: str, value: Any) -> None:
        """See `Limit`."""
        one_of(field, value, self.words())

    def words(self) -> tuple[str, ...]:
        """The words."""
        return tuple(getattr(importlib.import_module(self.module), self.table))

    def __str__(self) -> str:
        return ", ".join(self.words())


class Kind(NamedTuple):
    """A value of one type: `bool` or `str`."""

    type: type
    text: str

    def check(self, field: str, value: Any) -> None:
        """See `Limit`."""
        if not isinstance(value, self.type):
            raise UserError(f"{field}={value!r} should be of type {self.type.__name__}: {self}")

    def __str__(self) -> str:
        return self.text


class Elsewhere(NamedTuple):
    """What only a check of its own can tell; the text alone."""

    text: str

    def check(self, field: str, value: Any) -> None:
        """Nothing: see `samop.validation`."""

    def __str__(self) -> str:
        return self.text


SWITCH = Kind(bool, "true or false")


def one_of(field: str, value: Any, allowed: Sequence[str]) -> None:
    """Raises UserError where the value is none of the words; says which is the nearest."""
    if value not in allowed:
        raise UserError(
            f"{field}={value!r} is not allowed{nearest(str(value), allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )
