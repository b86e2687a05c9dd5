#!/usr/bin/env python3
"""Makes the photographs of this folder from those of the clothing dataset.

Needs Pillow 13 and the small clothing dataset, in which folders are named train/CLASS and validation/CLASS:
python3 make.py CLOTHING
"""

import sys
from pathlib import Path

from PIL import Image, ImageOps

KNOWN = ["dress", "longsleeve", "pants", "shoes", "shorts", "t-shirt"]
UNKNOWN = ["hat", "outwear", "shirt", "skirt"]
HERE = Path(__file__).parent
SHORT_SIDE = 256


def shrink(source: Path, count: int, target: Path) -> None:
    """Copies the first photographs by name, made smaller and without metadata."""
    target.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(source.glob("*.jpg"))[:count], start=1):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        scale = SHORT_SIDE / min(image.size)
        size = [max(SHORT_SIDE, round(side * scale)) for side in image.size]
        image.resize(size, Image.Resampling.LANCZOS).save(target / f"{number:02}.jpg", quality=70, optimize=True)


clothing = Path(sys.argv[1])
for name in KNOWN:
    shrink(clothing / "train" / name, 50, HERE / "train" / name)
    shrink(clothing / "validation" / name, 12, HERE / "test" / name)
for name in UNKNOWN:
    shrink(clothing / "validation" / name, 12, HERE / "unknown" / name)
