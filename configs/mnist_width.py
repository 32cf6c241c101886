"""What SAM gains over SGD as an MLP on MNIST grows: the paper's second workload.

python -m samop.main --config=configs/mnist_width.py

Widths [75, 25] to [3000, 1000] and hyperparameters of the released configs (arXiv 2311.17539):
rate .1, momentum .9, batch 128, decay 1e-4, 100 epochs, rate × .1 at 25/50/75 %, inputs / 255.
The ρ grid, three seeds and 5,000 validation examples held out of the training part are our
choice; the released configs use ρ = .05 and choose nothing.
Arguments after the colon: smoke; cpu; seeds=3; epochs=100; width=300-100 (several joined by +).
`cpu` leaves out the two widest, which are for an accelerator.
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = ((75, 25), (150, 50), (300, 100), (1200, 400), (3000, 1000))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 1, "width": "75-25+300-100"}
    cpu = {"width": "75-25+150-50+300-100"}
    args = configs.parse_arg(arg, smoke, cpu, seeds=3, epochs=100, width="")
    config = configs.defaults("mlp")
    config.experiment = "mnist_width"
    config.data.name = "mnist"
    config.data.validation = 5000
    config.optimizer.milestones = (0.25, 0.5, 0.75)
    config.train.batch_size = 128
    config.train.epochs = args.epochs
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.02, 0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "mnist_width_smoke"
        config.sweep.rho = (0.05,)
        config.optimizer.schedule = "constant"  # the first of 100 epochs, not 100 in one
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
