"""Makes the files beside it with Pillow, as a reference for pictures: python3 make_fixtures.py

colours.jpg    17 x 23 pixels in JPEG with colours of half the size; grey.jpg the same in grey, progressive
decoded.rgb    what Pillow decodes from colours.jpg, [height, width, channels], then from grey.jpg, [height, width]
resized.rgb    the pixels of colours.jpg at each of the sizes (height, width) of SIZES, one behind the other, by the bilinear filter
ops.rgb        the pixels of colours.jpg after each of OPS
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

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


def main():
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
