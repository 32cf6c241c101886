"""When something happens: parsing, steps, errors."""

import pytest

from samop import cadence
from samop.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("end", (30,)),
        ("10steps", (0, 10, 20, 30)),
        ("7 steps", (0, 7, 14, 21, 28, 30)),
        ("1step", tuple(range(31))),
        ("1epoch", (0, 10, 20, 30)),
        ("2epochs", (0, 20, 30)),
        ("0.5epochs", (0, 5, 10, 15, 20, 25, 30)),
        ("50%", (0, 15, 30)),
        ("100%", (0, 30)),
        ("1%", tuple(range(31))),
        ("100steps", (0, 30)),
    ],
)
def test_steps(text, expected):
    assert cadence.steps(text, steps_per_epoch=10, epochs=3) == expected


def test_a_share_of_training_does_not_drift():
    steps = cadence.steps("10%", steps_per_epoch=7, epochs=13)
    assert len(steps) == 11
    assert all(abs(step - i * 9.1) <= 0.5 for i, step in enumerate(steps))


@pytest.mark.parametrize("text", ["10", "steps", "0steps", "1.5steps", "-1%", "101%", "5 days"])
def test_bad_text_is_refused(text):
    with pytest.raises(UserError, match=r"curvature.every=.*'100steps', '5epochs' or '10%'"):
        cadence.parse(text, "curvature.every")
