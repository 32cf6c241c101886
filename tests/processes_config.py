"""A small sweep with everything that processes divide: seeds, batches, statistics, curvature."""

from samop import config as configs


def get_config(arg=""):
    known = configs.parse_arg(arg, smoke={}, epochs=3)
    config = configs.defaults("mlp")
    config.experiment = "processes"
    with config.unlocked():
        config.data.update(validation=50, train_size=200, test_size=70)
        config.train.update(epochs=known.epochs, batch_size=32)
        config.model.norm = "batch"
        config.run.update(tensorboard=False, checkpoint_seconds=0.2)
        config.curvature.update(every="end", what=("eigenvalues",), examples=100, k=1)
    return config


def sweep(config):
    # Two groups of two runs: on two devices one each, on four their batches are shared besides.
    return {"optimizer.name": ("base", "sam"), "optimizer.rho": (0.1,), "seed": (0, 1)}
