"""Sparsity: what SAM gains in large networks pruned at initialisation, and in small dense ones.

python -m samop.main --config=configs/sparsity.py
python experiments/sparsity.py

Fashion-MNIST with clean labels, 2,000 training images, one hidden layer. 512 units with 50, 90 and
95 % of the weights pruned: at random, by magnitude, by SNIP; against dense networks of as many
parameters (256, 51, 26 units) and of 512. SGD and SAM at three ρ, five seeds. Our setting; the
paper (arXiv 2311.17539) prunes ResNet-18 on CIFAR-10: cifar_width.py with
--config.sparsity.method=snip --config.sparsity.level=.94 on an accelerator.
Arguments after the colon: smoke; seeds=5; epochs=40.
"""

from ml_collections import ConfigDict

from samop import config as configs


def get_config(arg: str = "") -> ConfigDict:
    args = configs.parse_arg(arg, {"seeds": 2, "epochs": 4}, seeds=5, epochs=40)
    config = configs.defaults("mlp")
    config.experiment = "sparsity"
    config.data.update(name="fashion_mnist", train_size=2000, validation=1000, test_size=2000)
    config.optimizer.update(lr=0.05, schedule="cosine", weight_decay=0.0)
    config.train.update(batch_size=100, epochs=args.epochs)
    config.sweep.hidden = ((26,), (51,), (256,), (512,))  # the last is pruned
    config.sweep.method = ("random", "magnitude", "snip")
    config.sweep.level = (0.5, 0.9, 0.95)
    config.sweep.rho = (0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "sparsity_smoke"
        config.sweep.hidden = ((6,), (64,))
        config.sweep.level = (0.9,)
        config.sweep.rho = (0.1,)
    return config


def sweep(config: ConfigDict) -> list[dict[str, tuple]]:
    common = {
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
    pruned = {
        "model.hidden": config.sweep.hidden[-1:],
        "sparsity.method": config.sweep.method,
        "sparsity.level": config.sweep.level,
    }
    return [{"model.hidden": config.sweep.hidden, **common}, {**pruned, **common}]
