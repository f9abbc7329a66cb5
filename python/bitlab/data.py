"""Data sets that come with BitLab, or that it reads from a folder, as map-style data sets (torch.utils.data.DataLoader takes them)."""

from __future__ import annotations

import os

from bitlab._core import Dataset as Dataset
from bitlab._core import dataset_names as dataset_names

__all__ = ["Dataset", "dataset_names", "load_dataset"]


def load_dataset(name: str, split: str = "train", *, root: str | os.PathLike[str] = "", limit: int = 0, **options: object) -> Dataset:
    """A data set by name: "mnist" comes with BitLab; "text" reads a file as bytes (root, tokens=64); "synthetic" is made up. split: "train" or "test".
    limit: at most so many samples. Samples are tuples of NumPy arrays and numbers."""
    return Dataset(name, split, os.fspath(root), limit, {key: str(value) for key, value in options.items()})
