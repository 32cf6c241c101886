"""Five variants of SAM against SGD at equal compute as an MLP grows, on scikit-learn's digits.

python -m samop.main --config=configs/digits_variants.py

2,976 runs: six widths × {clean, 40 % symmetric label noise} × (SGD and SAM, ASAM, GSAM, LookSAM,
Momentum-SAM, each at six ρ of its own) × eight seeds. Every run has as many gradient evaluations
as SGD in 120 epochs: SAM, ASAM and GSAM train for 60, LookSAM (k = 5) for 100, Momentum-SAM for
120.
Arguments after the colon: smoke; seeds=8; epochs=120; width=64-64 (several joined by +).
The setting is ours, as that of digits_width.py.
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n, n) for n in (4, 8, 16, 32, 64, 128))
RHOS = {
    "sam": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "asam": (0.1, 0.2, 0.5, 1.0, 2.0, 4.0),
    "gsam": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    "looksam": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "msam": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
}


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 12, "width": "8-8+32-32"}
    args = configs.parse_arg(arg, smoke, seeds=8, epochs=120, width="")
    config = configs.defaults("mlp")
    config.experiment = "digits_variants"
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.label_noise = (0.4,) if args.smoke else (0.0, 0.4)
    config.sweep.seeds = args.seeds
    config.sweep.rho = {name: rhos[3:4] if args.smoke else rhos for name, rhos in RHOS.items()}
    config.train.update(epochs=args.epochs, budget="grad_evals")
    if args.smoke:
        config.experiment = "digits_variants_smoke"
    return config


def sweep(config: ConfigDict) -> list[dict[str, tuple]]:
    shared = {
        "model.hidden": config.sweep.hidden,
        "data.label_noise": config.sweep.label_noise,
        "seed": tuple(range(config.sweep.seeds)),
    }
    products = [{"optimizer.name": ("base",), **shared}]
    for name, rhos in config.sweep.rho.items():
        products.append({"optimizer.name": (name,), "optimizer.rho": rhos, **shared})
    return products
