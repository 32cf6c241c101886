"""The table of a config's fields: complete, true of what is enforced, and its page up to date."""

import math
from pathlib import Path

import pytest

from samop import config as configs
from samop import fields, meanings, variants
from samop.errors import UserError
from samop.limits import Elsewhere, Kind, Whole, Words, WordsOf
from samop.models import MODELS
from samop.tasks import TASKS
from samop.validation import validate

PAGE = Path(__file__).parent.parent / "configs" / "FIELDS.md"
# Networks and data sets that a workload's defaults are valid with.
EXAMPLES = {
    "regression": ("mlp", "synthetic"),
    "classification": ("mlp", "digits"),
    "imagenet": ("resnet50", "imagenette"),
    "tagging": ("transformer", "brown"),
    "sentiment": ("lstm", "movie_snippets"),
    "molecules": ("gcn", "moleculeace"),
    "control": ("nature_cnn", "atari_pong"),
}


def config_of(workload):
    model, data = EXAMPLES[workload]
    config = configs.defaults(model, workload)
    config.data.name = data
    words = workload not in ("classification", "imagenet", "control")
    config.data.normalize = "none" if words else "unit"
    return config


def of_common(config):
    return {n for n in configs.flatten(config) if not n.startswith(("model.", "task."))}


def test_every_field_has_a_meaning_and_none_is_stale():
    assert set(EXAMPLES) == set(TASKS) == set(meanings.TASKS)
    for workload in TASKS:
        config = config_of(workload)
        validate(config)
        assert of_common(config) | {"model.name"} == set(meanings.COMMON)
        assert set(config.task) == set(meanings.TASKS[workload])
    assert set(meanings.MODELS) == set(MODELS)
    for network, model in MODELS.items():
        assert set(model.fields) == set(meanings.MODELS[network])
    assert all(row.meaning and row.allowed for row in fields.rows())


def beside(limit):
    """(values that are allowed, values that are not) at the edges of a limit."""
    if isinstance(limit, Kind):
        return [], [3]
    if isinstance(limit, (Words, WordsOf)):
        return [], ["no such word"]
    if isinstance(limit, Whole):
        inside = [limit.low] + ([limit.high] if limit.high < math.inf else [])
        outside = [limit.low - 1, True, limit.low + 0.5]
        outside += [limit.high + 1] if limit.high < math.inf else []
    else:
        inside = [] if limit.low == 0 else [limit.low]
        inside += [limit.high] if limit.high < math.inf and not limit.open_end else []
        outside = [limit.low - 1e-3 * max(limit.low, 1e-9), math.nan, math.inf, True]
        outside += [limit.high * (1.001 if not limit.open_end else 1)]
    return inside, [value for value in outside if value != limit.besides or value is True]


def refused(config, name, value):
    *parents, last = name.split(".")
    plain = config.to_dict()
    node = plain
    for key in parents:
        node = node[key]
    node[last] = value
    try:
        validate(plain)
    except UserError as error:
        return str(error)
    return ""


LIMITS = [
    *(("classification", name, field.limit) for name, field in meanings.COMMON.items()),
    *(
        (workload, f"task.{name}", field.limit)
        for workload, own in meanings.TASKS.items()
        for name, field in own.items()
    ),
]


@pytest.mark.parametrize(("workload", "name", "limit"), LIMITS, ids=lambda x: str(x)[:40])
def test_the_limits_are_what_is_enforced(workload, name, limit):
    if isinstance(limit, Elsewhere):
        return
    inside, outside = beside(limit)
    for value in outside:
        assert name in refused(config_of(workload), name, value), value
    for value in inside:
        # Another field may be what does not go with it.
        assert not refused(config_of(workload), name, value).startswith(f"{name}={value!r} is")
        limit.check(name, value)


# Those that a record of `samop.limits` cannot say: a value on each side.
SAID = {
    "data.label_noise": (0.999, 1.0),
    "optimizer.milestones": ((0.1, 0.9), (0.0, 0.5)),
    "precision.loss_scale": (1.0, 0.5),
    "curvature.every": ("100steps", "100 days"),
    "curvature.what": (("trace",), ("traces",)),
    "curvature.what_end": ((), ("traces",)),
    "curvature.orders": ((2, 8), (1,)),
    "task.crop_area": (1.0, 0.0),
    "task.row": (128, 127),
}


def test_limits_that_are_text():
    said = {(w, name) for w, name, limit in LIMITS if isinstance(limit, Elsewhere)}
    # Which data sets there are is known where data are loaded; tests/test_cli.py has that error.
    assert {name for _, name in said} == {*SAID, "data.name"}
    for workload, name in said - {("classification", "data.name")}:
        good, bad = SAID[name]
        assert not refused(config_of(workload), name, good)
        assert name in refused(config_of(workload), name, bad)


def test_what_is_no_part_of_a_run():
    """Fields of the kind `how` change no run's identity; the others change that of some run."""
    config = config_of("classification")
    config.curvature.every = "end"
    same = configs.canonical(config)
    for row in fields.rows():
        if row.kind != fields.HOW:
            continue
        other = config.copy_and_resolve_references()
        value = configs.get(other, row.name)
        changed = not value if isinstance(value, bool) else f"{value}x"
        changed = value + 1 if type(value) in (int, float) else changed
        configs.put(other, row.name, changed)
        assert configs.canonical(other) == same, row.name
    traced = {row.name for row in fields.rows() if row.kind == fields.TRACED}
    assert traced == {"seed", *configs.TRACED}


def test_defaults_of_variants_are_named():
    alpha = next(row for row in fields.rows() if row.name == "optimizer.alpha")
    assert alpha.meaning.endswith("; -1: gsam 0.4, looksam 0.7, gnp 0.8")
    own = {field for variant in variants.VARIANTS.values() for field in variant.own}
    assert own < {name.removeprefix("optimizer.") for name in meanings.COMMON}


def test_the_page_is_what_the_command_prints(capsys):
    assert fields.main(["--markdown"]) == 0
    page = capsys.readouterr().out
    assert PAGE.read_text() == page, "python -m samop.fields --markdown > configs/FIELDS.md"


def test_the_command(capsys):
    assert fields.main(["rho", "heads"]) == 0
    out = capsys.readouterr().out
    for words in ("optimizer.rho = 0.05", "[float, traced]", "with model.name=vit:"):
        assert words in out
    assert "optimizer.lr =" not in out
    assert fields.main(["--help"]) == 0
    assert fields.main(["rhoo"]) == 2
    assert fields.main(["--markdwn"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "error: no field's name holds 'rhoo' (did you mean 'rho'?)"
    assert errors[1].startswith("error: option '--markdwn' is unknown")
