"""Linearised and lazy networks: does SAM's gain need features that are learned? Digits.

python -m samop.main --config=configs/linearized.py
python experiments/linearized.py

MLP of two hidden layers of 8, 32, 128: the network itself, its first-order expansion (by jvp), and
the lazy network α(f(w) − f(w₀)) with α = 10, whose rate is divided by α². The lazy network's ρ grid
holds the network's own and a tenth of it (ρ/α moves the outputs as far). Clean labels and half of
them flipped; SGD and SAM; eight seeds. The paper (arXiv 2311.17539) reports SAM more than 10 points
below SGD in the NTK regime. Arguments after the colon: smoke; seeds=8; epochs=60.
"""

from ml_collections import ConfigDict

from samop import config as configs

ALPHA = 10.0


def get_config(arg: str = "") -> ConfigDict:
    args = configs.parse_arg(arg, {"seeds": 1, "epochs": 8}, seeds=8, epochs=60)
    config = configs.defaults("mlp")
    config.experiment = "linearized"
    config.optimizer.update(lr=0.05, schedule="cosine", weight_decay=0.0)
    config.train.update(batch_size=100, epochs=args.epochs, label_parts=True)
    config.sweep.hidden = ((8, 8), (32, 32), (128, 128))
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
    config.sweep.lazy_rho = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.5, 1.0, 2.0, 4.0)
    config.sweep.label_noise = (0.0, 0.5)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "linearized_smoke"
        config.sweep.hidden = ((8, 8), (32, 32))
        config.sweep.rho, config.sweep.lazy_rho = (0.1,), (0.01, 0.1)
        config.sweep.label_noise = (0.5,)
    return config


def sweep(config: ConfigDict) -> list[dict[str, tuple]]:
    common = {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "data.label_noise": config.sweep.label_noise,
        "seed": tuple(range(config.sweep.seeds)),
    }
    lazy = {
        "linearized.mode": ("lazy",),
        "linearized.alpha": (ALPHA,),
        "optimizer.lr": (config.optimizer.lr / ALPHA**2,),
        "optimizer.rho": config.sweep.lazy_rho,
    }
    plain = {"linearized.mode": ("none", "jvp"), "optimizer.rho": config.sweep.rho}
    return [{**common, **plain}, {**common, **lazy}]
