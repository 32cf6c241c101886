"""When something happens in a run: "100steps", "5epochs", "10%", "end" or "" (never). No jax."""

import re
from fractions import Fraction

from samop.errors import UserError


def parse(text: str, field: str) -> tuple[Fraction, str] | None:
    """(number, unit) of a cadence; None for "" and "end".

    Raises:
      UserError: anything else, naming the field.
    """
    if text in ("", "end"):
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(steps?|epochs?|%)", text)
    number = Fraction(match[1]) if match else Fraction(0)
    unit = "%" if match and match[2] == "%" else match[2].rstrip("s") + "s" if match else ""
    if (
        not number
        or (unit == "steps" and number.denominator != 1)
        or (unit == "%" and number > 100)
    ):
        raise UserError(
            f"{field}={text!r} is not allowed: it should be '' (never), 'end', or a number with a "
            "unit, as in '100steps', '5epochs' or '10%'"
        )
    return number, unit


def steps(text: str, steps_per_epoch: int, epochs: int, field: str = "every") -> tuple[int, ...]:
    """The steps after which it happens, ascending; the last one is always among them.

    A cadence other than "end" begins before the first step, with 0.

    Args:
      text: the cadence.
      steps_per_epoch, epochs: of the run.
      field: for the error message.
    """
    total = steps_per_epoch * epochs
    if not text:
        return ()
    found = parse(text, field)
    if found is None:
        return (total,)
    number, unit = found
    scale = {"steps": Fraction(1), "epochs": Fraction(steps_per_epoch), "%": Fraction(total, 100)}
    every = number * scale[unit]
    times = int(total / every)
    # Rounded one by one, so that a share of training does not drift.
    return tuple(sorted({0, total, *(max(1, round(i * every)) for i in range(1, times + 1))}))
