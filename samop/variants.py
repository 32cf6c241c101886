"""The SAM family as a config knows it: names, their fields, what they cost. No jax.

The equations are in `samop.transforms`; this table says which fields of `config.optimizer` each
variant reads, so that a field which would be ignored can be refused, and equal runs be told.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

UNSET = -1  # of a variant's own field in a config: the variant's default

# Fields of `config.optimizer` that describe the perturbation, with what a config starts from.
FIELDS: dict[str, Any] = {
    "rho": 0.05,
    "rho_schedule": "constant",  # lr: linear in the rate, from rho down to rho_end
    "rho_end": 0.0,  # ρ where the rate is 0, under rho_schedule="lr"
    "ascent": "normalized",
    "ascent_steps": 1,
    "eta": -1.0,  # of the adaptive ascent
    "mask": "all",  # which parameters are perturbed: all, norm_layers, no_biases
    "decay_in_ascent": False,  # whether λw takes part in the ascent direction
    "start": 0.0,  # SAM is active in this window, in shares of training
    "end": 1.0,
    "m": 0,  # examples per ascent group (m-SAM); 0: the whole batch
    "m_by": "scan",  # groups one after another (little memory), or at once: vmap
    # Of single variants; -1 stands for the variant's default.
    "alpha": -1.0,
    "k": -1,
    "sigma": -1.0,
    "lam": -1.0,
    "theta": -1.0,
    "beta": -1.0,
    "gamma": -1.0,
    "decoupled": False,
    "reverse": False,
}
ASCENTS = ("normalized", "unnormalized", "adaptive", "sign", "layerwise", "random")
MASKS = ("all", "norm_layers", "no_biases")
RHO_SCHEDULES = ("constant", "lr")
GROUPINGS = ("scan", "vmap")

RADIUS = ("rho", "rho_schedule", "rho_end", "mask")
SECOND = (*RADIUS, "decay_in_ascent", "start", "end", "m", "m_by")  # two gradients a step
ANY_ASCENT = (*SECOND, "ascent", "ascent_steps", "eta")


class Variant(NamedTuple):
    """One name that `config.optimizer.name` takes.

    Attributes:
      arxiv: identifier of its paper; empty for the base optimiser.
      shared: fields that it reads and that others read too.
      own: its own fields with their defaults.
    """

    arxiv: str
    shared: tuple[str, ...]
    own: Mapping[str, Any]

    @property
    def fields(self) -> frozenset[str]:
        """All fields of the perturbation that it reads."""
        return frozenset(self.shared) | frozenset(self.own)


VARIANTS: dict[str, Variant] = {
    "base": Variant("", (), {}),
    "sam": Variant("2010.01412", ANY_ASCENT, {}),
    "asam": Variant("2102.11600", (*SECOND, "ascent_steps"), {"eta": 0.01}),
    "gsam": Variant("2203.08065", ANY_ASCENT, {"alpha": 0.4}),
    "looksam": Variant("2203.02714", ANY_ASCENT, {"k": 5, "alpha": 0.7}),
    "fsam": Variant("2403.12350", SECOND, {"sigma": 1.0, "lam": 0.9}),
    "vasso": Variant("2509.02433", SECOND, {"theta": 0.4}),
    "msam": Variant("2401.12033", RADIUS, {}),
    "esam": Variant("2110.03141", SECOND, {"beta": 0.6}),
    "wsam": Variant("2305.15817", ANY_ASCENT, {"gamma": 0.9, "decoupled": False}),
    "gnp": Variant("2202.03599", ANY_ASCENT, {"alpha": 0.8}),
    "stablesam": Variant("2401.07250", ANY_ASCENT, {"reverse": False}),
}
EVALUATE_ELSEWHERE = ("msam",)  # their parameters while training are perturbed ones
ETA = 0.01  # of an adaptive ascent where nothing is said


def resolved(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The perturbation's fields as the variant reads them.

    Defaults of the variant are filled in; fields that it does not read have the values of
    `FIELDS`, so that two configs which say the same are equal.
    """
    variant = VARIANTS[optimizer["name"]]
    fields = dict(FIELDS)
    for name in variant.fields:
        value = optimizer.get(name, FIELDS[name])
        unset = value == UNSET and FIELDS[name] == UNSET
        fields[name] = variant.own.get(name, value) if unset else value
    if optimizer["name"] == "base":
        fields["rho"] = 0.0
    if fields["ascent"] == "adaptive":
        fields["eta"] = ETA if fields["eta"] == UNSET else fields["eta"]
    elif optimizer["name"] != "asam":
        fields["eta"] = FIELDS["eta"]
    if fields["rho_schedule"] == "constant":
        fields["rho_end"] = FIELDS["rho_end"]
    if not fields["m"]:
        fields["m_by"] = FIELDS["m_by"]
    return fields


def unread(optimizer: Mapping[str, Any]) -> dict[str, str]:
    """Fields that are set but that the variant does not read, each with the reason."""
    name = optimizer["name"]
    fields = VARIANTS[name].fields
    ignored = {}
    for field, default in FIELDS.items():
        if optimizer.get(field, default) == default or field == "rho":
            continue
        if field not in fields:
            owners = [other for other, v in VARIANTS.items() if field in v.fields]
            ignored[field] = f"optimizer.name={name!r} does not read it; it is for " + (
                ", ".join(owners)
            )
    open_ascent = "ascent" in fields and optimizer.get("ascent") != "adaptive"
    if open_ascent and optimizer.get("eta", UNSET) != UNSET:
        ignored["eta"] = "it is for optimizer.ascent='adaptive'"
    if optimizer.get("rho_end") and optimizer.get("rho_schedule") == "constant":
        ignored.setdefault("rho_end", "it is for optimizer.rho_schedule='lr'")
    if optimizer.get("m_by") == "vmap" and not optimizer.get("m"):
        ignored.setdefault("m_by", "it says how groups of optimizer.m examples are computed")
    return ignored


def cost(optimizer: Mapping[str, Any]) -> float:
    """Gradient evaluations of a step, averaged over training."""
    name = optimizer["name"]
    if name in ("base", "msam"):
        return 1.0
    fields = resolved(optimizer)
    extra = fields["ascent_steps"] / (fields["k"] if name == "looksam" else 1)
    return 1.0 + extra * (fields["end"] - fields["start"])


# How tables and figures call them; the base optimiser is called by its own name.
BASES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
LABELS: dict[str, str] = {
    "sam": "SAM",
    "asam": "ASAM",
    "gsam": "GSAM",
    "looksam": "LookSAM",
    "fsam": "F-SAM",
    "vasso": "VASSO",
    "msam": "MSAM",
    "esam": "ESAM",
    "wsam": "WSAM",
    "gnp": "GNP",
    "stablesam": "StableSAM",
}


def base_label(base: str) -> str:
    """How people call a base optimiser: "AdamW"; one of another version in capitals."""
    return BASES.get(base, base.upper())
