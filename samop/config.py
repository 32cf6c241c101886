"""The configuration of one run: defaults, config-string arguments, validation, identity."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from samop import variants
from samop.errors import UserError, nearest
from samop.tasks import TASKS

# Fields that vary inside one compiled program; everything else is static (shapes or structure).
TRACED = ("optimizer.rho", "optimizer.lr", "optimizer.weight_decay", "data.label_noise")
# What says how to run and what to sweep; it is not part of a run's identity.
NOT_IDENTITY = ("run", "sweep", "profile", "parallel")
ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}  # of adam and adamw


def defaults(model: str = "mlp", workload: str = "classification") -> ConfigDict:
    """All fields, with the defaults that the config files start from.

    Args:
      model: name of the network, which decides the fields of `config.model`.
      workload: what is learned, which decides the fields of `config.task`.
    """
    from samop.models import MODELS

    return ConfigDict(
        {
            "experiment": "unnamed",
            "workload": workload,
            "seed": 0,
            # How devices share the batches of a run, with equal results: jit (XLA's partitioner
            # divides functions of whole batches), shard_map or pmap (functions of one device).
            "parallel": "jit",
            "profile": "",  # a folder: a profiler's trace of one epoch of each group goes there
            "data": {
                "name": "digits",
                "dir": "",  # "": $SAMOP_DATA or the user's cache
                "validation": 297,  # examples held out of the training part
                "train_size": 0,  # 0: all
                "test_size": 0,
                # Share of training labels flipped to another class; in regression the standard
                # deviation of the noise on training targets.
                "label_noise": 0.0,
                "noise": "symmetric",  # or people's labels of cifar10, see samop.data.human
                "noise_seed": -1,  # -1: the run's seed
                "order_seed": -1,  # -1: the run's seed
                "normalize": "unit",  # unit: pixels in [0, 1]
                "augment": "none",
            },
            "model": {"name": model, **MODELS[model].fields},
            "task": dict(TASKS[workload].fields),
            # Weights pruned at initialisation, see `samop.sparsity`.
            "sparsity": {"method": "none", "level": 0.0},
            # jvp: the network's first-order expansion; lazy: α(f(w) − f(w₀)).
            "linearized": {"mode": "none", "alpha": 1.0},
            "optimizer": {
                "name": "sam",  # base: no perturbation
                "base": "sgd",
                "lr": 0.1,
                "momentum": 0.9,  # of sgd
                **ADAM,
                "clip": 0.0,  # largest global norm of the (SAM) gradient; 0: none
                "weight_decay": 1e-4,  # sgd, adam: λw joins the (SAM) gradient; adamw: decoupled
                "schedule": "step",  # constant, step, cosine, linear (both to 0), rsqrt
                "milestones": (0.5, 0.75),  # shares of training
                "factor": 0.1,
                "warmup": 0.0,  # share of training with linearly growing rate
                **variants.FIELDS,  # the perturbation
            },
            "train": {
                "epochs": 60,
                # grad_evals: as many gradient evaluations as the base takes in `epochs` epochs, so
                # that SAM, with two a step, trains for half as many.
                "budget": "epochs",
                "batch_size": 64,
                "eval_batch_size": 1000,
                "diagnostics_every": 10,  # epochs; 0: the perturbation is never measured
                # Whether each epoch says how well the training examples with true labels, and
                # those with flipped ones, are fitted; costs a forward pass on all of them.
                "label_parts": False,
                # Of BatchNorm: batch, the whole batch's; replica, those of each device's own rows,
                # so that results depend on the devices (parallel="shard_map" or "pmap").
                "statistics": "batch",
                # Whether a backward pass keeps the inputs of a network's blocks alone and computes
                # what is inside them again.
                "remat": False,
            },
            "precision": {
                "params": "float32",
                "compute": "float32",  # of the clean pass
                "second_pass": "float32",  # or "compute": then its cosine is in the record
                "loss_scale": 0.0,  # first dynamic loss scale; 0: none
            },
            # Measured beside training, which it does not change; `every` "": not part of a run.
            "curvature": {
                "every": "",  # "": never; "end", "100steps", "5epochs", "10%" (and at the end)
                "what": ("eigenvalues", "trace", "moments"),  # see samop.measures
                "what_end": (),  # besides, of the trained network
                "examples": 1000,  # the first of a fixed order of the training part; 0: all
                "k": 5,  # eigenvalues
                "probes": 32,  # products for a trace
                "orders": (2,),  # of the moments
                "density_probes": 4,
                "density_steps": 64,
                "rho": 0.05,  # radius of the sharpness measures
                "tol": 1e-3,
                "max_matvecs": 300,
            },
            "run": {
                "mode": "auto",  # vmap: one program; loop: one run a device; auto: the faster
                "replicates": 0,  # most runs in one program; 0: as many as memory takes
                "devices": 0,  # 0: all (on a CPU one simulated device per core)
                # Whether devices that no run has to itself share the batches of one: auto (not on
                # a CPU, whose cores share a run's products by threads), always, never.
                "share_batches": "auto",
                # Whether each such device keeps a part of large weights alone, instead of all.
                "shard_parameters": False,
                "checkpoint_seconds": 60.0,
                # After how long without a sign of life the other machines that share the work
                # folder take a worker for dead.
                "claim_seconds": 60.0,
                "tensorboard": True,  # written where TensorFlow is installed
                "compilation_cache": True,
            },
            "sweep": {},
        }
    )


def parse_arg(
    arg: str, smoke: Mapping[str, Any], cpu: Mapping[str, Any] | None = None, **known: Any
) -> ConfigDict:
    """Reads the text after the colon of `--config=file.py:smoke,seeds=5`.

    Args:
      arg: comma-separated words; a bare word switches a boolean on, others are key=value.
      smoke: defaults that hold instead where the word `smoke` is given; what else is given goes
        before them.
      cpu: the same for the word `cpu`: a real sweep that two CPU cores can do. None: the config
        has none.
      **known: the allowed keys with defaults, whose types the values must have.

    Raises:
      UserError: an unknown key or a value of another type.
    """
    presets = {"smoke": smoke} if cpu is None else {"smoke": smoke, "cpu": cpu}
    values = {**dict.fromkeys(presets, False), **known}
    seen: set[str] = set()
    for word in filter(None, (part.strip() for part in (arg or "").split(","))):
        key, equals, text = word.partition("=")
        if key in seen:
            raise UserError(f"config argument {key!r} is given twice")
        seen.add(key)
        if key not in values:
            raise UserError(
                f"config argument {key!r} is unknown{nearest(key, values)}; "
                f"allowed: {', '.join(values)}"
            )
        kind = type(values[key])
        if kind is bool and (not equals or text.lower() in ("true", "1", "false", "0")):
            values[key] = not equals or text.lower() in ("true", "1")
            continue
        try:
            if kind is bool or not text:
                raise ValueError
            values[key] = kind(text)
        except ValueError:
            raise UserError(
                f"config argument {key}={text!r} should be of type {kind.__name__}, "
                f"as in {key}={known.get(key) or smoke.get(key) or True}"
            ) from None
    chosen = [word for word in presets if values[word]]
    if len(chosen) > 1:
        raise UserError(f"config arguments {' and '.join(chosen)} exclude each other: give one")
    for word in chosen:
        values.update({key: value for key, value in presets[word].items() if key not in seen})
    return ConfigDict(values)


def parse_widths(text: str) -> tuple[tuple[int, ...], ...]:
    """Hidden layer sizes from "64-64+300-100" (widths joined by "+", layers by "-")."""
    try:
        return tuple(tuple(int(n) for n in width.split("-")) for width in text.split("+"))
    except ValueError:
        raise UserError(
            f"width={text!r} should be layer sizes joined by '-', several joined by '+', "
            "as in width=64-64+128-128"
        ) from None


def parse_sizes(text: str) -> tuple[int, ...]:
    """Single sizes from "16+64"."""
    try:
        return tuple(int(size) for size in text.split("+"))
    except ValueError:
        raise UserError(
            f"width={text!r} should be single sizes joined by '+', as in width=16+64"
        ) from None


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer.rho": 0.05, …} from a nested mapping; an empty section has no fields."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def get(config: Mapping[str, Any], field: str) -> Any:
    """The value at a dotted field."""
    for key in field.split("."):
        config = config[key]
    return config


def put(config: ConfigDict, field: str, value: Any) -> None:
    """Sets the value at a dotted field that exists; the type must agree."""
    *parents, last = field.split(".")
    for key in parents:
        config = config[key]
    if last not in config:
        raise KeyError(field)
    config[last] = value


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that make a run what it is, as plain JSON values: equal runs, equal dicts."""
    from samop.models import MODELS

    plain = json.loads(json.dumps(_plain(config)))
    for name in NOT_IDENTITY:
        plain.pop(name, None)
    plain.pop("experiment", None)
    if not plain["curvature"]["every"]:
        plain.pop("curvature")
    plain["data"].pop("dir")
    if not plain["task"]:
        plain.pop("task")
    for name, section in _changes(config).items():
        if section["method" if name == "sparsity" else "mode"] == "none":
            plain.pop(name)
        else:
            plain[name] = section
    for name, default in {"label_parts": False, "remat": False, "statistics": "batch"}.items():
        if plain["train"].get(name, default) == default:
            plain["train"].pop(name, None)
    if plain["optimizer"]["base"] == "sgd":
        plain["optimizer"].update(ADAM)  # which it does not read
    else:
        plain["optimizer"]["momentum"] = 0.0  # theirs is b1
    # Fields that came later say nothing at their defaults, so that earlier runs are still known.
    model = MODELS[plain["model"]["name"]]
    for name in model.later:
        if plain["model"].get(name) == model.fields[name]:
            plain["model"].pop(name)
    if plain["data"].get("noise") == "symmetric":
        plain["data"].pop("noise")
    for name, value in {**ADAM, "clip": 0.0}.items():
        if plain["optimizer"][name] == value:
            plain["optimizer"].pop(name)
    # Of the perturbation only what the variant reads: what it does not makes no other run.
    plain["optimizer"].update(variants.resolved(plain["optimizer"]))
    if variants.cost(config["optimizer"]) == 1:
        plain["train"]["budget"] = "epochs"  # the two are the same
    if plain["optimizer"]["name"] == "base":
        plain["train"]["diagnostics_every"] = 0
    one_pass = plain["optimizer"]["name"] in ("base", "msam")
    if one_pass or plain["precision"]["compute"] == "float32":
        plain["precision"]["second_pass"] = "float32"
    return plain


def _changes(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections `sparsity` and `linearized` as they are read: what says the same is equal."""
    sparsity, linearized = dict(config["sparsity"]), dict(config["linearized"])
    if sparsity["method"] == "none" or not sparsity["level"]:
        sparsity = {"method": "none", "level": 0.0}
    if linearized["mode"] != "lazy":
        linearized["alpha"] = 1.0
    return {"sparsity": sparsity, "linearized": linearized}


def epochs(config: Mapping[str, Any]) -> int:
    """Epochs that the config's budget pays for, rounded down, at least one."""
    train = config["train"]
    cost = variants.cost(config["optimizer"]) if train["budget"] == "grad_evals" else 1
    return max(1, math.floor(train["epochs"] / cost + 1e-9))


def static(config: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical fields without seed and traced ones: runs that agree share a program."""
    plain = canonical(config)
    plain.pop("seed")
    for field in TRACED:
        section, key = field.split(".")
        plain[section].pop(key)
    return plain


def digest(value: Any, length: int = 10) -> str:
    """Hex digits of the sha256 of a JSON value with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]


def width_label(config: Mapping[str, Any]) -> str:
    """The label of the width of the config's network, e.g. "300-100"."""
    from samop.models import MODELS

    return MODELS[config["model"]["name"]].width(config["model"])


def optimizer_label(config: Mapping[str, Any]) -> str:
    """How people call the optimiser: "SGD", "ADAMW" for a plain base, else "SAM", "LookSAM"."""
    fields = config["optimizer"]
    return variants.LABELS.get(fields["name"]) or variants.base_label(fields["base"])


def point_name(config: Mapping[str, Any]) -> str:
    """A run's folder: readable, and unique by the digest of its canonical config."""
    opt = config["optimizer"]
    words = [config["data"]["name"], config["model"]["name"], width_label(config)]
    words.append(opt["base"] if opt["name"] == "base" else f"{opt['name']}_rho{opt['rho']:g}")
    if config["data"]["label_noise"]:
        words.append(f"noise{config['data']['label_noise']:g}")
    if config["data"]["noise"] != "symmetric":
        words.append(config["data"]["noise"])
    changes = _changes(config)
    if changes["sparsity"]["method"] != "none":
        words.append("{method}{level:g}".format(**changes["sparsity"]))
    if changes["linearized"]["mode"] != "none":
        words.append(changes["linearized"]["mode"])
    words.append(f"seed{config['seed']}")
    return "_".join(words) + "-" + digest(canonical(config))


def from_json(plain: Mapping[str, Any]) -> ConfigDict:
    """The inverse of what `config.json` keeps: a full config from its nested plain fields.

    Raises:
      UserError: a field that is unknown or of another type than the default.
    """
    from samop.models import MODELS

    section = plain.get("model") if isinstance(plain, Mapping) else None
    model = section.get("name") if isinstance(section, Mapping) else None
    if not isinstance(model, str) or model not in MODELS:
        raise UserError(f"model.name={model!r} is unknown; allowed: {', '.join(MODELS)}")
    workload = plain.get("workload", "classification")
    if workload not in TASKS:
        raise UserError(f"workload={workload!r} is unknown; allowed: {', '.join(TASKS)}")
    config = defaults(model, workload)
    allowed = flatten(config)
    for field, value in flatten(plain).items():
        if field not in allowed:
            if field.startswith("sweep."):
                continue
            raise UserError(f"config field {field!r} is unknown{nearest(field, allowed)}")
        try:
            put(config, field, _tuples(value))
        except TypeError:
            kind = type(allowed[field]).__name__
            raise UserError(f"{field}={value!r} should be of type {kind}") from None
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, (Mapping, ConfigDict)):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def to_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The whole config as plain JSON values, without the sweep's axes and where it is profiled."""
    left_out = ("sweep", "profile")  # of the command: who repeats a run wants no trace of it again
    plain = {key: _plain(value) for key, value in config.items() if key not in left_out}
    return {**plain, **_changes(config)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value
