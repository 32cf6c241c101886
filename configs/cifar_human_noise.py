"""What SAM gains over SGD as an MLP on CIFAR-10 grows, on clean labels and on people's worst.

python -m samop.main --config=configs/cifar_human_noise.py
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = ((16,), (64,), (256,))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 2, "width": "16"}
    args = configs.parse_arg(arg, smoke, seeds=5, epochs=12, width="")
    config = configs.defaults("mlp")
    config.experiment = "cifar_human_noise"
    config.data.update(
        name="cifar10",
        validation=1000,
        train_size=4000,
        test_size=2000,
        normalize="standardize",
    )
    config.optimizer.lr = 0.01
    config.train.epochs = args.epochs
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.noise = ("symmetric", "worst")
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "cifar_human_noise_smoke"
        config.sweep.rho = (0.1,)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "data.noise": config.sweep.noise,
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
