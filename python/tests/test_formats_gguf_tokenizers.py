"""Tokenizers in GGUF files: llama.cpp, which reads them from there, and the package `tokenizers`, which made them, give a text the same numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from bitlab.formats import convert
from conftest import ROOT
from test_formats_gguf import write_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import bitlab

sys.path.insert(0, str(ROOT / "bitlab/data/testdata"))
import tokenizer_kinds as kinds

SHAKESPEARE = next((ROOT / "data/tinyshakespeare").glob("*.txt")).read_text()
LEARNED = [SHAKESPEARE[:100_000], *kinds.NASTY, "3.14 100 2024 1234567"]
LINES = [*SHAKESPEARE[200_000:220_000].split("\n"), "the year 2024, 1234567 men & 3.14 more..."]
VOCABULARY = 900  # of the table, which has more tokens than the tokenizers


def on_bytes(*parts: pre_tokenizers.PreTokenizer, **model: object) -> Tokenizer:
    tokenizer = kinds.trained(
        models.BPE(**model),
        LEARNED,
        pre_tokenizers.Sequence(list(parts)),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def words() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def splits(*expressions: str, **model: object) -> Tokenizer:
    parts = [pre_tokenizers.Split(Regex(e), "isolated") for e in expressions]
    return on_bytes(*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), **model)


def closed(tokenizer: Tokenizer) -> Tokenizer:
    """With merges of all two tokens that are one, in the order of what they become: those that SentencePiece's models have."""

    def change(tree: dict) -> None:
        ids, made = tree["model"]["vocab"], {}
        for left, right in tree["model"]["merges"]:
            made.setdefault(left + right, None)
        merges = []
        for token in made:
            cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ids and token[i:] in ids]
            merges += sorted(cuts, key=lambda cut: (-len(cut[0]), ids[cut[0]], ids[cut[1]]))
        tree["model"]["merges"] = merges

    return kinds.changed(tokenizer, change)


SPACES = normalizers.Replace(" ", kinds.MARK)


def sentence_piece(first: bool) -> Tokenizer:
    norm = normalizers.Sequence([normalizers.Prepend(kinds.MARK), SPACES]) if first else SPACES
    decoder = kinds.llama_decoder(decoders.Strip(" ", 1, 0)) if first else kinds.llama_decoder()
    pre = None if first else pre_tokenizers.Split(" ", "merged_with_previous")  # Gemma's, which finds no space any more
    tokenizer = closed(kinds.with_bytes(LEARNED, pre, norm, decoder))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def bert(**options: bool) -> Tokenizer:
    tokenizer = kinds.trained(
        models.WordPiece(unk_token="[UNK]"),
        LEARNED,
        pre_tokenizers.BertPreTokenizer(),
        norm=normalizers.BertNormalizer(**options),
        limit_alphabet=80,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


GPT4O = kinds.GPT4O
QWEN35 = kinds.QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
# By tokenizer.ggml.pre or .model: how it is made, and how many of the 41 texts of NASTY llama.cpp numbers otherwise. Those of t5 and bert are text with
# controls or U+2581, words of more than 100 characters, marks that stand apart, and paths of the same score.
CASES: dict[str, tuple[Callable[[], Tokenizer], int]] = {
    "gpt-2": (lambda: on_bytes(words()), 0),
    "starcoder": (lambda: on_bytes(pre_tokenizers.Digits(individual_digits=True), words()), 0),
    "falcon": (
        lambda: on_bytes(
            pre_tokenizers.Punctuation("contiguous"),
            words(),
            pre_tokenizers.Digits(),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ),
        0,
    ),
    "llama-bpe": (lambda: splits(kinds.GPT4, ignore_merges=True), 0),
    "dbrx": (lambda: splits(kinds.GPT4), 0),
    "qwen2": (lambda: splits(kinds.QWEN2), 0),
    "qwen35": (lambda: splits(QWEN35), 0),
    "gpt-4o": (lambda: splits(GPT4O), 0),
    "tekken": (
        lambda: splits(
            GPT4O.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}"), ignore_merges=True
        ),
        0,
    ),
    "deepseek-v3": (lambda: splits(*kinds.DEEPSEEK), 0),
    "bloom": (lambda: splits(kinds.BLOOM), 0),
    "llama": (lambda: sentence_piece(True), 0),
    "llama without a space": (lambda: sentence_piece(False), 0),
    "t5": (lambda: kinds.t5(LEARNED), 10),
    "t5 by words": (lambda: kinds.xlm_roberta(LEARNED), 10),
    "bert": (bert, 7),
    "bert with capitals": (lambda: bert(lowercase=False), 7),
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    write_model(folder / "m.gguf", "llama", vocabulary=VOCABULARY)
    convert(folder / "m.gguf", folder / "m.bit")
    return folder / "m.bit"


@pytest.mark.parametrize("case", CASES)
def test_a_tokenizer_travels(case: str, network: Path, tmp_path: Path) -> None:
    make, most = CASES[case]
    theirs = make()
    theirs.save(str(tmp_path / "tokenizer.json"))
    convert(network, tmp_path / "m.gguf", tokenizer=tmp_path / "tokenizer.json")
    convert(tmp_path / "m.gguf", tmp_path / "m.hf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == (
        case
        if case
        in (
            "gpt-2",
            "starcoder",
            "falcon",
            "llama-bpe",
            "dbrx",
            "qwen2",
            "qwen35",
            "gpt-4o",
            "tekken",
            "deepseek-v3",
            "bloom",
        )
        else "default"
    )
    tokens, types = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()
    assert len(tokens) == len(types) == VOCABULARY
    assert tokens[-1] == f"[PAD{VOCABULARY - 1}]"
    assert types[-1] == gguf.TokenType.UNUSED

    # Back in a folder of transformers, and as ours: what llama.cpp does is what `tokenizers` does, but for paths of one score, which float32 may turn.
    back, ours = (
        Tokenizer.from_file(str(tmp_path / "m.hf/tokenizer.json")),
        bitlab.data.load_tokenizer(str(tmp_path / "m.gguf")),
    )
    ids = {text: theirs.encode(text, add_special_tokens=False).ids for text in [*LINES, *kinds.NASTY]}
    others = [text for text in ids if back.encode(text, add_special_tokens=False).ids != ids[text]]
    assert len(others) <= most
    assert not set(others) & set(LINES)
    for text in ids:
        found = back.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == found
        assert ours.decode(found) == back.decode(found, skip_special_tokens=False)

    pytest.importorskip("xllamacpp")
    import llama_cpp

    model = llama_cpp.Model(tmp_path / "m.gguf")
    assert sum(model.tokens(text) != ids[text] for text in kinds.NASTY) <= most
    for text in LINES:
        assert model.tokens(text) == ids[text]
    for tokenizer in (theirs, back):  # with what stands around a text, which is the model's business
        assert model.tokens(LINES[1], around=True) == tokenizer.encode(LINES[1]).ids


def test_special_tokens_are_those_of_the_config(network: Path, tmp_path: Path) -> None:
    theirs = on_bytes(words())
    theirs.add_special_tokens(["<a>", "<b>"])
    theirs.add_tokens(["<user>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<a>", "eos_token": {"content": "<b>"}, "add_bos_token": True, "chat_template": "{{ x }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    convert(network, tmp_path / "m.gguf", tokenizer=tmp_path / "tokenizer.json")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    a, b, user = (theirs.token_to_id(text) for text in ("<a>", "<b>", "<user>"))
    assert fields["tokenizer.ggml.bos_token_id"] == a
    assert fields["tokenizer.ggml.eos_token_id"] == b
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert fields["tokenizer.chat_template"] == "{{ x }}"
    assert [fields["tokenizer.ggml.token_type"][i] for i in (a, b, user)] == [3, 3, 4]
    convert(tmp_path / "m.gguf", tmp_path / "m.hf")
    back = json.loads((tmp_path / "m.hf/tokenizer_config.json").read_text())
    assert (back["bos_token"], back["eos_token"], back["chat_template"]) == ("<a>", "<b>", "{{ x }}")
    assert Tokenizer.from_file(str(tmp_path / "m.hf/tokenizer.json")).encode("it").ids[0] == a


def test_where_a_tokenizer_is_looked_for(network: Path, tmp_path: Path) -> None:
    """Beside the source, in a folder, in a GGUF file; `none` leaves it out."""
    (tmp_path / "m.bit").write_bytes(network.read_bytes())
    model = lambda path: gguf.GGUFReader(path).fields["tokenizer.ggml.model"].contents()  # noqa: E731
    convert(tmp_path / "m.bit", tmp_path / "without.gguf")
    assert model(tmp_path / "without.gguf") == "none"
    with pytest.raises(bitlab.NotFound, match="a file with a tokenizer, got one without"):
        bitlab.data.load_tokenizer(str(tmp_path / "without.gguf"))
    with pytest.raises(bitlab.NotFound):
        convert(tmp_path / "m.bit", tmp_path / "m.gguf", tokenizer=tmp_path / "none.json")
    bert().save(str(tmp_path / "tokenizer.json"))
    convert(tmp_path / "m.bit", tmp_path / "m.gguf")
    assert model(tmp_path / "m.gguf") == "bert"
    convert(tmp_path / "m.gguf", tmp_path / "m.hf")
    convert(tmp_path / "m.hf", tmp_path / "again.gguf")
    convert(tmp_path / "m.bit", tmp_path / "other.gguf", tokenizer=tmp_path / "m.gguf")
    for name in ("again.gguf", "other.gguf"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "m.gguf").read_bytes()
    convert(tmp_path / "m.gguf", tmp_path / "none.gguf", tokenizer="none")
    assert (tmp_path / "none.gguf").read_bytes() == (tmp_path / "without.gguf").read_bytes()
    convert(tmp_path / "m.gguf", tmp_path / "bare.hf", tokenizer="none")
    assert not (tmp_path / "bare.hf/tokenizer.json").exists()


def with_added(tokenizer: Tokenizer | None = None, **options: bool) -> Tokenizer:
    tokenizer = tokenizer or on_bytes(words())
    tokenizer.add_tokens([AddedToken("<x>", **options)])
    return tokenizer


REFUSED: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "gpt2 with a space in front": (lambda: kinds.byte_level(None, LEARNED), "a pre-tokenizer that llama.cpp has, got"),
    "an unknown expression": (lambda: splits(kinds.CL100K), "a pre-tokenizer that llama.cpp has, got"),
    "a normalizer on bytes": (lambda: kinds.byte_level(kinds.QWEN2, LEARNED, norm=normalizers.Lowercase()), "byte-pair encoding on bytes as written"),
    "words that merges do not make": (
        lambda: kinds.changed(splits(kinds.QWEN2, ignore_merges=True), lambda tree: tree["model"]["merges"].pop()),
        "ignore_merges false with this pre-tokenizer, since merges do not make",
    ),
    "merges that SentencePiece lacks": (
        lambda: kinds.with_bytes(LEARNED, None, SPACES, kinds.llama_decoder()),
        "merges of all two tokens that are one, as SentencePiece has them, got none of",
    ),
    "no bytes": (
        lambda: kinds.with_bytes(LEARNED, None, SPACES, kinds.llama_decoder(), every=2),
        "a fallback to tokens of all 256 bytes, got none of 1",
    ),
    "a suffix": (lambda: kinds.clip(LEARNED), "byte-pair encoding with no end_of_word_suffix, got '</w>'"),
    "a prefix": (lambda: kinds.prefixed(LEARNED), "byte-pair encoding with no continuing_subword_prefix, got '##'"),
    "Unigram with bytes": (lambda: kinds.unigram_bytes(LEARNED), "Unigram without a fallback to bytes"),
    "Unigram with all spaces": (
        lambda: kinds.unigram(LEARNED, pre_tokenizers.Metaspace()),
        "spaces that become one, and none at the end, behind a space in front of each text, got null",
    ),
    "Unigram with spaces at the end": (
        lambda: kinds.unigram(LEARNED, pre_tokenizers.Metaspace(), normalizers.Replace(Regex(" {2,}"), kinds.MARK)),
        "spaces that become one, and none at the end, behind a space in front of each text, got",
    ),
    "another normalizer of WordPiece": (
        lambda: kinds.trained(models.WordPiece(unk_token="<unk>"), LEARNED, pre_tokenizers.BertPreTokenizer(), norm=normalizers.NFC()),
        "BertNormalizer, which cleans text",
    ),
    "a token that takes spaces": (lambda: with_added(lstrip=True), "an added token without lstrip, rstrip and single_word, got '<x>'"),
    "a token that is normalized": (
        lambda: with_added(kinds.byte_level(kinds.QWEN2, LEARNED, norm=normalizers.Lowercase()), normalized=True),
        "an added token that is not normalized, got '<x>'",
    ),
    "a token that is a word": (lambda: with_added(single_word=True), "an added token without lstrip, rstrip and single_word, got '<x>'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_number_otherwise_is_refused(case: str, network: Path, tmp_path: Path) -> None:
    make, sentence = REFUSED[case]
    make().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(bitlab.Unsupported, match=rf"\[gguf\] {sentence}.*\(a tokenizer of 'none' leaves it out\)"):
        convert(network, tmp_path / "m.gguf", tokenizer=tmp_path / "tokenizer.json")
    assert not (tmp_path / "m.gguf").exists()


def test_more_tokens_than_the_table_has_are_refused(network: Path, tmp_path: Path) -> None:
    kinds.byte_level(kinds.QWEN2, [SHAKESPEARE[:200_000]], norm=None).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens([f"<{i}>" for i in range(VOCABULARY + 1 - tokenizer.get_vocab_size())])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        bitlab.InvalidArgument, match=rf"a tokenizer of at most the model's {VOCABULARY} tokens, got {VOCABULARY + 1}"
    ):
        convert(network, tmp_path / "m.gguf", tokenizer=tmp_path / "tokenizer.json")


def test_files_of_other_writers_are_read(network: Path, tmp_path: Path) -> None:
    """Scores without merges, and numbers that are not said, as llama.cpp takes them; by the gguf package."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        kinds.MARK,
        "a",
        "b",
        "ab",
        kinds.MARK + "ab",
        "aba",
    ]
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-9.0, -10.0, -11.0, -1.0, -2.0, -3.0])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 6)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = bitlab.data.load_tokenizer(str(tmp_path / "t.gguf"))
    assert tokenizer.encode("ab aba c") == [263, 263, 260, 259, 3 + ord("c")]  # neighbours of the highest score first
    assert tokenizer.encode("aaba") == [259, 260, 264]
    assert tokenizer.decode([263, 264, 3 + ord("c")]) == "ababac"
