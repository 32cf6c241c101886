"""Curvature across widths to the fourth moment: λ_max, trace, s₂, s₃, s₄ of SGD and SAM. Digits.

python -m samop.main --config=configs/digits_moments.py

MLP of two hidden layers of 8, 32, 128 as in digits_curvature.py, which has six widths and s₂ alone;
clean labels and 40 % flipped, SGD and SAM at three ρ, eight seeds; measured every fifth of training
on 300 training examples, by the Hessian and the Gauss–Newton matrix, and compared at the last epoch
and where the training losses are equal.
Arguments after the colon: smoke; seeds=8; epochs=60; width=64-64 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n, n) for n in (8, 32, 128))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 5, "width": "8-8"}
    args = configs.parse_arg(arg, smoke, seeds=8, epochs=60, width="")
    config = configs.defaults("mlp")
    config.experiment = "digits_moments"
    config.train.epochs = args.epochs
    config.curvature.every = "20%"
    config.curvature.what = ("eigenvalues", "trace", "moments", "ggn")
    config.curvature.orders = (2, 3, 4)
    config.curvature.examples = 300
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.1, 0.2, 0.5)
    config.sweep.label_noise = (0.0, 0.4)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "digits_moments_smoke"
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
