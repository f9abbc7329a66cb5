"""Files of the kinds that published models have, read by `tokenizers` and by BitLab: the same numbers, and the same text back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import ROOT

import bitlab

sys.path.insert(0, str(ROOT / "bitlab/data/testdata"))
from tokenizer_kinds import KINDS, NASTY


def example_texts() -> list[str]:
    return [*NASTY, *(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])]


@pytest.mark.parametrize("kind", KINDS)
def test_files_give_the_numbers_of_tokenizers(kind: str, tmp_path: Path) -> None:
    texts = example_texts()
    theirs, path = KINDS[kind](texts), str(tmp_path / "tokenizer.json")
    theirs.save(path)
    ours = bitlab.data.load_tokenizer(path)
    lines = (line for text in texts for line in text.split("\n")[:40])
    for text in [*texts, *lines]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
