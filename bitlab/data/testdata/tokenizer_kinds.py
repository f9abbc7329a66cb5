"""Tokenizers of the kinds that published models have, small ones, made by the package `tokenizers`: KINDS[name](texts to learn from)."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
MARK = "▁"

NASTY = [
    "", " ", "  ", "   ", "\n", "\r\n", "\t", " \n \n\n  x", "a", "▁", " ▁ a▁b", "  leading and trailing  ", "tabs\tand\r\nlines\n\n\n   end",
    "It's IT'S they'LL won't 'tis ''s x'D y'ſ", "1 12 123 1234 12345678 ²½ ٤٥ Ⅷ 3.14e-10 0x1F", "今天天气很好。한국어 텍스트 ありがとう、カタカナ ㍿ ﾊﾝｶｸ",
    "مرحبا بالعالم، كيف حالك؟ שָׁלוֹם", "नमस्ते दुनिया กำแพง", "e\u0301 é \u212b \u1e9b\u0323 \ufb01 a\u0327\u0301 a\u0301\u0327 \u1100\u1161\u11a8 각 \u0344",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ☃︎", "nul\0 \ufffd \xad z\u200bw a\xa0b\u2003c\u3000d\u2028e\u180ef\x85g\x0bh\x0ci\ufeff", "İstanbul ǅ Straße ΣΑΣ ﬀ Ａｂｃ ①②",
    "x = foo(bar[0], *baz); // 100%\n\treturn (a<=b) ? \"q\" : `r`;\n", "__init__ snake_case CamelCase HTTPServer iPhone's a-b", "!!! ??? ... ,, . ' n't do not",
    "[CLS] a [SEP]<|end|>more<|end|><s>x</s>", " <mask> in  <mask>  the<mask>", "word wordy sword word! word", "the LOWER lower  Lower", "<0x41><0x0A> <0xE2>", "\x7f\x8f\x9f\x01",
    "a" * 300, " " * 65, "\n" * 33, "ab" * 500, "é" * 99, "é" * 77, "1" * 100, "!?" * 50, "\U0010ffff\U000e0001\ue000", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠀀𠀁 ẛ̣",
]  # fmt: skip


def charsmap(entries: dict[str, str]) -> bytes:
    """SentencePiece's table: a double-array trie as Darts-clone writes it, and the texts that it leads to."""
    texts, trie = b"", {}
    for key, text in entries.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[None] = len(texts)
        texts += text.encode() + b"\0"
    units = {0: 0}

    def place(node: dict[int | None, dict | int], here: int) -> None:
        labels = [label or 0 for label in node]
        base = next(b for b in range(1, 1 << 20) if all(b ^ label not in units for label in labels) and here ^ b < 1 << 21)
        units[here] |= (here ^ base) << 10 | (None in node) << 8
        for label, child in node.items():
            units[base ^ (label or 0)] = child | 1 << 31 if label is None else label
        for label, child in node.items():
            if label is not None:
                place(child, base ^ label)

    place(trie, 0)
    array = [units.get(i, 0) for i in range((max(units) | 255) + 1)]
    return struct.pack(f"<I{len(array)}I", 4 * len(array), *array) + texts


CHARSMAP = charsmap(
    {
        "\u00a0": " ",
        "\u3000": " ",
        "\u2003": " ",
        "\t": " ",
        "\n": " ",
        "\r\n": " ",
        "\u200b": "",
        "ﬁ": "fi",
        "①": "1",
        "Ａ": "A",
        "e\u0301": "é",
        "\u212b": "Å",
        "㍿": "株式会社",
        "\x01": "",
        "ﾊ": "ハ",
    }
)


def trained(
    model: models.Model,
    texts: Iterable[str],
    pre: pre_tokenizers.PreTokenizer | None,
    *,
    norm: normalizers.Normalizer | None = None,
    size: int = 600,
    **options: object,
) -> Tokenizer:
    """A tokenizer that has learned a vocabulary."""
    tokenizer = Tokenizer(model)
    if norm:
        tokenizer.normalizer = norm
    if pre:
        tokenizer.pre_tokenizer = pre
    trainer = {
        models.BPE: trainers.BpeTrainer,
        models.WordPiece: trainers.WordPieceTrainer,
        models.Unigram: trainers.UnigramTrainer,
    }[type(model)]
    options.setdefault("special_tokens", ["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator(texts, trainer(vocab_size=size, show_progress=False, **options))
    return tokenizer


def changed(tokenizer: Tokenizer, change: Callable[[dict], None]) -> Tokenizer:
    tree = json.loads(tokenizer.to_str())
    change(tree)
    return Tokenizer.from_str(json.dumps(tree))


def byte_level(
    pattern: str | list[str] | None, texts: Iterable[str], *, norm: normalizers.Normalizer | None = None, **model: object
) -> Tokenizer:
    patterns = [pattern] if isinstance(pattern, str) else pattern or []
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    pre = (
        pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        if splits
        else pre_tokenizers.ByteLevel()
    )
    tokenizer = trained(
        models.BPE(**model),
        texts,
        pre,
        norm=norm,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def falcon(texts: Iterable[str]) -> Tokenizer:
    pre = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(),
    ]
    pre = pre_tokenizers.Sequence([*pre, pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")])
    tokenizer = trained(models.BPE(), texts, pre, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_bytes(
    texts: Iterable[str],
    pre: pre_tokenizers.PreTokenizer | None,
    norm: normalizers.Normalizer | None,
    decoder: decoders.Decoder,
    *,
    every: int = 1,
) -> Tokenizer:
    """Pieces of SentencePiece's kind with tokens for bytes, of which each `every`-th one is there."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(0, 256, every))]
    tokenizer = trained(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        texts,
        pre_tokenizers.Metaspace(),
        limit_alphabet=90,
        special_tokens=special,
    )

    def change(tree: dict) -> None:
        tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["content"].startswith("<0x")]

    tokenizer = changed(tokenizer, change)
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = norm, pre, decoder
    return tokenizer


def llama_decoder(*more: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *more])


def unigram(
    texts: Iterable[str],
    pre: pre_tokenizers.PreTokenizer | None,
    norm: normalizers.Normalizer | None = None,
    **options: object,
) -> Tokenizer:
    tokenizer = trained(models.Unigram(), texts, pre, norm=norm, unk_token="<unk>", **options)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def unigram_bytes(texts: Iterable[str]) -> Tokenizer:
    def change(tree: dict) -> None:
        tree["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in range(256)]
        tree["model"]["byte_fallback"] = True

    tokenizer = changed(unigram(texts, pre_tokenizers.Metaspace()), change)
    tokenizer.decoder = llama_decoder(decoders.Strip(" ", 1, 0))
    return tokenizer


def t5(texts: Iterable[str], table: bytes = CHARSMAP) -> Tokenizer:
    norm = normalizers.Sequence(
        [
            normalizers.Precompiled(table),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), MARK),
        ]
    )
    return unigram(texts, pre_tokenizers.Metaspace(), norm)


def xlm_roberta(texts: Iterable[str], table: bytes = CHARSMAP) -> Tokenizer:
    return unigram(
        texts,
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
        normalizers.Precompiled(table),
    )


def clip(texts: Iterable[str]) -> Tokenizer:
    pre = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CLIP), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    norm = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer = trained(
        models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"),
        texts,
        pre,
        norm=norm,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return tokenizer


def prefixed(texts: Iterable[str]) -> Tokenizer:
    pre = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False)])
    tokenizer = trained(
        models.BPE(unk_token="<unk>", continuing_subword_prefix="##"),
        texts,
        pre,
        continuing_subword_prefix="##",
        limit_alphabet=60,
    )
    tokenizer.decoder = decoders.WordPiece("##", cleanup=True)
    return tokenizer


def bert(texts: Iterable[str]) -> Tokenizer:
    tokenizer = trained(
        models.WordPiece(unk_token="<unk>"),
        texts,
        pre_tokenizers.BertPreTokenizer(),
        norm=normalizers.BertNormalizer(),
        limit_alphabet=80,
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def with_added_tokens(texts: Iterable[str]) -> Tokenizer:
    tokenizer = with_bytes(
        texts,
        None,
        normalizers.Sequence([normalizers.Lowercase(), normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]),
        llama_decoder(),
    )
    tokenizer.add_special_tokens(
        [AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False), AddedToken("<|end|>", normalized=False)]
    )
    tokenizer.add_tokens(
        [
            AddedToken("word", single_word=True, normalized=False),
            AddedToken("Lower", normalized=True),
            AddedToken(" in", lstrip=True, normalized=False),
            AddedToken("!", rstrip=True),
        ]
    )
    tokenizer.add_tokens(
        [AddedToken("the", normalized=False), AddedToken("they", normalized=False), AddedToken("é", normalized=False)]
    )
    return tokenizer


def words(
    texts: Iterable[str], pre: pre_tokenizers.PreTokenizer | None, norm: normalizers.Normalizer | None = None
) -> Tokenizer:
    return trained(models.BPE(unk_token="<unk>"), texts, pre, norm=norm, limit_alphabet=300, size=800)


def every_normalizer(form: type, texts: Iterable[str]) -> Tokenizer:
    return words(
        texts, pre_tokenizers.WhitespaceSplit(), normalizers.Sequence([normalizers.Nmt(), form(), normalizers.Strip()])
    )


KINDS: dict[str, Callable[[Iterable[str]], Tokenizer]] = {
    "gpt2": lambda t: byte_level(None, t),
    "gpt4": lambda t: byte_level(CL100K, t),
    "gpt4o": lambda t: byte_level(GPT4O, t),
    "llama3": lambda t: byte_level(GPT4, t, ignore_merges=True),
    "qwen2": lambda t: byte_level(QWEN2, t, norm=normalizers.NFC()),
    "bloom": lambda t: byte_level(BLOOM, t),
    "falcon": falcon,
    "deepseek": lambda t: byte_level(DEEPSEEK, t),
    "llama2": lambda t: with_bytes(
        t,
        None,
        normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)]),
        llama_decoder(decoders.Strip(" ", 1, 0)),
    ),
    "llama2_first": lambda t: with_bytes(
        t, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None, llama_decoder(decoders.Strip(" ", 1, 0))
    ),
    "gemma": lambda t: with_bytes(
        t, pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", MARK), llama_decoder()
    ),
    "some_bytes": lambda t: with_bytes(
        t, pre_tokenizers.Metaspace(prepend_scheme="never"), None, decoders.Metaspace(prepend_scheme="never"), every=2
    ),
    "t5": t5,
    "xlm_roberta": xlm_roberta,
    "unigram_bytes": unigram_bytes,
    "bert": bert,
    "clip": clip,
    "prefixed": prefixed,
    "added": with_added_tokens,
    "nothing": lambda t: words(t, None),
    **{
        form.__name__.lower(): lambda t, form=form: every_normalizer(form, t)
        for form in (normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD)
    },
    "accents": lambda t: words(
        t,
        pre_tokenizers.WhitespaceSplit(),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]),
    ),
    "marks": lambda t: words(t, pre_tokenizers.CharDelimiterSplit("e"), normalizers.StripAccents()),
    "byte_normalizer": lambda t: words(t, pre_tokenizers.Punctuation("contiguous"), normalizers.ByteLevel()),
    "digits": lambda t: words(
        t, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()])
    ),
    **{
        f"{behavior}_{inverts}": lambda t, behavior=behavior, inverts=inverts: words(
            t,
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r"\w+\b|\d*|[A-F]{,2}(?<!x)"), behavior, inverts),
                    pre_tokenizers.Punctuation(behavior),
                ]
            ),
        )
        for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous")
        for inverts in (False, True)
    },
}
