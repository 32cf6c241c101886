"""Every Python block of the README runs as it stands."""

import re
from pathlib import Path

import jax
import pytest

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block(number):
    # Users do not run under the tests' strict settings.
    with jax.numpy_rank_promotion("allow"):
        exec(compile(BLOCKS[number], f"README block {number}", "exec"), {})


def test_there_are_examples_of_plain_jax_linen_and_nnx():
    assert len(BLOCKS) >= 3
    assert any("flax import linen" in block for block in BLOCKS)
    assert any("flax import nnx" in block for block in BLOCKS)
