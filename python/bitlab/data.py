"""Data sets that come with BitLab, or that it reads from a folder, as map-style data sets (torch.utils.data.DataLoader takes them)."""

from __future__ import annotations

import os

from bitlab._core import Dataset as Dataset
from bitlab._core import Tokenizer as Tokenizer
from bitlab._core import dataset_names as dataset_names
from bitlab._core import load_tokenizer as load_tokenizer

__all__ = ["Dataset", "Tokenizer", "dataset_names", "load_dataset", "load_tokenizer"]


def load_dataset(name: str, split: str = "train", *, root: str | os.PathLike[str] = "", limit: int = 0, **options: object) -> Dataset:
    """A data set by name: "mnist" and "tinyshakespeare" come with BitLab, "fashion_mnist", "cifar10" and "cifar100" are fetched once; "folder" reads pictures, "text" and
    "labelled_text" texts below `root`; "synthetic" is made up. split: "train" or "test". limit: at most so many samples. options: what the set alone takes
    (docs/tutorials/data.md). Samples are tuples of NumPy arrays and numbers."""
    return Dataset(name, split, os.fspath(root), limit, {key: str(value) for key, value in options.items()})
