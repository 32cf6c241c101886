"""Depth instead of width: what SAM gains as an MLP grows deeper. Digits.

python -m samop.main --config=configs/depth.py
python experiments/linearized.py

One to six hidden layers of 64, clean labels and half of them flipped, SGD and SAM at four ρ, eight
seeds. The paper (arXiv 2311.17539) says that scaling depth may show no benefit.
Arguments after the colon: smoke; seeds=8; epochs=60.
"""

from ml_collections import ConfigDict

from samop import config as configs


def get_config(arg: str = "") -> ConfigDict:
    args = configs.parse_arg(arg, {"seeds": 2, "epochs": 8}, seeds=8, epochs=60)
    config = configs.defaults("mlp")
    config.experiment = "depth"
    config.optimizer.update(lr=0.05, schedule="cosine", weight_decay=0.0)
    config.train.update(batch_size=100, epochs=args.epochs)
    config.sweep.hidden = tuple((64,) * layers for layers in (1, 2, 3, 4, 5, 6))
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5)
    config.sweep.label_noise = (0.0, 0.5)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "depth_smoke"
        config.sweep.hidden = ((64,), (64, 64, 64))
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
