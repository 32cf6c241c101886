"""Command lines of the smaller commands: a plain help text, and errors in one line."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from samop.errors import UserError, nearest

ASKS = frozenset({"--help", "-help", "-h", "--helpshort", "--helpfull"})


class Parser(argparse.ArgumentParser):
    """Reads options as `--name=value` or `--name value`; never prints nor exits."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message.removeprefix('argument ')} (--help explains)")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options.

        Raises:
          UserError: one that is unknown or of another type, or a word that is no option.
        """
        found, rest = self.parse_known_args(list(argv))
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("-"):
                known = [option for action in self._actions for option in action.option_strings]
                raise UserError(
                    f"option {name} is unknown{nearest(name, known)}; allowed: "
                    f"{', '.join([*known, '--help'])}"
                )
            raise UserError(f"argument {word!r} is not understood: options start with --")
        return found


def asks_help(argv: Sequence[str]) -> bool:
    """Whether the help text is asked for."""
    return not ASKS.isdisjoint(argv)
