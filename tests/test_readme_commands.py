"""Every command that the README prints is executed, and those of the pages of experiments/ parsed.

What is in the README's fences runs as printed, in one folder and in order, as a reader would run
it, but for what `SMALLER` cuts down and `ELSEWHERE` leaves to others.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samop import cli, submit
from samop.errors import UserError

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
# In fences, in code within a line, and in what other programs are given to run.
LINE = re.compile(r"python3? -m samop\.(main|submit) ([^`'\n]+)")
FENCE = re.compile(r"(?:<!-- command: (\w+) -->\n)?```bash\n(.*?)```", re.DOTALL)
ARRAY = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}

# Flags that are added where a command would train for more than a minute or so, or download much.
SMALLER = {
    "--config=configs/digits_width.py:width=64-64": "--dry_run",
    "--config=configs/label_noise.py": "--dry_run",
    "--config=configs/mnist_width.py": "--dry_run",  # and its smoke: tests/test_real_smoke.py
    "--config=configs/pos_width.py:cpu": "--dry_run",
    "--config=configs/sst2_width.py:smoke": "--dry_run",
    "--config=configs/imagenet_width.py:smoke": "--dry_run",
    "prepare mnist cifar10": "--help",
}
# What has to be there that a reader has by then, and tests of their own for what runs elsewhere.
ELSEWHERE = {
    "pip install": ".ci/run installs from the README's own commands",
    "sbatch": "needs Slurm: tests/test_shards.py",
    "samop.submit": "needs Slurm: tests/test_submit.py runs it on this machine",
    "experiments/label_noise.py": "reads a sweep of minutes: tests/test_analyses.py",
}


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


def fenced():
    """The commands of the README's fences, in order; those that .ci/run executes apart."""
    found = []
    for name, block in FENCE.findall((ROOT / "README.md").read_text()):
        if name:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split(" #")[0].strip()
            if command and not any(word in command for word in ELSEWHERE):
                found.append(command)
    return found


def smaller(command):
    added = [flags for words, flags in SMALLER.items() if words in command]
    return " ".join([command, *added[:1]])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_readme_commands_are_executed(tmp_path):
    """One after another, in a folder with what a checkout has."""
    for folder in ("configs", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_ / "python").chmod(0o755)
    paths = {"PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    run = lambda command: subprocess.run(  # noqa: E731
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True,
    )  # fmt: skip
    before = run(
        "python -m samop.main --config=configs/digits_width.py:smoke --workdir=runs/digits_width"
    )
    assert before.returncode == 0, before.stderr
    done = fenced()
    for command in done:
        command = smaller(command)
        for each in (tmp_path / "runs").glob("flat/points/*"):
            command = command.replace("runs/flat/points/RUN", str(each))
        result = run(command)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    for start in ("samop.main", "samop.report", "samop.curvature", "samop.data", "experiments/"):
        assert any(start in command for command in done), start


def test_the_readme_has_pods_slurm_and_arrays():
    text = " ".join(words for _, words in commands())
    assert "--coordinator=localhost:1234 --processes=4 --process=0" in text
    assert "--shard=3/4" in text
    assert "gcloud compute tpus tpu-vm ssh" in TEXT
    assert "srun --nodes" in TEXT
    assert len(commands()) > 15


def test_no_table_is_missing():
    """PLACEholders stand alone on a line, in capitals."""
    assert not re.search(r"^[A-Z]{4,}$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Files that are there, and headings of this page."""
    text = page.read_text()
    heads = {
        re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-")
        for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    for target in targets:
        if target.startswith("#"):
            assert target[1:] in heads, target
        elif not target.startswith("http"):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_a_command_that_is_not_understood_fails(monkeypatch):
    """So that the test above can."""
    monkeypatch.chdir(ROOT)
    for words in ("--config=configs/digits_widths.py", "--config=configs/digits_width.py:smok"):
        with pytest.raises(UserError):
            cli.parse([words])
    assert not os.path.exists(ROOT / "runs" / "unnamed")
