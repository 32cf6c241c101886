"""Where SGD's and SAM's minima lie against the bounds of linear stability: parity of digits.

python -m samop.main --config=configs/digits_stability.py
python experiments/linear_stability.py --workdir=runs/digits_stability

The setting of the theory (arXiv 2311.17539): squared loss and a network that interpolates, one
example a step, constant rate, no momentum, no decay, unnormalised SAM. Data, network and numbers
are our choice: 100 digits with targets ±1, a tanh network 64-w-1, ρ = .008, 1,500 epochs (150,000
steps), and beside lr = .02 a second rate, since a minimum is the closer to its bounds the larger
the rate. A row an epoch is kept.
Arguments after the colon: smoke; seeds=5; epochs=1500; width=4 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

RATES = (0.02, 0.04)


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 100, "width": "16"}
    args = configs.parse_arg(arg, smoke, seeds=5, epochs=1500, width="4+16+64")
    config = configs.defaults("mlp")
    config.experiment = "digits_stability"
    config.workload = "regression"
    config.data.update(name="digits_parity", train_size=100, normalize="none")
    config.model.activation = "tanh"
    config.optimizer.update(
        momentum=0.0, weight_decay=0.0, schedule="constant", ascent="unnormalized", rho=0.008
    )
    config.train.update(epochs=args.epochs, batch_size=1, diagnostics_every=0)
    config.sweep.hidden = configs.parse_widths(args.width)
    config.sweep.lr = RATES
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "digits_stability_smoke"
        config.sweep.lr = RATES[:1]
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "optimizer.lr": config.sweep.lr,
        "seed": tuple(range(config.sweep.seeds)),
    }
