#!/usr/bin/env python3
"""Make the golden data of decoding and of resizing shapes with Pillow.

    python3 images.py

decode.json  small files of many kinds in hexadecimal, with the width, the height and the RGB bytes that
             Pillow decodes: ImageOps.exif_transpose(image).convert("RGB")
shapes.json  for a computed image of each HEIGHTxWIDTH and each way to resize it, the first half of the
             SHA-256 of its planes at all TARGETS, one after the other

Needs NumPy, Pillow and torchvision; versions.txt lists the versions used. Other versions of Pillow resize tall
images with the passes in a different order.
"""
import hashlib
import io
import json
import math
import struct
import warnings
import zlib
from collections.abc import Iterable
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

HERE = Path(__file__).resolve().parent
SHAPES = [*product([1, 2, 7, 31, 32, 33, 61, 200], repeat=2), (1, 5000), (5000, 1), (3, 1999), (1999, 3), (300, 401)]
TARGETS = [(1, 1), (32, 32), (7, 40), (40, 7), (24, 33), (224, 1)]
MEAN = [0.485, 0.1, 0.5]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
WIDTH, HEIGHT = 5, 3
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X * 50, Y * 100, X * 20 + Y * 60], -1).astype(np.uint8)
ALPHA = (X * 40 + Y * 30).astype(np.uint8)
IMAGE = Image.fromarray(RGB)
PALETTE = [(37 * i + k * 91) % 256 for i in range(16) for k in range(3)]
RAMP = [i for i in range(16) for _ in range(3)]


def saved(image: Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def exif(value: int, kind: int = 3, count: int = 1, order: str = "<") -> bytes:
    """EXIF metadata of an orientation, without a header."""
    short = kind in (3, 8)
    field = struct.pack(order + ("HH" if short else "I"), *((value, 3 if count > 1 else 0) if short else (value,)))
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IHHHI", 8, 1, 0x112, kind, count) + field + bytes(4)


def jpeg(*segments: bytes) -> bytes:
    """A JPEG with APP1 segments before its own."""
    y, x = np.mgrid[:8, :16]
    image = Image.fromarray(np.stack([x * 10, y * 20, x * 5 + y * 10], -1).astype(np.uint8))
    file = saved(image, "JPEG", quality=95, subsampling=0)
    marked = (b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in segments)
    return file[:2] + b"".join(marked) + file[2:]


def xmp(value: int) -> bytes:
    return b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%d"/>' % value


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(bits: int, colour: int, rows: np.ndarray) -> bytes:
    """A PNG from rows of big-endian bytes."""
    height, width = rows.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def png_text(value: int, zip: bool) -> bytes:
    body = (b"Exif\0\0" + exif(value)).hex()
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(body) // 2:8}\n{body[:72]}\n{body[72:]}\n", zip=zip)
    return saved(IMAGE, "PNG", pnginfo=text)


def tiff(order: str, bits: list[int], photometric: int, data: bytes, **tags: list[int]) -> bytes:
    """An uncompressed TIFF; tags are 16-bit, named t and their number."""
    entries = {256: [WIDTH], 257: [HEIGHT], 258: bits, 259: [1], 262: [photometric], 277: [len(bits)], 278: [HEIGHT]}
    entries |= {int(name[1:]): values for name, values in tags.items()} | {273: [0], 279: [len(data)]}
    at = 10 + 12 * len(entries) + 4
    directory, long = b"", b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if tag == 273:
            packed = struct.pack(order + "H", at + sum(2 * len(v) for v in entries.values() if len(v) > 2))
        elif len(packed) > 4:
            packed, long = struct.pack(order + "I", at + len(long)), long + packed
        directory += struct.pack(order + "HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return head + directory + bytes(4) + long + data


def packed(bits: int) -> bytes:
    """Rows of small numbers."""
    rows = ("".join(f"{(3 * x + y) % 2**bits:0{bits}b}" for x in range(WIDTH)) for y in range(HEIGHT))
    return b"".join(int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows)


def gif(canvas, frame, palette=None, local=None, background=0, transparent=None) -> bytes:
    """A GIF of 16 colours, whose codes are not compressed."""
    flags = lambda colours: 0x80 | (len(colours) // 3).bit_length() - 2 if colours else 0
    file = b"GIF89a" + struct.pack("<HHBBB", *canvas, flags(palette), background, 0) + bytes(palette or [])
    if transparent is not None:
        file += b"!\xf9\x04" + bytes([1, 0, 0, transparent, 0])
    file += b"," + struct.pack("<HHHHB", *frame, flags(local)) + bytes(local or [])
    codes = []
    for at in range(frame[2] * frame[3]):
        # Codes stay short if the table is cleared early.
        codes += [16] * (at % 8 == 0) + [7 * at % 15]
    bits = "".join(f"{code:05b}"[::-1] for code in [*codes, 17])
    data = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
    return file + bytes([4, len(data)]) + data + b"\0;"


def files():
    for value in range(1, 9):
        yield f"orientation-{value}.jpg", jpeg(b"Exif\0\0" + exif(value, order="<>"[value % 2]))
        yield f"orientation-{value}.png", saved(IMAGE, "PNG", exif=exif(value))
        yield f"orientation-{value}.webp", saved(IMAGE, "WEBP", lossless=True, exif=exif(value))
        yield f"orientation-{value}.tif", saved(IMAGE, "TIFF", tiffinfo={0x112: value})
    yield "orientation-0.png", saved(IMAGE, "PNG", exif=exif(0))
    yield "orientation-9.png", saved(IMAGE, "PNG", exif=exif(9))
    yield "orientation-of-32-bits.jpg", jpeg(b"Exif\0\0" + exif(6, kind=4))
    yield "orientation-big-endian-of-32-bits.jpg", jpeg(b"Exif\0\0" + exif(6, kind=4, order=">"))
    yield "orientation-signed.jpg", jpeg(b"Exif\0\0" + exif(6, kind=8))
    yield "orientation-of-two-values.jpg", jpeg(b"Exif\0\0" + exif(6, count=2))
    yield "orientation-as-byte.jpg", jpeg(b"Exif\0\0" + exif(6, kind=1))
    yield "orientation-after-another-entry.jpg", jpeg(
        b"Exif\0\0II*\0" + struct.pack("<IHHHI4sHHI4s", 8, 2, 271, 2, 4, b"abc\0", 0x112, 3, 1, b"\x08\0\0\0")
    )
    yield "header-twice.webp", saved(IMAGE, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(6))
    yield "exif-truncated.jpg", jpeg(b"Exif\0\0" + exif(6)[:18])
    yield "exif-of-noise.jpg", jpeg(b"Exif\0\0noise, not a directory")
    yield "exif-offset-outside.jpg", jpeg(b"Exif\0\0II*\0" + struct.pack("<I", 60000))
    yield "exif-twice.jpg", jpeg(b"Exif\0\0" + exif(8), b"Exif\0\0" + exif(3))
    yield "exif-before-xmp.jpg", jpeg(b"Exif\0\0" + exif(1), xmp(3))
    yield "xmp.jpg", jpeg(xmp(6))
    yield "xmp-element.webp", saved(IMAGE, "WEBP", lossless=True, xmp=b"<tiff:Orientation>8</tiff:Orientation>")
    yield "xmp.tif", saved(IMAGE, "TIFF", tiffinfo={700: b'<x tiff:Orientation="6"/>'})
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    yield "xmp.png", saved(IMAGE, "PNG", pnginfo=text)
    yield "exif-as-text.png", png_text(6, zip=False)
    yield "exif-as-compressed-text.png", png_text(8, zip=True)
    plain = saved(IMAGE, "PNG")
    yield "exif-after-pixels.png", plain[:-12] + chunk(b"eXIf", exif(6)) + plain[-12:]

    wide = RGB.astype(">u2") * 257 ^ 0xF0
    yield "rgb-of-16-bits.png", png(16, 2, wide)
    yield "grey-and-alpha-of-16-bits.png", png(16, 4, np.ascontiguousarray(np.dstack([wide[..., 0], wide[..., 1]])))
    yield "grey-and-alpha.png", saved(Image.fromarray(np.dstack([RGB[..., 0], ALPHA]), "LA"), "PNG")
    yield "alpha.png", saved(Image.fromarray(np.dstack([RGB, ALPHA]), "RGBA"), "PNG")
    yield "one-bit.png", saved(IMAGE.convert("1"), "PNG")
    colours = Image.frombytes("P", (WIDTH, HEIGHT), bytes(range(15)))
    colours.putpalette(PALETTE)
    yield "palette-and-alpha.png", saved(colours, "PNG", transparency=bytes(range(0, 240, 16)))
    inverted = ImageOps.invert(IMAGE)
    yield "animation.png", saved(IMAGE, "PNG", save_all=True, append_images=[inverted])
    yield "animation.webp", saved(IMAGE, "WEBP", lossless=True, save_all=True, append_images=[inverted])
    yield "alpha.webp", saved(Image.fromarray(np.dstack([RGB, ALPHA]), "RGBA"), "WEBP", lossless=True, exact=True)
    yield "alpha.bmp", saved(Image.fromarray(np.dstack([RGB, ALPHA]), "RGBA"), "BMP")
    yield "palette.bmp", saved(colours, "BMP")

    for name, order in (("little", "<"), ("big", ">")):
        for bits in (1, 2, 4, 8):
            data = packed(bits) if bits < 8 else RGB[..., 2].tobytes()
            colours = [9973 * i * k % 65536 for k in (1, 2, 3) for i in range(2**bits)]
            if bits < 8 or order == "<":
                yield f"palette-of-{bits}-bits-{name}.tif", tiff(order, [bits], 3, data, t320=colours)
            yield f"grey-of-{bits}-bits-{name}.tif", tiff(order, [bits], 1, data)
            yield f"white-is-zero-of-{bits}-bits-{name}.tif", tiff(order, [bits], 0, data)
    colours = [9973 * i % 65536 for i in range(48)]
    yield "palette-turned.tif", tiff("<", [4], 3, packed(4), t274=[6], t320=colours)
    yield "palette-compressed.tif", saved(IMAGE.quantize(16), "TIFF", compression="tiff_lzw")
    four = np.dstack([RGB, ALPHA]).tobytes()
    yield "associated-alpha.tif", tiff("<", [8] * 4, 2, np.dstack([np.minimum(RGB, ALPHA[..., None]), ALPHA]).tobytes(), t338=[1])
    yield "associated-alpha-turned.tif", tiff(">", [8] * 4, 2, np.dstack([RGB // 8, ALPHA]).tobytes(), t338=[1], t274=[5])
    yield "associated-alpha-of-16-bits.tif", tiff(
        "<", [16] * 4, 2, (np.dstack([RGB // 4, ALPHA]).astype("<u2") * 257 ^ 0xF0).tobytes(), t338=[1]
    )
    yield "brighter-than-alpha.tif", tiff("<", [8] * 4, 2, four, t338=[1])
    yield "alpha.tif", tiff("<", [8] * 4, 2, four, t338=[2])
    yield "unspecified-sample.tif", tiff("<", [8] * 4, 2, four, t338=[0])
    yield "two-more-samples.tif", tiff("<", [8] * 5, 2, np.dstack([RGB, ALPHA, ALPHA]).tobytes(), t338=[2, 0])
    yield "grey-and-alpha.tif", tiff("<", [8] * 2, 1, np.dstack([RGB[..., 0], ALPHA]).tobytes(), t338=[2])
    yield "rgb-of-16-bits.tif", tiff(">", [16] * 3, 2, wide.tobytes())
    yield "cmyk.tif", tiff("<", [8] * 4, 5, four)
    yield "fax.tif", saved(IMAGE.convert("1"), "TIFF", compression="group4")
    yield "big.tif", saved(IMAGE, "TIFF", big_tiff=True, tiffinfo={0x112: 6})

    small, part = (6, 5), (2, 1, 3, 3)
    yield "first-frame-small.gif", gif(small, part, PALETTE, background=7)
    yield "first-frame-small-transparent.gif", gif(small, part, PALETTE, background=7, transparent=9)
    yield "local-palette.gif", gif(small, part, PALETTE, PALETTE[::-1], background=3)
    yield "local-palette-transparent.gif", gif(small, part, PALETTE, PALETTE[::-1], transparent=4)
    yield "local-palette-only.gif", gif(small, part, None, PALETTE, background=3)
    yield "grey-transparent.gif", gif(small, part, RAMP, transparent=6)
    yield "grey-beyond-palette.gif", gif(small, (0, 0, *small), RAMP[:24])
    yield "beyond-palette.gif", gif(small, (0, 0, *small), PALETTE[:24])
    yield "frame-outside.gif", gif(small, (4, 3, 5, 4), PALETTE, transparent=3)
    yield "without-canvas.gif", gif((0, 0), (0, 0, 4, 3), PALETTE)
    yield "transparent.gif", gif(small, (0, 0, *small), PALETTE, transparent=0)


def decoded(file: bytes) -> dict[str, str | int]:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    return {"width": image.width, "height": image.height, "rgb": image.tobytes().hex(), "file": file.hex()}


def shape(height: int, width: int) -> dict[str, str]:
    y, x, channel = np.ogrid[:height, :width, :3]
    image = Image.fromarray(((7 * x * x + 13 * y * y + 5 * x * y + 101 * channel) % 256).astype(np.uint8))
    ways = product(["stretch", "crop 1", "crop 0.875", "crop 0.6", "pad"], FILTERS)
    return {f"{fit} {name}": hashed(resized(image, target, fit, name) for target in TARGETS) for fit, name in ways}


def resized(image: Image.Image, target: tuple[int, int], fit: str, name: str) -> Image.Image:
    match fit.split():
        case ["stretch"]:
            return image.resize(target[::-1], FILTERS[name])
        case ["pad"]:
            return ImageOps.pad(image, target[::-1], FILTERS[name], color=tuple(round(255 * mean) for mean in MEAN))
        case ["crop", share]:
            height, width = (math.floor(side / float(share)) for side in target)
            scale = max(Fraction(height, image.height), Fraction(width, image.width))
            # To torchvision, a single number is the short side.
            size = height if height == width else (int(image.height * scale), int(image.width * scale))
            return CenterCrop(target)(Resize(size, InterpolationMode(name))(image))


def hashed(images: Iterable[Image.Image]) -> str:
    planes = (np.asarray(image).transpose(2, 0, 1).tobytes() for image in images)
    return hashlib.sha256(b"".join(planes)).hexdigest()[:32]


def write(name: str, entries: dict) -> None:
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items())
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    # Pillow warns about the damaged files.
    warnings.simplefilter("ignore")
    write("decode.json", {name: decoded(file) for name, file in files()})
    write("shapes.json", {f"{height}x{width}": shape(height, width) for height, width in SHAPES})
