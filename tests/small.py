"""Small configs and groups that several tests share."""

import copy

import jax
import numpy as np

from samop import config as configs
from samop import groups, loop, sweep, validation

AXES = {
    "model.hidden": ((4, 4), (6, 6)),
    "optimizer.name": ("base", "sam"),
    "optimizer.rho": (0.05, 0.2),
    "seed": (0, 1),
}


def point(**fields):
    """A small digits run; `section__key=value` sets a field."""
    config = configs.defaults("mlp").to_dict()
    config["experiment"] = "test"
    config["data"].update(validation=50, train_size=200, test_size=70)
    config["model"]["hidden"] = (8, 8)
    config["train"].update(epochs=2, batch_size=32)
    config["run"].update(compilation_cache=False, tensorboard=False)
    for name, value in fields.items():
        section, _, key = name.partition("__")
        if key:
            config[section][key] = value
        else:
            config[section] = value
    validation.validate(config)
    return config


def grid(base, cells, seeds):
    """One row a seed; each cell is a dict of `section__key` values."""
    rows = []
    for seed in seeds:
        row = []
        for cell in cells:
            config = copy.deepcopy(base)
            config["seed"] = seed
            for name, value in cell.items():
                section, _, key = name.partition("__")
                config[section][key] = value
            row.append(config)
        rows.append(row)
    return rows


def prepared(rows, devices=1, batch=1):
    """A group of these rows, compiled for the first few simulated devices.

    `batch`: size of the batches that devices which are left over may share; 1: they do not.
    """
    return loop.prepare(groups.make(rows, devices, batch), jax.devices())


def first_epochs(ready, epochs=1):
    """State and metrics after some epochs, padding dropped: [runs, ...]."""
    state, begin = loop.start(ready), 0
    feed = loop.feed(ready)
    for number in range(begin, epochs):
        state, values = ready.epoch(state, *feed, ready.program.place("every", np.int32(number)))
    keep = lambda x: loop.real(ready.group, np.asarray(x))  # noqa: E731
    return jax.tree.map(keep, state.params), jax.tree.map(keep, values)


def small_plan(axes=None, **fields):
    """A sweep of small runs; by default SGD and SAM at two ρ, two seeds, one width."""
    return sweep.plan(point(**fields), axes or {**AXES, "model.hidden": ((4, 4),)}, "command")
