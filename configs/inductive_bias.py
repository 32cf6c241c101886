"""Weak inductive bias: a small vision Transformer on images, with and without augmentation.

python -m samop.main --config=configs/inductive_bias.py
python experiments/regularization.py

Fashion-MNIST, 1,000 training images, patches of 7 × 7, two layers of size 8, 16, 32; random crops
and flips or none; decay 0 and .1 (AdamW's, decoupled); AdamW and SAM at four ρ, three seeds. Our
setting; the paper (arXiv 2311.17539) names ViT and MLP on CIFAR-10 as networks whose gain vanishes.
Arguments after the colon: smoke; seeds=3; epochs=30; width=32 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 2, "width": "16"}
    args = configs.parse_arg(arg, smoke, seeds=3, epochs=30, width="8+16+32")
    config = configs.defaults("vit")
    config.experiment = "inductive_bias"
    config.data.update(name="fashion_mnist", train_size=1000, validation=1000, test_size=1000)
    config.model.update(layers=2, patch=7, dropout=0.0)
    config.optimizer.update(base="adamw", lr=1e-3, schedule="cosine", warmup=0.1)
    config.train.update(batch_size=50, epochs=args.epochs)
    config.sweep.size = configs.parse_sizes(args.width)
    config.sweep.augment = ("none", "crop_flip")
    config.sweep.weight_decay = (0.0, 0.1)
    config.sweep.rho = (0.003, 0.01, 0.03, 0.1)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "inductive_bias_smoke"
        config.sweep.rho = (0.05,)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.size": config.sweep.size,
        "data.augment": config.sweep.augment,
        "optimizer.name": ("base", "sam"),
        "optimizer.weight_decay": config.sweep.weight_decay,
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
