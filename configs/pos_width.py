"""What SAM gains over AdamW as a Transformer that tags parts of speech grows: the fifth workload.

python -m samop.main --config=configs/pos_width.py
python -m samop.main --config=configs/pos_width.py:cpu

The paper's sizes (arXiv 2311.17539; its configs for this workload are not public): embeddings and
attention of 128 to 640, feed-forward blocks four times that, 6 layers. The parameters read off
its figure, 5.5 to 51.3 M, are explained to within 1 % by 33,950 words and tags together, of
treebanks that we do not have; Brown has 52,478 and so 7.9 to 63.1 M here, turkish_web 18,579 and
3.6 to 41.4 M.
Data, optimiser and length of training are those of Flax's nlp_seq example, on which the paper's
are evidently built: Ancient Greek (Perseus) with its own tags, here of Universal Dependencies
2.10; 8 heads, dropout .3, AdamW with b2 .98, eps 1e-9, decay .1, a rate of .05/√step after 8,000
steps of warm-up, 75,000 steps of 64 sentences, at most 256 tokens each. Our choices: sentences
packed into rows of 256 tokens, four rows a step (50 to 60 sentences); every word of training in
the vocabulary, 5 % of them forgotten; the ρ grid (the released configs of other workloads use
.05) and three seeds.

Where treebanks cannot be fetched, data=brown (English, 472 tags) or data=turkish_web (14 tags)
stand in. A tenth of their sentences is the test part. What needs no context, on the test part:
the most frequent tag 13.2 % and each word's most frequent tag 90.2 % on brown, 42.1 and 89.5 %
on turkish_web (experiments/baselines/tagging.py says how).

`cpu` is a sweep of our own on 4,000 sentences of brown for two cores: sizes 16, 32 and 64, two
layers of 4 heads, dropout .1, a rate of .005 that falls linearly to 0, 12 epochs, 8 rows of 64
tokens a step (longer sentences are cut there), ρ of .005 and .02; 2,000 sentences each validate and
test. Each word's most frequent tag gives 84.6 % there; experiments/workloads.md has what networks
reach. All of brown, with
--config.data.train_size=0 --config.data.validation=3000 --config.data.test_size=0
--config.train.batch_size=16 --config.optimizer.lr=.004 --config.optimizer.name=base after
:cpu,width=64,epochs=3,seeds=1: AdamW 94.7 %.
Arguments after the colon: smoke; cpu; seeds=3; epochs=480 (brown 78, turkish_web 1170: as many
steps); width=128 (several joined by +); data=universal_dependencies.
"""

from ml_collections import ConfigDict

from samop import config as configs

SIZES = "128+256+384+512+640"
# 75,000 steps: of 156, 962 and 64 an epoch. And validation sentences; a treebank has its own.
DATA = {
    "universal_dependencies": (480, 1000),
    "brown": (78, 3000),
    "turkish_web": (1170, 500),
}


def get_config(arg: str = "") -> ConfigDict:
    small = {"data": "brown"}
    smoke = {**small, "seeds": 1, "epochs": 3, "width": "16+32"}
    cpu = {**small, "epochs": 12, "width": "16+32+64"}
    args = configs.parse_arg(
        arg, smoke, cpu, seeds=3, epochs=0, width=SIZES, data="universal_dependencies"
    )
    config = configs.defaults("transformer", "tagging")
    config.experiment = f"{args.data}_width"
    config.data.name = args.data
    config.data.normalize = "none"
    epochs, config.data.validation = DATA.get(args.data, (100, 1000))
    config.train.epochs = args.epochs or epochs
    config.train.batch_size = 4
    config.train.eval_batch_size = 16
    config.task.max_length = config.task.row = 256
    config.model.dropout = 0.3
    config.optimizer.update(base="adamw", b2=0.98, eps=1e-9, weight_decay=0.1)
    config.optimizer.update(schedule="rsqrt", lr=0.05 * 8000**-0.5, warmup=8 / 75)
    config.sweep.size = configs.parse_sizes(args.width)
    config.sweep.rho = (0.01, 0.02, 0.05, 0.1)
    config.sweep.seeds = args.seeds
    if args.smoke or args.cpu:
        config.experiment += "_smoke" if args.smoke else "_cpu"
        config.data.train_size = 1000 if args.smoke else 4000
        config.data.validation = 500 if args.smoke else 2000
        config.data.test_size = 500 if args.smoke else 2000
        config.train.batch_size = 4 if args.smoke else 8
        config.train.eval_batch_size = 64
        config.task.max_length = config.task.row = 64
        config.model.update(layers=2, heads=4, dropout=0.1)
        config.optimizer.update(schedule="linear", warmup=0.1)
        config.optimizer.lr = 0.01 if args.smoke else 0.005
        config.sweep.rho = (0.02,) if args.smoke else (0.005, 0.02)
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.size": config.sweep.size,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
