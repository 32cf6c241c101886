"""What SAM gains over SGD as ResNet-18 on CIFAR-10 grows, by how wrong its training labels are.

python -m samop.main --config=configs/cifar_label_noise.py

Filters 4 … 128 × {clean, 25, 50, 75 % symmetric noise, people's labels: aggregate (9 % wrong) and
worst (40 %)} × {SGD, SAM at three ρ} × three seeds: 432 runs for an accelerator. Hyperparameters
of the released CIFAR-10 config (arXiv 2311.17539), as in `cifar_width`: rate .1, momentum .9,
batch 128, decay 5e-4, 200 epochs, rate × .1 at 50/75 %, zero-pad-4 random crop and flip,
per-channel standardisation. People's labels are CIFAR-N's (arXiv 2110.12088); the levels of noise,
the ρ grid, three seeds and 5,000 validation examples are our choice. Validation and test labels are
clean, so that ρ and the best epoch are chosen on what noise would not leave: real noisy data seldom
have such labels. Not run yet.
Arguments after the colon: smoke; seeds=3; epochs=200; width=64 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = (4, 8, 16, 32, 64, 128)


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 1, "width": "2"}
    args = configs.parse_arg(arg, smoke, seeds=3, epochs=200, width="")
    config = configs.defaults("resnet18")
    config.experiment = "cifar_label_noise"
    config.data.name = "cifar10"
    config.data.validation = 5000
    config.data.normalize = "standardize"
    config.data.augment = "crop_flip"
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 128
    config.train.epochs = args.epochs
    config.sweep.filters = configs.parse_sizes(args.width) if args.width else WIDTHS
    config.sweep.symmetric = (0.0, 0.25, 0.5, 0.75)
    config.sweep.human = ("aggregate", "worst")
    config.sweep.rho = (0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "cifar_label_noise_smoke"
        config.sweep.symmetric = (0.0, 0.5)
        config.sweep.human = ("worst",)
        config.sweep.rho = (0.05,)
        config.data.update(train_size=640, validation=500, test_size=500)
    return config


def sweep(config: ConfigDict) -> tuple[dict[str, tuple], ...]:
    rest = {
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
    # Two products: symmetric noise on top of people's labels is refused.
    return tuple(
        {"model.filters": config.sweep.filters, **noise, **rest}
        for noise in (
            {"data.label_noise": config.sweep.symmetric},
            {"data.noise": config.sweep.human},
        )
    )
