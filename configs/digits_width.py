"""What SAM gains over SGD as a two-layer MLP grows, on scikit-learn's digits, clean and noisy.

python -m samop.main --config=configs/digits_width.py

480 runs: six widths × {clean, 40 % symmetric label noise} × {SGD, SAM at four ρ} × eight seeds.
Arguments after the colon: smoke; seeds=8; epochs=60; width=64-64 (several joined by +).
The setting is ours: small enough for a laptop, and it shows what the paper (arXiv 2311.17539)
reports on larger data. 1,797 images in fixed parts of 1000/297/500.
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n, n) for n in (4, 8, 16, 32, 64, 128))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 10, "width": "8-8+32-32"}
    args = configs.parse_arg(arg, smoke, seeds=8, epochs=60, width="")
    config = configs.defaults("mlp")
    config.experiment = "digits_width"
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5)
    config.sweep.label_noise = (0.0, 0.4)
    config.sweep.seeds = args.seeds
    config.train.epochs = args.epochs
    if args.smoke:
        config.experiment = "digits_width_smoke"
        config.sweep.rho = (0.1,)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "data.label_noise": config.sweep.label_noise,
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
