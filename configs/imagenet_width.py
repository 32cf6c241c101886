"""What SAM gains over SGD as ResNet-50 on ImageNet grows: the paper's fourth workload.

python -m samop.main --config=configs/imagenet_width.py

Filters 16 … 64 and hyperparameters of the released configs (arXiv 2311.17539): rate .2, momentum
.9, batch 512, decay 1e-4, 90 epochs. They name a step schedule without saying where it steps:
here at 30, 60 and 80 epochs. Beside it they have a cosine with 5,000 steps of warm-up, which
`schedule=cosine` gives as that share of training, whatever its length. 224 × 224 pixels,
random-resized crop and flip are the field's. The ρ grid, three seeds and 10,000 validation photos
held out of the training part are our choice; ImageNet's own validation part is the test part.
Photos are streamed, so a run that is resumed begins the epoch anew that it was in, and each run
trains on one device so far.

Where ImageNet cannot be had, `data=cifar10` stands in for it: small images held in memory and made
larger, a table and a figure under CIFAR-10's name. `data=imagenette` has ten of the classes.
`data=imagenet_photos` are 20 photos, to try decoding and streaming: with `smoke` a network
memorises them, and validation and test are those same photos.

`cpu` is a sweep for two CPU cores, which take half an hour: CIFAR-10 at 64 × 64, 4,000 training
images, 4, 8 and 16 filters, batch 32, rate .1, 4 epochs, crops of at least .35 of the image, the
released ρ = .05 alone; 500 images validate and 2,000 test.
Arguments after the colon: smoke; cpu; data=imagenet2012; schedule=step; seeds=3; epochs=90;
width=64 (several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs
from samop.errors import UserError

WIDTHS = (16, 32, 48, 64)
DATA = ("imagenet2012", "imagenette", "cifar10", "imagenet_photos")
WARMUP = 5000 / (90 * (1_271_167 // 512))  # of all updates


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 2, "width": "4+8", "data": "cifar10"}
    cpu = {"seeds": 3, "epochs": 4, "width": "4+8+16", "data": "cifar10"}
    known = {"seeds": 3, "epochs": 90, "width": "", "data": "imagenet2012", "schedule": "step"}
    args = configs.parse_arg(arg, smoke, cpu, **known)
    config = configs.defaults("resnet50", "imagenet")
    config.experiment = f"{args.data}_resnet50_width"
    config.data.update(validation=10_000, normalize="standardize", augment="resized_crop")
    config.optimizer.lr = 0.2
    config.optimizer.milestones = (1 / 3, 2 / 3, 8 / 9)
    config.train.update(batch_size=512, eval_batch_size=500, epochs=args.epochs)
    config.sweep.filters = configs.parse_sizes(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    _data(config, args.data)
    _schedule(config, args.schedule)
    if args.cpu:
        if args.data != "cifar10":
            raise UserError(f"data={args.data!r} is too much for cpu: use data=cifar10, or smoke")
        config.experiment += "_cpu"
        config.task.crop_area = 0.35
        config.data.update(train_size=4000, validation=500, test_size=2000)
        config.sweep.rho = (0.05,)
        config.optimizer.lr = 0.1
        config.train.batch_size = 32
    if args.smoke:
        config.experiment += "_smoke"
        config.sweep.rho = (0.05,)
        config.train.diagnostics_every = 0  # measuring takes as long to compile as training
        _smoke(config)
    return config


def _data(config: ConfigDict, name: str) -> None:
    if name not in DATA:
        raise UserError(f"data={name!r} is not allowed; allowed: {', '.join(DATA)}")
    config.data.name = name
    if name == "imagenette":
        config.data.validation = 1000
        config.train.batch_size = 128
    elif name == "cifar10":
        config.data.validation = 5000
        config.task.image_size = 64
        config.train.batch_size = 128
    elif name == "imagenet_photos":
        config.data.validation = 20
        config.train.batch_size = 20


def _schedule(config: ConfigDict, name: str) -> None:
    if name not in ("step", "cosine"):
        raise UserError(f"schedule={name!r} is not allowed; allowed: step, cosine")
    config.optimizer.schedule = name
    if name == "cosine":
        config.optimizer.warmup = WARMUP


def _smoke(config: ConfigDict) -> None:
    """Small enough to end within two minutes; the photos long enough to be memorised."""
    if config.data.name == "imagenet_photos":
        config.task.update(image_size=64, crop_area=0.5)
        config.sweep.filters = (8,)
        config.optimizer.lr = 0.1
        config.train.update(batch_size=10, epochs=40)
    else:
        config.task.image_size = 32
        config.data.update(train_size=640, validation=500, test_size=500)
        config.train.batch_size = 64


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.filters": config.sweep.filters,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
