"""Where SGD's and SAM's minima lie against the bounds of linear stability: parity of digits.

python -m samop.main --config=configs/digits_stability.py
python experiments/linear_stability.py --workdir=runs/digits_stability

The setting of the theory (arXiv 2311.17539): squared loss and a network that interpolates, one
example a step, constant rate, no momentum, no decay, unnormalised SAM. Data, network and numbers
are our choice: 100 digits with targets ±1, a tanh network 64-w-1, 2,000 epochs (200,000 steps) at
three rates, since minima are the closer to their bounds the larger the rate, and ρ = .4 of each:
in units of 1/η the bounds, which depend on ρ/η, are then the same. A row an epoch is kept. Two busy
CPU cores: 6 minutes; 3 of the 180 runs (SAM, 64 units, lr .08) diverge.
Arguments after the colon: smoke; seeds=10; epochs=2000; width=4+16+64 (a part of it).
"""

from ml_collections import ConfigDict

from samop import config as configs

RATES = (0.02, 0.04, 0.08)
RATIO = 0.4  # ρ/η, below the ½ up to which the paper's bounds are theorems


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 1000, "width": "16"}
    args = configs.parse_arg(arg, smoke, seeds=10, epochs=2000, width="4+16+64")
    config = configs.defaults("mlp")
    config.experiment = "digits_stability"
    config.workload = "regression"
    config.data.update(name="digits_parity", train_size=100, normalize="none")
    config.model.activation = "tanh"
    config.optimizer.update(
        momentum=0.0, weight_decay=0.0, schedule="constant", ascent="unnormalized"
    )
    config.train.update(epochs=args.epochs, batch_size=1, diagnostics_every=0)
    config.sweep.hidden = configs.parse_widths(args.width)
    config.sweep.lr = RATES
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "digits_stability_smoke"
        config.sweep.lr = RATES[:1]
    return config


def sweep(config: ConfigDict) -> list[dict[str, tuple]]:
    return [
        {
            "model.hidden": config.sweep.hidden,
            "optimizer.name": ("base", "sam"),
            "optimizer.lr": (lr,),
            "optimizer.rho": (round(RATIO * lr, 12),),
            "seed": tuple(range(config.sweep.seeds)),
        }
        for lr in config.sweep.lr
    ]
