"""What a config may say: every value that can be checked without data."""

import math
from collections.abc import Mapping
from typing import Any

from samop import cadence, variants
from samop.config import get
from samop.data import human
from samop.errors import UserError, nearest
from samop.limits import Number, one_of
from samop.meanings import COMMON, SHARE, WHAT
from samop.tasks import TASKS


def validate(config: Mapping[str, Any]) -> None:
    """Checks every value that can be checked without data. Raises UserError, one line."""
    for field, (_, limit) in COMMON.items():
        limit.check(field, get(config, field))
    _parallel(config)
    _data(config)
    _model(config)
    _base(config)
    _remat(config)
    _perturbation(config)
    _precision(config)
    _curvature(config)
    _task(config)
    _changed(config)


def _parallel(config) -> None:
    parallel = config["parallel"]
    if config["train"]["statistics"] == "replica" and (
        parallel == "jit" or config["run"]["share_batches"] == "never"
    ):
        raise UserError(
            "train.statistics='replica' needs functions of single devices, which share a batch: "
            "use parallel='shard_map' or 'pmap', and not run.share_batches='never'"
        )
    if parallel != "jit" and config["workload"] == "control":
        raise UserError(
            f"parallel={parallel!r} divides batches of examples, and workload='control' makes its "
            "own where it plays: use 'jit'"
        )


def _task(config) -> None:
    task, given, model = TASKS[config["workload"]], config["task"], config["model"]["name"]
    if model not in task.models:
        raise UserError(
            f"model.name={model!r} does not take the examples of workload={config['workload']!r}; "
            f"allowed: {', '.join(task.models)}"
        )
    if set(given) != set(task.fields):
        raise UserError(
            f"workload={config['workload']!r} needs {', '.join(task.fields) or 'no fields'} in its "
            "section task: start from configs.defaults(model, workload)"
        )
    for field, default in task.fields.items():
        if type(given[field]) is not type(default):
            kind = type(default).__name__
            raise UserError(f"task.{field}={given[field]!r} should be of type {kind}")
    if not task.noise and config["data"]["label_noise"]:
        raise UserError(
            f"data.label_noise={config['data']['label_noise']} is not defined for "
            f"workload={config['workload']!r}: use 0"
        )
    task.check(config)


def _changed(config) -> None:
    """What is done to the network besides: pruning, linearisation; and what is asked of labels."""
    noise = config["data"]["label_noise"]
    if config["sparsity"]["method"] == "snip" and noise:
        raise UserError(
            f"sparsity.method='snip' with data.label_noise={noise}: its scores would be taken of "
            "the true labels, which training does not see: use 'random' or 'magnitude'"
        )
    mode = config["linearized"]["mode"]
    if mode != "none":
        for field in ("params", "compute"):
            if config["precision"][field] != "float32":
                raise UserError(
                    f"linearized.mode={mode!r} takes differences that precision.{field}="
                    f"{config['precision'][field]!r} would lose: use 'float32'"
                )
    if config["workload"] == "control" and (mode, config["sparsity"]["method"]) != ("none",) * 2:
        raise UserError("workload='control' takes agents as they are: no sparsity, no linearized")
    if config["train"]["label_parts"] and config["data"]["noise"] != "symmetric":
        raise UserError(
            f"train.label_parts tells flipped labels from true ones: with data.noise="
            f"{config['data']['noise']!r} training has people's labels alone, use 'symmetric'"
        )
    if config["train"]["label_parts"] and config["workload"] != "classification":
        raise UserError(
            f"train.label_parts is not defined for workload={config['workload']!r}: only for "
            "'classification', whose examples lie in memory and have a class each"
        )


def _data(config) -> None:
    most = math.inf if config["workload"] == "regression" else 1
    Number(0, most, open_end=True).check("data.label_noise", config["data"]["label_noise"])
    human.check(config)


def _model(config) -> None:
    from samop.models import MODELS

    model = MODELS[config["model"]["name"]]
    for field, default in model.fields.items():
        if field not in config["model"]:
            raise UserError(
                f"model.name={config['model']['name']!r} needs model.{field}, which this config "
                "lacks: start from a config of that network"
            )
        sizes = config["model"][field]
        if type(sizes) is not type(default) and not isinstance(sizes, list):
            raise UserError(f"model.{field}={sizes!r} should be of type {type(default).__name__}")
        if sizes in ((), []):
            raise UserError(f"model.{field}={sizes!r} should hold at least one size")
        if isinstance(default, float):
            SHARE.check(f"model.{field}", sizes)
            continue
        if isinstance(default, str):
            one_of(f"model.{field}", sizes, model.words[field])
            continue
        for size in sizes if isinstance(sizes, (tuple, list)) else (sizes,):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise UserError(f"model.{field}={sizes!r} should hold whole numbers ≥ 1")


def _remat(config) -> None:
    from samop.models import MODELS

    name, able = config["model"]["name"], [name for name in MODELS if MODELS[name].blocks]
    if config["train"]["remat"] and name not in able:
        raise UserError(
            f"train.remat: model.name={name!r} has no blocks to compute again; "
            f"those that have: {', '.join(able)}"
        )


def _base(config) -> None:
    if config["optimizer"]["schedule"] == "rsqrt" and not config["optimizer"]["warmup"]:
        raise UserError("optimizer.schedule='rsqrt' begins at its warm-up: set optimizer.warmup")
    for share in config["optimizer"]["milestones"]:
        if not isinstance(share, (int, float)) or not 0 < share < 1:
            raise UserError(
                f"optimizer.milestones={tuple(config['optimizer']['milestones'])} should be "
                "shares of training between 0 and 1, as in (0.5, 0.75)"
            )


def _perturbation(config) -> None:
    from samop.models import MODELS

    fields = variants.resolved(config["optimizer"])
    if fields["ascent"] == "random" and fields["ascent_steps"] > 1:
        raise UserError(
            f"optimizer.ascent_steps={fields['ascent_steps']} of optimizer.ascent='random' would "
            "add up to a shorter perturbation than ρ: use one"
        )
    if not fields["start"] < fields["end"]:
        raise UserError(
            f"optimizer.start={fields['start']} and optimizer.end={fields['end']} leave SAM no "
            "time: they should be shares of training, start < end"
        )
    model = MODELS[config["model"]["name"]]
    if fields["mask"] == "norm_layers" and not model.norm_layers(config["model"]):
        raise UserError(
            f"optimizer.mask='norm_layers': model.name={config['model']['name']!r} has no "
            "normalisation layers, so nothing would be perturbed"
        )
    _groups(config, fields)


def _groups(config, fields) -> None:
    """m-SAM: what the size of groups, and computing them one after another, allow."""
    m, size = fields["m"], config["train"]["batch_size"]
    if m and size % m:
        raise UserError(f"optimizer.m={m} does not divide train.batch_size={size}")
    if not m or fields["m_by"] == "vmap":
        return
    name = config["optimizer"]["name"]
    reasons = {
        f"optimizer.name={name!r}": name not in ("sam", "asam"),
        f"optimizer.ascent={fields['ascent']!r}": fields["ascent"] == "random",
        f"optimizer.ascent_steps={fields['ascent_steps']}": fields["ascent_steps"] > 1,
        "a window (optimizer.start, optimizer.end)": (fields["start"], fields["end"]) != (0, 1),
        "precision.loss_scale": bool(config["precision"]["loss_scale"]),
    }
    for what, refused in reasons.items():
        if refused:
            raise UserError(
                f"{what} cannot be had with optimizer.m_by='scan', which makes a finished "
                "gradient of stateless ascents: use optimizer.m_by='vmap'"
            )


def _precision(config) -> None:
    fields = config["precision"]
    Number().check("precision.loss_scale", fields["loss_scale"])
    name = config["optimizer"]["name"]
    if 0 < fields["loss_scale"] < 1:
        raise UserError(f"precision.loss_scale={fields['loss_scale']} should be ≥ 1, or 0 for none")
    if name == "msam" and fields["params"] != "float32":
        raise UserError(
            f"precision.params={fields['params']!r} cannot hold msam's perturbation: use 'float32'"
        )
    low = fields["compute"] != "float32" and (fields["second_pass"] == "compute" or name == "msam")
    if low and name != "base" and not config["train"]["diagnostics_every"]:
        raise UserError(
            f"a perturbed pass in precision.compute={fields['compute']!r} can switch SAM off, so "
            "what is left of it has to be in the record: set train.diagnostics_every"
        )


def _curvature(config) -> None:
    fields = config["curvature"]
    cadence.parse(fields["every"], "curvature.every")
    for field in ("what", "what_end"):
        for word in fields[field]:
            if word not in WHAT:
                raise UserError(
                    f"curvature.{field}={tuple(fields[field])} holds {word!r}"
                    f"{nearest(str(word), WHAT)}; allowed: {', '.join(WHAT)}"
                )
    if fields["every"] and not (*fields["what"], *fields["what_end"]):
        raise UserError("curvature.what=() measures nothing: name something, or unset every")
    if fields["max_matvecs"] < fields["k"]:
        raise UserError(
            f"curvature.max_matvecs={fields['max_matvecs']} should be at least "
            f"curvature.k={fields['k']}"
        )
    for order in fields["orders"]:
        if isinstance(order, bool) or not isinstance(order, int) or not 2 <= order <= 8:
            raise UserError(
                f"curvature.orders={tuple(fields['orders'])} should hold whole numbers from 2 to 8"
            )
