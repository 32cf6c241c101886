"""How flat the minima of SGD and SAM are as a network grows: λ_max, trace and s₂ on digits.

python -m samop.main --config=configs/digits_curvature.py

The 480 runs of digits_width.py, measured every tenth of training on 500 of their training examples.
Two busy CPU cores: 19 minutes. λ_max SAM / SGD at 128-128: 0.11 [0.08, 0.15] with clean labels,
0.11 [0.10, 0.13] with noise (8 seeds, ρ chosen on validation; README, Curvature).
Arguments after the colon: smoke; seeds=8; epochs=60; width=64-64 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n, n) for n in (4, 8, 16, 32, 64, 128))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 10, "width": "8-8+32-32"}
    args = configs.parse_arg(arg, smoke, seeds=8, epochs=60, width="")
    config = configs.defaults("mlp")
    config.experiment = "digits_curvature"
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5)
    config.sweep.label_noise = (0.0, 0.4)
    config.sweep.seeds = args.seeds
    config.train.epochs = args.epochs
    config.curvature.every = "10%"
    config.curvature.what_end = ("negative", "ggn", "density")
    config.curvature.examples = 500
    if args.smoke:
        config.experiment = "digits_curvature_smoke"
        config.sweep.rho = (0.1,)
        config.curvature.every = "50%"
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "data.label_noise": config.sweep.label_noise,
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
