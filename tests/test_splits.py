"""Splits of a data set, and the synthetic one."""

import numpy as np
import pytest

from samop.data import load, split, synthetic
from samop.data.dataset import FIELDS
from samop.data.splits import permutation
from samop.errors import UserError

pytestmark = pytest.mark.usefixtures("hermetic")


# Splits


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_the_real_ones(digits):
    assert digits.train_x.shape == (1297, 8, 8, 1)
    assert digits.test_x.shape == (500, 8, 8, 1)
    assert (digits.train_x.dtype, digits.train_y.dtype) == (np.uint8, np.int32)
    assert (digits.train_x.max(), digits.scale, digits.num_classes) == (16, 16.0, 10)
    assert digits.source["kind"] == "installed"
    assert np.bincount(digits.test_y).min() >= 40
    np.testing.assert_allclose(digits.mean, (digits.train_x / 16).mean(), atol=1e-12)


def _rows(*parts):
    return [tuple(row) for part in parts for row in part.x.reshape(len(part.x), -1)]


def test_split_is_a_partition_and_the_same_every_time(digits):
    parts = split(digits, validation=297)
    assert [len(p.y) for p in (parts.train, parts.validation, parts.test)] == [1000, 297, 500]
    whole = sorted(tuple(row) for row in digits.train_x.reshape(1297, -1))
    assert sorted(_rows(parts.train, parts.validation)) == whole
    again = split(digits, validation=297)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(parts, name).x, getattr(again, name).x)
        np.testing.assert_array_equal(getattr(parts, name).y, getattr(again, name).y)
    np.testing.assert_array_equal(parts.test.x, digits.test_x)
    assert np.bincount(parts.validation.y).min() >= 20


def test_split_never_changes(digits):
    """Results of different machines and years compare only if these stay as they are."""
    parts = split(digits, validation=297)
    assert permutation(10, 20210).tolist() == [3, 7, 2, 4, 9, 1, 0, 5, 6, 8]
    assert int(parts.validation.y @ np.arange(297)) == 194432


def test_a_cut_keeps_the_validation_part(digits):
    whole, cut = split(digits, 297), split(digits, 297, train=64, test=20)
    assert (len(cut.train.y), len(cut.test.y)) == (64, 20)
    np.testing.assert_array_equal(whole.validation.x, cut.validation.x)
    assert set(_rows(cut.train)) <= set(_rows(whole.train))
    assert set(_rows(cut.test)) <= set(_rows(whole.test))
    assert len(split(digits, 0).validation.y) == 0
    assert len(split(digits, 0).train.y) == 1297


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"validation": 1297},
            r"validation is 1297, allowed: 0 to 1296 \(digits has 1297 training",
        ),
        ({"validation": -1}, "validation is -1, allowed: 0 to 1296"),
        ({"validation": 297, "train": 1001}, r"train is 1001, allowed: 0 to 1000 .*297 of them"),
        ({"validation": 0, "test": 501}, r"test is 501, allowed: 0 to 500"),
        ({"validation": 0.1}, "validation is 0.1, allowed: an integer"),
        ({"validation": True}, "validation is True, allowed: an integer"),
    ],
)
def test_sizes_that_do_not_fit(digits, sizes, message):
    with pytest.raises(UserError, match=message):
        split(digits, **sizes)


# Synthetic


def test_synthetic_is_standardised_and_noisy_in_training_only():
    data = synthetic(noise=0.3)
    assert data.train_x.shape == (1200, 98)
    assert data.test_x.shape == (2000, 98)
    assert {getattr(data, f).dtype for f in FIELDS} == {np.dtype(np.float32)}
    assert data.num_classes == 0
    assert data.test_y.std() == pytest.approx(1.0, abs=0.05)
    assert data.test_y.mean() == pytest.approx(0.0, abs=0.07)
    clean = load("synthetic")
    np.testing.assert_array_equal(data.test_y, clean.test_y)
    np.testing.assert_array_equal(data.train_x, clean.train_x)
    assert (data.train_y - clean.train_y).std() == pytest.approx(0.3, rel=0.1)
    assert data.source["sha256"] == synthetic(noise=0.3).source["sha256"]


def test_synthetic_grows_by_adding_and_differs_by_seed():
    small, large = synthetic(n_train=50, n_test=20), synthetic(n_train=70, n_test=30)
    for field in FIELDS:
        few = getattr(small, field)
        np.testing.assert_allclose(few, getattr(large, field)[: len(few)], rtol=1e-6)
    other = synthetic(n_train=50, n_test=20, seed=1)
    assert other.source["sha256"] != small.source["sha256"]
    assert other.source["parameters"] == "n_train=50 n_test=20 noise=0.0 seed=1"


def test_synthetic_targets_are_not_linear_but_a_net_can_fit_them():
    """A linear fit leaves an error well above the noise floor of clean targets, which is zero."""
    data = synthetic(n_train=4000, noise=0.0)
    weights, *_ = np.linalg.lstsq(data.train_x, data.train_y, rcond=None)
    left = np.mean((data.test_x @ weights - data.test_y) ** 2)
    assert 0.05 < left < 0.95


def test_a_teacher_too_wide_to_fit_has_the_same_test_part_at_both_sizes():
    small, large = load("relu_teacher"), load("relu_teacher_64k")
    assert (small.train_x.shape, large.train_x.shape) == ((9000, 8), (65_000, 8))
    assert small.test_y.std() == pytest.approx(1.0, abs=0.03)
    for field in FIELDS:
        few = getattr(small, field)
        np.testing.assert_allclose(few, getattr(large, field)[: len(few)], rtol=1e-5, atol=1e-5)
    assert small.source["origin"] == "samop teacher of 2000 hidden units"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "n_train is 0, allowed: an integer of at least 1"),
        ({"n_test": 2.5}, "n_test is 2.5, allowed"),
        ({"noise": -1.0}, "noise is -1.0, allowed: a finite number"),
        ({"noise": float("nan")}, "noise is nan, allowed"),
        ({"seed": -1}, "seed is -1, allowed: an integer of at least 0"),
    ],
)
def test_synthetic_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        synthetic(**arguments)
