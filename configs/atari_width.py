"""What SAM gains over Adam as an agent's convolutional network grows: the paper's eighth workload.

python -m samop.main --config=configs/atari_width.py
python -m samop.main --config=configs/atari_width.py:data=minatar_breakout

The paper (arXiv 2311.17539) trains Mnih et al.'s network by PPO with Adam at four sizes, .4 to
6.7 M parameters off its figure: half, once, one and a half and twice the width, 16 … 64 filters
in the first layer here. Which games it plays is not known to us: Pong, and the hyperparameters of
the flax example on it: rate 2.5e-4 and clipping .1, both decayed linearly to 0, batch 256, 8
agents × 128 steps, 3 epochs, γ .99, λ .95, value .5, entropy .01, 40 M actions that hold for four
frames each. The ρ grid, three seeds, and 16 whole games a split after every hundredth of the
frames are ours.

`data=minatar_breakout` (or _asterix, _freeway, _space_invaders) plays MinAtar (arXiv 1903.03176)
with its paper's network at the same four relative widths, 8 … 32 filters; it is not Atari, and
called by its own name. All settings are ours: 64 agents × 64 steps, batch 1,024, rate 2.5e-3,
Adam's ε 1e-5, gradient norm at most .5, one million frames.
Arguments after the colon: smoke; cpu; data=atari_pong; seeds=3; epochs=0 (the data's own number);
width=16 (several joined by +). `smoke` and `cpu` play minatar_breakout unless told otherwise; `cpu`
is three widths of 4 to 16 filters, 786,432 frames each, ρ of .002 and .01.
"""

from ml_collections import ConfigDict

from samop import config as configs

ATARI, MINATAR = (16, 32, 48, 64), (8, 16, 24, 32)


def get_config(arg: str = "") -> ConfigDict:
    smoke = {"seeds": 1, "epochs": 2, "width": "4+8", "data": "minatar_breakout"}
    cpu = {"width": "4+8+16", "data": "minatar_breakout", "epochs": 12}
    args = configs.parse_arg(arg, smoke, cpu, data="atari_pong", seeds=3, epochs=0, width="")
    atari = args.data.startswith("atari_")
    config = configs.defaults("nature_cnn" if atari else "minatar_cnn", "control")
    config.experiment = f"{args.data}_width"
    config.data.name = args.data
    config.optimizer.update(base="adam", schedule="linear", weight_decay=0.0)
    if atari:
        config.task.update(iterations=391, clip_rewards=True, noops=30)
        config.optimizer.lr = 2.5e-4
        config.train.update(epochs=args.epochs or 100, batch_size=256)
    else:
        longest = 2500 if args.data == "minatar_freeway" else 1000  # where gymnax cuts a game
        config.task.update(agents=64, horizon=64, iterations=16, eval_steps=longest)
        config.optimizer.update(lr=2.5e-3, eps=1e-5, clip=0.5)
        config.train.update(epochs=args.epochs or 16, batch_size=1024)
    config.sweep.channels = ATARI if atari else MINATAR
    if args.width:
        config.sweep.channels = configs.parse_sizes(args.width)
    config.sweep.rho = (0.002, 0.01) if args.cpu else (0.002, 0.01, 0.05)
    config.sweep.seeds = args.seeds
    if args.cpu:
        config.experiment += "_cpu"
    if args.smoke:
        config.experiment += "_smoke"
        config.sweep.rho = (0.01,)
        config.task.update(iterations=2, eval_episodes=4, eval_steps=200)
        if atari:
            config.task.eval_steps = 50
    return config


def sweep(config: ConfigDict) -> dict[str, tuple]:
    return {
        "model.channels": config.sweep.channels,
        "optimizer.name": ("base", "sam"),
        "optimizer.rho": config.sweep.rho,
        "seed": tuple(range(config.sweep.seeds)),
    }
