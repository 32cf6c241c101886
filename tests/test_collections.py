"""Data whose examples differ in size: stored, split and refused like images."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import numpy as np
import pytest

from samop import config as configs
from samop import validation
from samop.data import Collection, cache, load, parts, sources, strings
from samop.data.dataset import collection, content_hash
from samop.data.registry import Entry
from samop.errors import UserError


def words(**about):
    arrays = {
        "words": strings.pack(["the", "naïve", "cat"]),
        "word": np.array([0, 1, 2, 0, 2], np.int32),
        "start": np.array([0, 3, 5]),
    }
    source = {"kind": "package", "origin": "npm words@1"}
    return collection("words", arrays, {"tags": ["a", "b"], **about}, source)


def test_words_survive_packing():
    for given in (["the", "naïve", "猫"], [""], [], ["", "a", ""]):
        assert strings.unpack(strings.pack(given)) == given
    with pytest.raises(UserError, match="newline"):
        strings.pack(["a\nb"])


def test_a_collection_is_stored_and_read_again(tmp_path):
    first = words()
    stored = cache.write(tmp_path, first)
    again = cache.read(tmp_path, "words")
    for data in (stored, again):
        assert isinstance(data, Collection)
        assert data.about == first.about
        for name, array in first.arrays.items():
            np.testing.assert_array_equal(data.arrays[name], array)
            assert data.arrays[name].dtype == array.dtype
    assert stored.source == first.source
    assert again.source["kind"] == "cache"
    assert again.source["via_cache_of"] == "package"
    assert again.source["sha256"] == content_hash(dict(reversed(first.arrays.items())))


def test_a_damaged_collection_names_its_file(tmp_path):
    cache.write(tmp_path, words())
    file = tmp_path / "words" / "word.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"word\.npy: sha256 of its values"):
        cache.read(tmp_path, "words")
    meta = tmp_path / "words" / cache.META
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "about": {"tags": ["b", "a"]}}))
    with pytest.raises(UserError, match=r"dataset\.json: its own sha256"):
        cache.read(tmp_path, "words")


def test_what_no_source_has_names_its_stand_in(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.ENTRIES, "far", Entry("", stand_in="digits"))
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "cache,tfds,package")
    with pytest.raises(UserError) as error:
        load("far", str(tmp_path))
    text = str(error.value)
    assert "TFDS does not have it" in text
    assert "no package is known that holds a copy" in text
    assert "'digits', which stands in for it" in text


def test_what_another_version_decoded_is_not_used(tmp_path, monkeypatch):
    cache.write(tmp_path, words())
    monkeypatch.setenv("SAMOP_DATA_SOURCES", "cache")
    monkeypatch.setitem(sources.ENTRIES, "words", Entry(""))
    assert load("words", str(tmp_path)).about == words().about
    for entry in (Entry("", revision=2), Entry("0" * 64)):
        monkeypatch.setitem(sources.ENTRIES, "words", entry)
        with pytest.raises(UserError, match=r"words holds data set 'words' as another version"):
            load("words", str(tmp_path))


def test_a_network_that_cannot_take_the_examples_is_refused():
    config = configs.defaults("mlp", "molecules")
    with pytest.raises(UserError, match=r"model.name='mlp' does not take .*allowed: gcn"):
        validation.validate(config)


def test_parts_are_fixed_disjoint_and_whole():
    train, held, tested = parts(100, validation=20, test_share=0.1)
    assert sorted([*train, *held, *tested]) == list(range(100))
    assert (len(train), len(held), len(tested)) == (70, 20, 10)
    again = parts(100, validation=20, test_share=0.1)
    for one, other in zip((train, held, tested), again):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one, np.sort(one))
    small = parts(100, validation=20, train=30, test=5)
    assert set(small[0]) < set(train)
    assert set(small[2]) < set(tested)
    np.testing.assert_array_equal(small[1], held)


def test_a_sources_own_parts_are_kept():
    own = np.repeat([0, 1, 2], [60, 15, 25]).astype(np.uint8)
    train, held, tested = parts(100, validation=0, own=own)
    np.testing.assert_array_equal(train, np.arange(60))
    np.testing.assert_array_equal(held, np.arange(60, 75))
    np.testing.assert_array_equal(tested, np.arange(75, 100))
    assert len(parts(100, validation=4, own=own)[1]) == 4
    # What it lacks is carved out of its training part.
    train, held, tested = parts(75, validation=10, own=own[:75] * 2)
    assert (len(train), len(held), len(tested)) == (50, 10, 15)
    assert max(*train, *held) < 60


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"validation": 90}, "validation is 90, allowed: 0 to 89"),
        ({"validation": 10, "train": 81}, "train is 81, allowed: 0 to 80"),
        ({"validation": 10, "test": 11}, "test is 11, allowed: 0 to 10"),
    ],
)
def test_parts_that_do_not_fit_are_refused(sizes, said):
    with pytest.raises(UserError, match=said):
        parts(100, **sizes)


def test_a_workloads_own_fields_are_checked(monkeypatch):
    from samop import tasks

    def check(config):
        if config["task"]["length"] < 1:
            raise UserError("task.length should be ≥ 1")

    monkeypatch.setitem(tasks.TASKS, "tagging", tasks.Task(("mlp",), {"length": 8}, check))
    config = configs.defaults("mlp", "tagging")
    validation.validate(config)
    assert configs.canonical(config)["task"] == {"length": 8}
    assert configs.from_json(configs.to_json(config)) == config
    for field, value, said in (
        ("task", {"length": 0}, "should be ≥ 1"),
        ("task", {"length": "8"}, "task.length='8' should be of type int"),
        ("task", {}, "needs length in its section task"),
        ("workload", "tagging_", r"did you mean 'tagging'\?"),
    ):
        with pytest.raises(UserError, match=said):
            validation.validate({**config.to_dict(), field: value})
    noisy = config.to_dict()
    noisy["data"]["label_noise"] = 0.1
    with pytest.raises(UserError, match=r"label_noise=0\.1 is not defined for workload='tagging'"):
        validation.validate(noisy)


def test_of_fields_that_no_run_reads_runs_are_the_same():
    config = configs.defaults("mlp")
    name = configs.point_name(config)
    assert "task" not in configs.canonical(config)
    config.optimizer.update(b1=0.5, eps=1e-3)
    assert configs.point_name(config) == name  # SGD has none of these
    config.optimizer.base = "adam"
    assert configs.canonical(config)["optimizer"]["b1"] == 0.5
    # As versions without these fields named them.
    config.optimizer.update(b1=0.9, eps=1e-8)
    for base, digest in (("adam", "f6523c54d4"), ("adamw", "ae480b7dd9"), ("sgd", "2d92dd5bd6")):
        config.optimizer.base = base
        assert configs.point_name(config).endswith(f"-{digest}")
    config.optimizer.clip = 1.0
    assert configs.canonical(config)["optimizer"]["clip"] == 1.0


def test_extras_that_messages_name_exist():
    root = Path(__file__).parent.parent
    known = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [file.read_text() for file in [*root.glob("samop/**/*.py"), root / "README.md"]]
    named = {name for text in texts for name in re.findall(r"samop\[(\w+)\]", text)}
    assert {"molecules", "minatar", "atari", "imagenet", "tfds"} <= named <= set(known)


def test_different_data_have_work_folders_of_their_own():
    args = {
        "imagenet_width": ("", "data=imagenette", "data=cifar10", "cpu", "smoke"),
        "pos_width": ("", "data=brown", "data=turkish_web", "cpu", "smoke"),
        "sst2_width": ("", "data=movie_snippets", "cpu", "smoke"),
        "molpcba_width": ("", "data=moleculeace", "cpu", "smoke"),
        "atari_width": ("", "data=minatar_breakout", "data=minatar_freeway", "cpu", "smoke"),
    }
    root = Path(__file__).parent.parent / "configs"
    seen = []
    for name, given in args.items():
        config = runpy.run_path(str(root / f"{name}.py"))["get_config"]
        seen += [config(arg).experiment for arg in given]
        assert all(config(arg).data.name in config(arg).experiment for arg in given)
    assert len(set(seen)) == len(seen)
