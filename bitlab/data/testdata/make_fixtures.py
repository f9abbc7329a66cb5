"""Makes the files beside it with Pillow and tokenizers, as a reference for pictures and texts: python3 make_fixtures.py

colours.jpg    17 x 23 pixels in JPEG with colours of half the size; grey.jpg the same in grey, progressive
decoded.rgb    what Pillow decodes from colours.jpg, [height, width, channels], then from grey.jpg, [height, width]
resized.rgb    the pixels of colours.jpg at each of the sizes (height, width) of SIZES, one behind the other, by the bilinear filter
ops.rgb        the pixels of colours.jpg after each of OPS
bpe.json, word_piece.json, words.json   tokenizers that learned from TEXTS: of bytes; as BERT's; by spaces, with unknown characters
split.json, pieces.json, unigram.json   those of tokenizer_kinds.py that are called deepseek, added and t5
encoded.json   for each of them, TEXTS and others: [text, ids, what the ids decode to, or null where the file has no decoder]
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from tokenizer_kinds import KINDS
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent
SIZES = [(23, 17), (11, 17), (23, 40), (7, 5), (50, 3), (1, 1), (46, 34)]


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


OPS = [
    *(lambda i, v=v: affine(i, 1, v, 0, 0, 1, 0) for v in (0.3, -0.17)),  # shear_x
    *(lambda i, v=v: affine(i, 1, 0, 0, v, 1, 0) for v in (0.3, -0.17)),  # shear_y
    *(lambda i, v=v: affine(i, 1, 0, int(v * i.width), 0, 1, 0) for v in (0.45, -0.2)),  # translate_x
    *(lambda i, v=v: affine(i, 1, 0, 0, 0, 1, int(v * i.height)) for v in (0.45, -0.2)),  # translate_y
    *(lambda i, v=v: i.rotate(v) for v in (30, -13.5)),  # rotate
    *(lambda i, v=v, e=e: e(i).enhance(1 + v) for e in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Sharpness) for v in (0.9, -0.35)),
    *(lambda i, v=v: ImageOps.posterize(i, 8 - v) for v in (4, 1)),
    *(lambda i, v=v: ImageOps.solarize(i, 255 * (1 - v)) for v in (1, 0.4)),
    ImageOps.autocontrast,
    ImageOps.equalize,
]


TEXTS = [
    "To be, or not to be: that is the question; whether 'tis nobler in the mind to suffer.",
    "He said \u201cI'll go, they're late, we've won\u201d \u2014 and didn't.",
    "Die Stra\u00dfe f\u00fchrt \u00fcber die Br\u00fccke; na\u00efve \u00c9L\u00c8VE \u0130stanbul, \u00c5ngstr\u00f6m.",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002 \u0645\u0631\u062d\u0628\u0627 \u0434\u043e\u0431\u0440\u044b\u0439 \u0434\u0435\u043d\u044c",
    "x = 3.14 * r**2;\n\n\tif (a<=b) { return 0x1F; }   // 100%  ",
    "the cat sat on the mat, the cat sat on the mat, the cat sat",
]
OTHERS = [
    "", " ", "   ", "\n", "a", "  leading and trailing  ", "tabs\tand\r\nlines\n\n", "mixed123numbers 4567 \u00b2\u00bd \u0664\u0665",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8", "e\u0301 is \u00e9, \ufb01 \u212b \u1e9b\u0323", "emoji \U0001f600\U0001f468\u200d\U0001f469 z\u200bw",
    "nul\u0000 and \ufffd and \u00ad", "it's IT'S they'll THEY'LL 'quote' ''", "a\u00a0b\u2003c\u3000d \u2028e", "[CLS] text [SEP]<|end|>more<|end|>", "[UNK]",
    "antidisestablishmentarianism" * 5, "\u4e00\U00020000\uf900x", "!!!???...", "_under_score_ a-b", "word sword words <mask> the\u25bd lower Lower",
]


def trained(model, trainer, pre_tokenizer, normalizer=None, decoder=None):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def make_tokenizers():
    special = [AddedToken(text, special=True) for text in ("<|end|>", "[CLS]", "[SEP]", "[UNK]")]
    common = {"special_tokens": special, "show_progress": False}
    bpe = trained(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )
    word_piece = trained(
        models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=200, **common), pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
    )
    steps = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    words = trained(models.BPE(unk_token="[UNK]", fuse_unk=True), trainers.BpeTrainer(vocab_size=120, limit_alphabet=30, **common), pre_tokenizers.WhitespaceSplit(), steps)
    encoded = {}
    kinds = {name: KINDS[kind](TEXTS) for name, kind in {"split": "deepseek", "pieces": "added", "unigram": "t5"}.items()}
    for name, tokenizer in {"bpe": bpe, "word_piece": word_piece, "words": words, **kinds}.items():
        tokenizer.save(str(HERE / f"{name}.json"), pretty=False)
        encoded[name] = []
        for text in TEXTS + OTHERS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            encoded[name].append([text, ids, tokenizer.decode(ids, skip_special_tokens=False) if tokenizer.decoder else None])
    (HERE / "encoded.json").write_text(json.dumps(encoded) + "\n")


def main():
    make_tokenizers()
    y, x = np.mgrid[0:23, 0:17]
    random = np.random.default_rng(1)
    planes = [40 + 9 * x + random.integers(0, 30, x.shape), 220 - 7 * y + random.integers(0, 20, x.shape), (x * y) % 180 + 30]
    picture = Image.fromarray(np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8))
    picture.save(HERE / "colours.jpg", quality=92, subsampling=2)
    picture.convert("L").save(HERE / "grey.jpg", quality=75, progressive=True)
    colours, grey = Image.open(HERE / "colours.jpg").convert("RGB"), Image.open(HERE / "grey.jpg")
    (HERE / "decoded.rgb").write_bytes(colours.tobytes() + grey.tobytes())
    (HERE / "resized.rgb").write_bytes(b"".join(colours.resize((w, h), Image.Resampling.BILINEAR).tobytes() for h, w in SIZES))
    (HERE / "ops.rgb").write_bytes(b"".join(op(colours).tobytes() for op in OPS))


main()
