"""What SAM gains over SGD as a two-layer ReLU student of a fixed teacher grows: regression.

python -m samop.main --config=configs/synthetic_width.py

Ten hidden sizes 100 … 1000 on 98 inputs: 100h + 1 parameters, so 1 … 10 ×10⁴, the paper's ladder
(arXiv 2311.17539). Its teacher, sample size and hyperparameters are not known to us; ours: a
teacher of 20 hidden units, 1,000/200/2,000 examples, Gaussian noise of deviation .3 on the
training targets (the clean ones have 1), squared loss ½(f − y)², batch 100, 100 epochs.
Arguments after the colon: smoke; cpu; seeds=5; epochs=100; width=100 (several joined by +). The
whole sweep takes two CPU cores three minutes, so `cpu` is all of it.
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = tuple((n,) for n in range(100, 1001, 100))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 10, "width": "100+500"}
    args = configs.parse_arg(arg, smoke, {}, seeds=5, epochs=100, width="")
    config = configs.defaults("mlp")
    config.experiment = "synthetic_width"
    config.workload = "regression"
    config.data.update(name="synthetic", validation=200, label_noise=0.3, normalize="none")
    config.optimizer.update(lr=0.01, schedule="cosine")
    config.train.update(epochs=args.epochs, batch_size=100)
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.05, 0.1, 0.2, 0.5, 1.0)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "synthetic_width_smoke"
        config.sweep.rho = (0.2,)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
