"""Regularisation: does the gain need weight decay, and what does BatchNorm do to it? Digits.

python -m samop.main --config=configs/regularization.py
python experiments/regularization.py

MLP of two hidden layers of 16, 48, 144, with and without BatchNorm; decay 0, 5e-4, 5e-3; clean
labels and 40 % flipped; SGD and SAM at six ρ, chosen for each cell, twelve seeds. Best and last
epoch are both recorded: the former is early stopping. With BatchNorm the weights' norm may grow
without decay, so that a fixed ρ shrinks beside it: it is recorded. The paper's caveat (arXiv
2311.17539) is about ResNet-18 on CIFAR-10: cifar_width.py with --config.optimizer.weight_decay=0.
Arguments after the colon: smoke; seeds=12; epochs=60; width=64-64 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n, n) for n in (16, 48, 144))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 8, "width": "16-16"}
    args = configs.parse_arg(arg, smoke, seeds=12, epochs=60, width="")
    config = configs.defaults("mlp")
    config.experiment = "regularization"
    config.optimizer.update(lr=0.05, schedule="cosine")
    config.train.update(batch_size=100, epochs=args.epochs)
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.norm = ("none", "batch")
    config.sweep.weight_decay = (0.0, 5e-4, 5e-3)
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    config.sweep.label_noise = (0.0, 0.4)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "regularization_smoke"
        config.sweep.weight_decay = (0.0, 5e-3)
        config.sweep.rho = (0.1,)
        config.sweep.label_noise = (0.4,)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "model.norm": config.sweep.norm,
        "optimizer.name": ("base", "sam"),
        "data.label_noise": config.sweep.label_noise,
        "optimizer.weight_decay": config.sweep.weight_decay,
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
