"""How flat the minima of SGD and SAM are on MNIST as an MLP grows: λ_max, trace and s₂.

python -m samop.main --config=configs/mnist_curvature.py

The setting of mnist_width.py in 20 epochs, three widths, SGD and SAM at three ρ, three seeds:
36 runs, measured every fifth of training on 500 of their training examples.
Two busy CPU cores: 12 minutes. λ_max SAM / SGD at 300-100: 0.72 [0.52, 0.99]; no trend with width.
Arguments after the colon: smoke; seeds=3; epochs=20; width=300-100 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = ((75, 25), (150, 50), (300, 100))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 1, "width": "75-25"}
    args = configs.parse_arg(arg, smoke, seeds=3, epochs=20, width="")
    config = configs.defaults("mlp")
    config.experiment = "mnist_curvature"
    config.data.name = "mnist"
    config.data.validation = 5000
    config.optimizer.milestones = (0.25, 0.5, 0.75)
    config.train.batch_size = 128
    config.train.epochs = args.epochs
    config.curvature.every = "20%"
    config.curvature.what_end = ("negative", "ggn", "density")
    config.curvature.examples = 500
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "mnist_curvature_smoke"
        config.sweep.rho = (0.05,)
        config.optimizer.schedule = "constant"  # the first of 20 epochs, not 20 in one
        config.curvature.every = "50%"
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
