"""What SAM gains over SGD as an LSTM that reads sentences grows: the paper's sixth workload.

python -m samop.main --config=configs/sst2_width.py
python -m samop.main --config=configs/sst2_width.py:cpu

The paper's widths (arXiv 2311.17539; its configs for this workload are not public) are read off its
figure, .5 to 15.1 M parameters: embeddings of 300u and hidden states of about 298u, u = ⅛ … 2, with
a vocabulary of about 13,400 words, SST-2's. Rate .1, momentum .9, decay 3e-6, batch 64, 10 epochs,
dropout .5, a tenth of the words dropped, at most 60 words, those that training holds three times:
of Flax's sst2 example, on which the paper's workload is evidently built. Ours: the ρ grid, three
seeds, how words are told apart (samop.data.sentiment), no marks of beginning and end.

SST-2 is GLUE's, through tensorflow-datasets. The labels of its test part are not published, so its
validation part (872 sentences) is the test part here, and 1,000 validation examples are held out of
the training part, whose examples are phrases of the same sentences: what is chosen on them is
chosen on near relatives of what was trained on.

`data=movie_snippets` stands in for it, under its own name: 10,568 snippets of reviews that people
rated; a bag of words reaches 77 % there (experiments/baselines/sentiment.py). `cpu` is a sweep of
our own on it: hidden states of 18, 37 and 74, dropout .2, batch 16, a rate of .3 that falls
linearly to 0 in 6 epochs.
Arguments after the colon: smoke; cpu; data=sst2; seeds=3; epochs=10; width=300-298 (embedding and
hidden, several joined by +).
"""

from ml_collections import ConfigDict

from samop import config as configs

# (embed, hidden): 300u and 298u with u = ⅛ ¼ ½ 1 1.5 2, cut to whole numbers.
WIDTHS = ((37, 37), (75, 74), (150, 149), (300, 298), (450, 447), (600, 596))


def get_config(arg: str = "") -> ConfigDict:
    stand_in = "movie_snippets"
    smoke = {"data": stand_in, "seeds": 1, "epochs": 1, "width": "18-18+37-37"}
    cpu = {"data": stand_in, "epochs": 6, "width": "18-18+37-37+75-74"}
    args = configs.parse_arg(arg, smoke, cpu, data="sst2", seeds=3, epochs=10, width="")
    config = configs.defaults("lstm", "sentiment")
    config.experiment = f"{args.data}_width"
    config.data.update(name=args.data, validation=1000, normalize="none")
    config.optimizer.update(weight_decay=3e-6, schedule="constant")
    config.train.update(epochs=args.epochs, batch_size=64, eval_batch_size=500)
    config.sweep.width = configs.parse_widths(args.width) if args.width else WIDTHS
    config.sweep.rho = (0.02, 0.05, 0.1, 0.2)
    config.sweep.seeds = args.seeds
    if args.cpu or args.smoke:
        config.experiment += "_cpu" if args.cpu else "_smoke"
        config.model.dropout = 0.2
        config.optimizer.update(lr=0.3, schedule="linear")
        config.train.batch_size = 16
        config.sweep.rho = (0.01, 0.03)
    if args.smoke:
        config.data.train_size = 2000
        config.sweep.rho = (0.01,)
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
