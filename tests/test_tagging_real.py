"""Tagging on the real package copies, and the sweeps as configs/pos_width.py gives them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from test_real_smoke import smoke

from samop import sweep, validation
from samop.data import load, parts, strings, tagged
from samop.workloads import tagging

FILE = Path(__file__).parent.parent / "configs" / "pos_width.py"


def config_file():
    spec = importlib.util.spec_from_file_location("pos_width", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arg", "name", "sizes"),
    [
        ("", "universal_dependencies", 5),
        ("data=brown", "brown", 5),
        ("cpu", "brown", 3),
        ("smoke", "brown", 2),
        ("smoke,data=turkish_web", "turkish_web", 2),
    ],
)
def test_every_point_of_the_config_is_valid(arg, name, sizes):
    module = config_file()
    config = module.get_config(arg)
    axes = module.sweep(config)
    validation.validate(config.to_dict())
    plan = sweep.plan(config.to_dict(), axes, "command")
    assert config.data.name == name
    assert len(axes["model.size"]) == sizes
    assert len(plan.points) == sizes * len(axes["seed"]) * (1 + len(axes["optimizer.rho"]))


@pytest.mark.slow
def test_brown():
    found = load("brown")
    start, word, tag = (np.asarray(found.arrays[k]) for k in ("start", "word", "tag"))
    tags, words = found.about["tags"], strings.unpack(found.arrays["words"])
    assert (len(start) - 1, len(word), len(tags)) == (57_340, 1_161_192, 472)
    assert found.about["untagged_words"] == 0
    first = [(words[w], tags[t]) for w, t in zip(word[:4], tag[:4], strict=True)]
    assert first == [("The", "at"), ("Fulton", "np-tl"), ("County", "nn-tl"), ("Grand", "jj-tl")]
    assert {"nn-tl", "fw-in", "nn-tl-hl"} < set(tags)
    training, _, test = parts(len(start) - 1, validation=3000)
    owner = np.repeat(np.arange(len(start) - 1), np.diff(start))
    (train_at, test_at) = (np.isin(owner, part) for part in (training, test))
    baseline = tagged.majority(word[train_at], tag[train_at], word[test_at], tag[test_at])
    assert (round(baseline.tag, 4), round(baseline.word, 4)) == (0.1317, 0.9018)


@pytest.mark.slow
def test_turkish_web():
    found = load("turkish_web")
    assert len(found.arrays["start"]) - 1 == 4851
    assert len(found.arrays["word"]) == 81_370
    assert len(found.about["tags"]) == 14
    assert {k: v for k, v in found.about.items() if k != "tags"} == {
        "malformed_lines": 0, "untagged_words": 0, "ranges_and_empty_nodes": 0
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("brown", 52_006), ("turkish_web", 18_565)])
def test_real_vocabularies(name, size):
    held = config_file().DATA[name][1]
    assert tagging._load(name, "", (held, 0, 0), (1, 256, 256))[1] == size


@pytest.mark.slow
def test_smoke_learns(tmp_path):
    runs = smoke("pos_width", tmp_path)
    assert runs.last_test_accuracy.min() > 0.3  # the most frequent tag: .13
