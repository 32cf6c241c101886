"""Label noise: the gain against width at rates 0, .25, .5, .75, at the last and the best epoch.

python -m samop.main --config=configs/label_noise.py
python experiments/label_noise.py

scikit-learn's digits, MLP of two hidden layers of 8 … 256, SGD and SAM at four ρ, eight seeds.
Training labels alone are flipped, to another class, the same ones for all runs of a seed; each
epoch records how the examples with true and with flipped labels are fitted. Our setting: the
paper's (arXiv 2311.17539) is ResNet-18 on CIFAR-10, see cifar_label_noise.py.
Arguments after the colon: smoke; seeds=8; epochs=60; width=64-64 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n, n) for n in (8, 16, 32, 64, 128, 256))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 10, "width": "8-8+32-32"}
    args = configs.parse_arg(arg, smoke, seeds=8, epochs=60, width="")
    config = configs.defaults("mlp")
    config.experiment = "label_noise"
    config.optimizer.update(lr=0.05, schedule="cosine", weight_decay=0.0)
    config.train.update(batch_size=100, epochs=args.epochs, label_parts=True)
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5)
    config.sweep.label_noise = (0.0, 0.25, 0.5, 0.75)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "label_noise_smoke"
        config.sweep.rho = (0.1,)
        config.sweep.label_noise = (0.0, 0.5)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "data.label_noise": config.sweep.label_noise,
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
