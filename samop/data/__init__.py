"""Data sets by name, on machines with and without a network. No jax.

`load` gives the arrays as stored, `split` the train, validation and test parts; `python -m
samop.data prepare NAME …` fetches ahead of time.
"""

from samop.data.dataset import Collection, Dataset
from samop.data.sources import load
from samop.data.splits import Split, Splits, parts, split
from samop.data.teacher import synthetic

__all__ = ["Collection", "Dataset", "Split", "Splits", "load", "parts", "split", "synthetic"]
