"""The one exception that is meant for a person: the command-line modules print it as one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend. The text names the field, the value and what is allowed."""


class NotFinite(UserError):
    """A value that should be finite is not: a network that has diverged, say."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`" (did you mean 'rho'?)"` where `allowed` has a close match, else an empty string."""
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else ""
