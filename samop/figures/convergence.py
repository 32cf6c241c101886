"""stub"""


def convergence(curves, summary):
    return {}
