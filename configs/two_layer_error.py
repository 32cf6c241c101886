"""The test error ε of a two-layer ReLU network against its width M, under Adam and under SAM.

python -m samop.main --config=configs/two_layer_error.py

The paper (arXiv 2311.17539) states that a SAM-trained two-layer ReLU network reaches error ε with
M ∝ 1/ε; `experiments/two_layer_error.py` fits the exponent. The setting is ours: a teacher of 2,000
hidden units on 8 inputs, 8,000/1,000/10,000 examples without noise, squared loss ½(f − y)², M = 4 …
256 by factors of 2 (10M + 1 parameters), Adam with a cosine from .01, batch 100, 100 epochs, SAM at
ρ = .01 and .05, no decay. The error of one optimiser at its own ρ is wanted, not a tuned gain.
Arguments after the colon: smoke; seeds=8; epochs=100; width=16 (several joined by +);
examples=8000 or 64000, which tells what few examples do to the exponent from what width does:
`:examples=64000,epochs=12,seeds=5` takes about as many steps as the sweep above.
"""

from ml_collections import ConfigDict

from samop import config as configs
from samop.errors import UserError

DATA = {8000: "relu_teacher", 64000: "relu_teacher_64k"}
WIDTHS = tuple((n,) for n in (4, 8, 16, 32, 64, 128, 256))


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 2, "epochs": 4, "width": "4+8+16"}
    args = configs.parse_arg(arg, smoke, seeds=8, epochs=100, width="", examples=8000)
    if args.examples not in DATA:
        raise UserError(f"examples={args.examples} is not allowed; allowed: 8000, 64000")
    config = configs.defaults("mlp")
    config.experiment = "two_layer_error"
    config.workload = "regression"
    config.data.update(name=DATA[args.examples], validation=1000, normalize="none")
    config.optimizer.update(base="adam", lr=0.01, schedule="cosine", weight_decay=0.0)
    config.train.update(epochs=args.epochs, batch_size=100, eval_batch_size=10_000)
    config.sweep.hidden = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.01, 0.05)
    config.sweep.seeds = args.seeds
    if args.smoke:
        config.experiment = "two_layer_error_smoke"
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.hidden": config.sweep.hidden,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
