"""Data sets and tokenizers from Python. What they read is compared with other libraries in bitlab/data/*_test.cc."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import bitlab

TESTDATA = ROOT / "bitlab/data/testdata"


def test_tokenizers_read_files() -> None:
    for name, cases in json.loads((TESTDATA / "encoded.json").read_text()).items():
        tokenizer = bitlab.data.load_tokenizer(str(TESTDATA / f"{name}.json"))
        for text, ids, decoded in cases:
            assert tokenizer.encode(text) == ids
            if decoded is not None:
                assert tokenizer.decode(ids) == decoded
            assert max(ids, default=0) < len(tokenizer)
    assert bitlab.data.load_tokenizer().encode("né") == list("né".encode())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bitlab.data.load_tokenizer("/nowhere.json")


def test_folders_of_pictures(tmp_path: Path) -> None:
    for name in ("colours", "grey"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").write_bytes((TESTDATA / f"{name}.jpg").read_bytes())
    pictures = bitlab.data.load_dataset("folder", root=tmp_path, mean=[0, 0, 0], std=[1, 1, 1])
    image = next(image for image, label in pictures if label == 0)
    raw = np.frombuffer((TESTDATA / "decoded.rgb").read_bytes(), np.uint8)[: 23 * 17 * 3].reshape(23, 17, 3)
    assert sorted(label for _, label in pictures) == [0, 1]
    np.testing.assert_array_equal(image, raw.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_labelled_texts(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("good\tyes\nbad\tno\n")
    texts = bitlab.data.load_dataset("labelled_text", root=tmp_path, tokens=6)
    tokens, label = texts[1]
    assert tokens.tolist() == [*b"bad", 256, 256, 256] and label == 0
    assert json.loads(texts.spec) == {"vocabulary": 257, "tokens": 6, "labels": ["no", "yes"]}
