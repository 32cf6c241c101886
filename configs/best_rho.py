"""The best ρ against width, and what is gained at a fixed and at the best one: Fashion-MNIST.

python -m samop.main --config=configs/best_rho.py
python experiments/best_rho.py

3,000 training images, half of their labels flipped or none, MLP of two hidden layers of 8 … 128,
SGD and SAM at ρ = .01 … .64 by factors of 2, eight seeds. Our setting; the paper's (arXiv
2311.17539) is ResNet-18 on CIFAR-10, whose best ρ grows from 4 to 256 filters: cifar_width.py with
--config.sweep.rho="(.01,.02,.04,.08,.16,.32)" on an accelerator.
Arguments after the colon: smoke; seeds=8; epochs=30; width=64-64 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n, n) for n in (8, 16, 32, 64, 128))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 5, "width": "8-8+32-32"}
    args = configs.parse_arg(arg, smoke, seeds=8, epochs=30, width="")
    config = configs.defaults("mlp")
    config.experiment = "best_rho"
    config.data.update(name="fashion_mnist", train_size=3000, validation=1000, test_size=2000)
    config.optimizer.update(lr=0.05, schedule="cosine", weight_decay=0.0)
    config.train.update(batch_size=100, epochs=args.epochs, diagnostics_every=1)
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
    config.sweep.label_noise = (0.0, 0.5)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "best_rho_smoke"
        config.sweep.rho = (0.04, 0.16)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "data.label_noise": config.sweep.label_noise,
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
