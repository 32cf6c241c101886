"""Every `samop` command that the README prints is understood: files, flags, fields and all.

They are parsed, not run: what they do has tests of its own, and CI runs the main one whole.
"""

import os
import re
import shlex
from pathlib import Path

import pytest

from samop import cli, submit
from samop.errors import UserError

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
# In fences, in code within a line, and in what other programs are given to run.
LINE = re.compile(r"python3? -m samop\.(main|submit) ([^`'\n]+)")
ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}


def commands():
    found = set()
    for module, words in LINE.findall(TEXT):
        text = words.replace("HOST:1234", "localhost:1234").split(" #")[0].split(" && ")[0]
        for name, value in ARRAY.items():
            text = text.replace(f"${name}", value)
        if "FILE.py" in text or "RUN/" in text or "DIR" in text or "…" in text:
            continue
        found.add((module, text.strip()))
    return sorted(found)


@pytest.mark.parametrize(("module", "text"), commands(), ids=lambda x: x[:60])
def test_a_command_is_understood(module, text, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(text)
    if module == "submit":
        assert submit.parse(words).jobs > 0
        return
    if "--help" in words:
        return
    assert cli.parse(words).config.experiment


def test_the_readme_has_pods_slurm_and_arrays():
    text = " ".join(words for _, words in commands())
    assert "--coordinator=localhost:1234 --processes=4 --process=0" in text
    assert "--shard=3/4" in text
    assert "gcloud compute tpus tpu-vm ssh" in TEXT
    assert "srun --nodes" in TEXT
    assert len(commands()) > 15


def test_no_table_is_missing():
    """PLACEholders stand alone on a line, in capitals."""
    assert not re.search(r"^[A-Z]{5,}$", TEXT, re.MULTILINE)


def test_a_command_that_is_not_understood_fails(monkeypatch):
    """So that the test above can."""
    monkeypatch.chdir(ROOT)
    for words in ("--config=configs/digits_widths.py", "--config=configs/digits_width.py:smok"):
        with pytest.raises(UserError):
            cli.parse([words])
    assert not os.path.exists(ROOT / "runs" / "unnamed")
