"""What SAM gains over SGD as an LSTM that reads sentences grows: the paper's sixth workload.

python -m samop.main --config=configs/sst2_width.py
python -m samop.main --config=configs/sst2_width.py:cpu

SST-2 (GLUE's, through tensorflow-datasets; `data=sst2`), or `data=movie_snippets`: 10,568
movie-review snippets rated by people, which stand in for it under their own name.
"""

from ml_collections import ConfigDict

from samop import config as configs

# (embed, hidden): 300u and 298u with u = ⅛ ¼ ½ 1 1.5 2, cut to whole numbers.
WIDTHS = ((37, 37), (75, 74), (150, 149), (300, 298), (450, 447), (600, 596))


def get_config(arg: str = "") -> ConfigDict:
    stand_in = "movie_snippets"
    smoke = {"data": stand_in, "seeds": 1, "epochs": 1, "width": "75-74"}
    cpu = {"data": stand_in, "epochs": 8, "width": "37-37+75-74+150-149"}
    args = configs.parse_arg(arg, smoke, cpu, data="sst2", seeds=3, epochs=10, width="")
    config = configs.defaults("lstm", "sentiment")
    config.experiment = f"{args.data}_width"
    config.data.update(name=args.data, validation=1000, normalize="none")
    config.optimizer.update(weight_decay=3e-6, schedule="constant")
    config.train.update(epochs=args.epochs, batch_size=64, eval_batch_size=500)
    config.sweep.width = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.02, 0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    if args.cpu:
        config.sweep.rho = (0.05, 0.1)
    if args.smoke:
        config.experiment += "_smoke"
        config.data.train_size = 2000
        config.sweep.rho = (0.05,)
    return config


def sweep(config: ConfigDict) -> list[dict[str, tuple]]:
    return [
        {
            "model.embed": (embed,),
            "model.hidden": (hidden,),
            "optimizer.name": ("base", "sam"),
            "optimizer.rho": config.sweep.rho,
            "seed": tuple(range(config.sweep.seeds)),
        }
        for embed, hidden in config.sweep.width
    ]
