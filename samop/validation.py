"""What a config may say: every value that can be checked without data."""

import math
from collections.abc import Mapping
from typing import Any

from samop import cadence, variants
from samop.config import get
from samop.data import human
from samop.errors import UserError, nearest
from samop.tasks import TASKS

BASES = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "linear", "rsqrt")
AUGMENT = ("none", "crop_flip", "resized_crop")
NORMALIZE = ("unit", "standardize", "none")
MODES = ("auto", "vmap", "loop")
SHARE_BATCHES = ("auto", "always", "never")
PARALLEL = ("jit", "shard_map", "pmap")  # see samop.division
STATISTICS = ("batch", "replica")  # of BatchNorm
BUDGETS = ("epochs", "grad_evals")
LINEARIZED = ("none", "jvp", "lazy")
DTYPES = ("float32", "bfloat16", "float16")
SECOND_PASSES = ("float32", "compute")
# What can be measured of a network's curvature; samop.measures says what each word records.
WHAT = ("eigenvalues", "negative", "trace", "moments", "ggn", "density", "layers", "sharpness")
# Of single variants: the closed range, -1 standing for the variant's default.
RANGES = {
    "eta": (0, math.inf),
    "alpha": (0, math.inf),
    "sigma": (0, math.inf),
    "lam": (0, 1),
    "theta": (1e-12, 1),
    "beta": (1e-12, 1),
    "gamma": (0, 1 - 1e-9),
}


def validate(config: Mapping[str, Any]) -> None:
    """Checks every value that can be checked without data. Raises UserError, one line."""
    _one_of(config, "workload", TASKS)
    _one_of(config, "run.mode", MODES)
    _one_of(config, "run.share_batches", SHARE_BATCHES)
    _parallel(config)
    _number(config, "run.checkpoint_seconds", 0, math.inf)
    _number(config, "run.claim_seconds", 1e-3, math.inf)
    if not isinstance(config["profile"], str):
        raise UserError(f"profile={config['profile']!r} should be of type str: a folder, or ''")
    _whole(config, "seed", 0, 2**32 - 1)
    if not isinstance(config["run"].get("shard_parameters", False), bool):
        raise UserError("run.shard_parameters should be of type bool")
    for field in ("run.replicates", "run.devices"):
        _whole(config, field, 0)
    for field in ("train.epochs", "train.batch_size", "train.eval_batch_size"):
        _whole(config, field, 1)
    _whole(config, "train.diagnostics_every", 0)
    _one_of(config, "train.budget", BUDGETS)
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
    _one_of(config, "parallel", PARALLEL)
    _one_of(config, "train.statistics", STATISTICS)
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
    from samop.sparsity import METHODS

    _one_of(config, "sparsity.method", METHODS)
    _number(config, "sparsity.level", 0, 1, open_end=True)
    noise = config["data"]["label_noise"]
    if config["sparsity"]["method"] == "snip" and noise:
        raise UserError(
            f"sparsity.method='snip' with data.label_noise={noise}: its scores would be taken of "
            "the true labels, which training does not see: use 'random' or 'magnitude'"
        )
    _one_of(config, "linearized.mode", LINEARIZED)
    _number(config, "linearized.alpha", 1e-6, math.inf)
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
    if not isinstance(config["train"]["label_parts"], bool):
        raise UserError("train.label_parts should be of type bool")
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
    _one_of(config, "data.augment", AUGMENT)
    _one_of(config, "data.normalize", NORMALIZE)
    most = math.inf if config["workload"] == "regression" else 1
    _number(config, "data.label_noise", 0, most, open_end=True)
    human.check(config)
    _whole(config, "data.validation", 1)
    for field in ("data.train_size", "data.test_size"):
        _whole(config, field, 0)
    for field in ("data.noise_seed", "data.order_seed"):
        _whole(config, field, -1, 2**32 - 1)


def _model(config) -> None:
    from samop.models import MODELS

    _one_of(config, "model.name", MODELS)
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
            _number(config, f"model.{field}", 0, 1, open_end=True)
            continue
        if isinstance(default, str):
            _one_of(config, f"model.{field}", model.words[field])
            continue
        for size in sizes if isinstance(sizes, (tuple, list)) else (sizes,):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise UserError(f"model.{field}={sizes!r} should hold whole numbers ≥ 1")


def _remat(config) -> None:
    from samop.models import MODELS

    if not isinstance(config["train"]["remat"], bool):
        raise UserError("train.remat should be of type bool")
    name, able = config["model"]["name"], [name for name in MODELS if MODELS[name].blocks]
    if config["train"]["remat"] and name not in able:
        raise UserError(
            f"train.remat: model.name={name!r} has no blocks to compute again; "
            f"those that have: {', '.join(able)}"
        )


def _base(config) -> None:
    _one_of(config, "optimizer.base", BASES)
    _one_of(config, "optimizer.schedule", SCHEDULES)
    for field in ("lr", "weight_decay", "factor", "clip"):
        _number(config, f"optimizer.{field}", 0, math.inf)
    for field in ("momentum", "b1", "b2", "warmup"):
        _number(config, f"optimizer.{field}", 0, 1, open_end=True)
    _number(config, "optimizer.eps", 1e-30, math.inf)
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

    _one_of(config, "optimizer.name", variants.VARIANTS)
    _one_of(config, "optimizer.ascent", variants.ASCENTS)
    _one_of(config, "optimizer.mask", variants.MASKS)
    _one_of(config, "optimizer.rho_schedule", variants.RHO_SCHEDULES)
    _one_of(config, "optimizer.m_by", variants.GROUPINGS)
    for field in ("optimizer.rho", "optimizer.rho_end"):
        _number(config, field, 0, math.inf)
    _whole(config, "optimizer.ascent_steps", 1)
    if config["optimizer"]["k"] != variants.UNSET:
        _whole(config, "optimizer.k", 1)
    for field, (low, high) in RANGES.items():
        if config["optimizer"][field] != variants.UNSET:
            _number(config, f"optimizer.{field}", low, high)
    _number(config, "optimizer.start", 0, 1, open_end=True)
    _number(config, "optimizer.end", 0, 1)
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
    _whole(config, "optimizer.m", 0)
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
    for field in ("precision.params", "precision.compute"):
        _one_of(config, field, DTYPES)
    _one_of(config, "precision.second_pass", SECOND_PASSES)
    _number(config, "precision.loss_scale", 0, math.inf)
    fields = config["precision"]
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
    _whole(config, "curvature.examples", 0)
    for field in ("k", "probes", "density_probes", "density_steps", "max_matvecs"):
        _whole(config, f"curvature.{field}", 1)
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
    for field, least in (("rho", 1e-12), ("tol", 1e-6)):
        _number(config, f"curvature.{field}", least, math.inf)


def _one_of(config, field, allowed) -> None:
    value = get(config, field)
    if value not in allowed:
        raise UserError(
            f"{field}={value!r} is not allowed{nearest(str(value), allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )


def _number(config, field, low, high, open_end=False) -> None:
    value = get(config, field)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    inside = number and math.isfinite(value) and low <= value <= high
    inside = inside and not (open_end and value == high)
    if not inside:
        end = f"in [{low}, {high}{')' if open_end else ']'}" if high < math.inf else f"≥ {low}"
        raise UserError(f"{field}={value!r} is not allowed: it should be a finite number {end}")


def _whole(config, field, low, high=math.inf) -> None:
    value = get(config, field)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        end = f" and ≤ {high}" if high < math.inf else ""
        raise UserError(
            f"{field}={value!r} is not allowed: it should be a whole number ≥ {low}{end}"
        )
