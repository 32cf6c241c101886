"""What SAM gains over SGD as ResNet-18 on CIFAR-10 grows: the paper's third workload.

python -m samop.main --config=configs/cifar_width.py

Filters 4 … 256 and hyperparameters of the released configs (arXiv 2311.17539): rate .1,
momentum .9, batch 128, decay 5e-4, 200 epochs, rate × .1 at 50/75 %, zero-pad-4 random crop and
flip, per-channel standardisation. The ρ grid, three seeds and 5,000 validation examples held out
of the training part are our choice; the released configs use ρ = .05 and choose nothing.
Arguments after the colon: smoke; cpu; seeds=3; epochs=200; width=64 (several joined by +).
A sweep for an accelerator. `cpu` is what two CPU cores can do: filters 2, 4, 8 on 3,000 training
images, 6 epochs in batches of 64, SGD and SAM at the released ρ = .05 and at half and twice that,
three seeds; 1,000 images validate and 2,000 test.
"""

from ml_collections import ConfigDict

from samop import config as configs

WIDTHS = (4, 8, 16, 32, 64, 128, 256)


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 2, "width": "4+8"}
    cpu = {"epochs": 6, "width": "2+4+8"}
    args = configs.parse_arg(arg, smoke, cpu, seeds=3, epochs=200, width="")
    config = configs.defaults("resnet18")
    config.experiment = "cifar_width"
    config.data.name = "cifar10"
    config.data.validation = 5000
    config.data.normalize = "standardize"
    config.data.augment = "crop_flip"
    config.optimizer.weight_decay = 5e-4
    config.train.batch_size = 128
    config.train.epochs = args.epochs
    config.sweep.filters = configs.parse_sizes(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    if args.cpu:
        config.experiment = "cifar_width_cpu"
        config.sweep.rho = (0.025, 0.05, 0.1)
        config.train.batch_size = 64
        config.data.update(train_size=3000, validation=1000, test_size=2000)
    if args.smoke:
        config.experiment = "cifar_width_smoke"
        config.sweep.rho = (0.05,)
        config.data.update(train_size=640, validation=500, test_size=500)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.filters": config.sweep.filters,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
