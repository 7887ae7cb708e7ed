#!/usr/bin/env python3
"""What Pillow sees in small pictures: the files of tests/pictures.

  NAME.jpg, NAME.png   a picture of every kind that the decoders read
  values.bin           their pixels as seen, by Pillow: 3 bytes a pixel, row by row
  values.txt           a line for each part of values.bin, in order: FILE CHANGE WIDTH HEIGHT
CHANGE is "whole", "scale M" where Pillow scales by M/8 while it decodes a JPEG, or "reduce X Y"
where Image.reduce averages blocks of X × Y pixels.

Pillow writes no interlaced PNG and none of 16-bit colours, so PNG files are written here; where
Pillow reads less than the file says (16 bits, transparent greys of 4 bits), the values are computed
from what was written.

Needs Pillow and numpy.
"""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "pictures"
# y, x of the first pixel and steps of a pass
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1))
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def drawing(width, height, seed):
    """Colours that vary slowly, a sharp edge and a little noise: [height, width, 3] u8."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [128 + 100 * np.sin(seed + x / (5 + c) + c) * np.cos(y / (7 - c) + seed)
             for c in range(3)]
    image = np.stack(waves, axis=-1)
    image[(x > width * 0.6) & (y > height * 0.4)] = (240, 30, 60)
    image += np.random.default_rng(seed).normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def over_white(image):
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


class Pictures:
    def __init__(self):
        DIRECTORY.mkdir(exist_ok=True)
        self.lines, self.pixels, self.bytes = [], b"", 0

    def file(self, name, data):
        (DIRECTORY / name).write_bytes(data)
        self.bytes += len(data)

    def values(self, name, change, image):
        pixels = np.asarray(image.convert("RGB"))
        self.pixels += pixels.tobytes()
        self.lines.append(f"{name} {change} {pixels.shape[1]} {pixels.shape[0]}\n")

    def picture(self, name, data, expected=None):
        self.file(name, data)
        if expected is None:
            expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        self.values(name, "whole", over_white(expected))

    def finish(self):
        self.file("values.bin", self.pixels)
        self.file("values.txt", "".join(self.lines).encode())


def jpeg(pixels, mode="RGB", **options):
    image = Image.fromarray(pixels)
    image = image.convert(mode) if mode != "CMYK" else image
    data = io.BytesIO()
    image.save(data, "JPEG", **({"quality": 90} | options))
    return data.getvalue()


def cmyk_image(pixels):
    black = 255 - pixels[..., :1] // 3
    return Image.fromarray(np.concatenate([pixels, 255 - black], axis=-1), "CMYK")


def as_ycck(data):
    """Pillow writes no YCCK; the same samples read as YCCK are as good a test."""
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\x02" + data[at + 1:]


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "a camera"
    return block.tobytes()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed_rows(samples, depth):
    """Rows of samples [height, width, n] as PNG stores them, all with filter Up."""
    height = samples.shape[0]
    flat = samples.reshape(height, -1)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        rows = flat.astype(np.uint8)
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    return np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1).tobytes()


def png(samples, colour, depth, chunks=(), interlaced=False):
    """samples [height, width] or [height, width, n]."""
    height, width = samples.shape[:2]
    samples = samples.reshape(height, width, -1)
    if interlaced:
        passes = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7]
        data = b"".join(packed_rows(part, depth) for part in passes if part.size)
    else:
        data = packed_rows(samples, depth)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + b"".join(chunk(kind, content) for kind, content in chunks)
            + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))


def eight_bits(samples):
    """16 bits to 8, rounded."""
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def make_jpegs(out):
    colours = drawing(37, 27, 1)
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        out.picture(f"{name}.jpg", jpeg(colours, subsampling=subsampling))
    out.picture("grey.jpg", jpeg(colours, "L"))
    out.picture("progressive.jpg", jpeg(colours, progressive=True, subsampling=2))
    out.picture("restart.jpg", jpeg(colours, restart_marker_blocks=2))
    data = io.BytesIO()
    cmyk_image(drawing(21, 18, 2)).save(data, "JPEG", quality=90)
    out.picture("cmyk.jpg", data.getvalue())
    out.picture("ycck.jpg", as_ycck(data.getvalue()))
    small = drawing(20, 12, 3)
    for orientation in range(1, 9):
        out.picture(f"orientation_{orientation}.jpg",
                    jpeg(small, subsampling=0, exif=exif(orientation)))


def make_pngs(out):
    random = np.random.default_rng(4)
    colours = drawing(19, 13, 5)
    grey = colours[..., 0].copy()
    alpha = random.integers(0, 256, (13, 19, 1), dtype=np.uint8)
    out.picture("rgb.png", png(colours, RGB, 8))
    out.picture("rgb_interlaced.png", png(colours, RGB, 8, interlaced=True))
    out.picture("rgba.png", png(np.concatenate([colours, alpha], -1), RGBA, 8))
    out.picture("grey_alpha.png", png(np.concatenate([grey[..., None], alpha], -1), GREY_ALPHA, 8))
    for depth in (1, 2, 4):
        out.picture(f"grey_{depth}.png", png(grey >> (8 - depth), GREY, depth))
    out.picture("grey_2_interlaced.png", png(grey >> 6, GREY, 2, interlaced=True))
    shown = np.where(grey >> 4 == 9, 255, (grey >> 4) * 17).astype(np.uint8)
    out.picture("grey_transparent.png",
                png(grey >> 4, GREY, 4, [(b"tRNS", struct.pack(">H", 9))]), Image.fromarray(shown))
    transparent = struct.pack(">HHH", *(int(c) for c in colours[6, 7]))
    out.picture("rgb_transparent.png", png(colours, RGB, 8, [(b"tRNS", transparent)]))
    palette = random.integers(0, 256, (16, 3), dtype=np.uint8).tobytes()
    out.picture("palette_4.png", png(grey >> 4, PALETTE, 4, [(b"PLTE", palette)]))
    transparent = bytes(range(0, 160, 16))
    out.picture("palette_transparent.png",
                png(grey >> 4, PALETTE, 8, [(b"PLTE", palette), (b"tRNS", transparent)]))
    for name, colour, n in (("grey_16", GREY, 1), ("rgb_16", RGB, 3), ("rgba_16", RGBA, 4)):
        samples = random.integers(0, 65536, (13, 19, n), dtype=np.uint16)
        out.picture(f"{name}.png", png(samples, colour, 16),
                    Image.fromarray(eight_bits(samples).squeeze()))
    tiff = exif(6).removeprefix(b"Exif\0\0")
    out.picture("orientation_6.png", png(colours, RGB, 8, [(b"eXIf", tiff)]))


def make_reduced(out):
    """Pillow's own scaling of JPEG while decoding, and its Image.reduce."""
    data = jpeg(drawing(101, 75, 6), subsampling=2, quality=85)
    out.file("photograph.jpg", data)
    for eighths in (4, 2, 1):
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (101 * eighths // 8, 75 * eighths // 8))
        image.load()
        out.values("photograph.jpg", f"scale {eighths}", image)
    pixels = drawing(53, 41, 7)
    out.file("reduced.png", png(pixels, RGB, 8))
    out.file("reduced_grey.png", png(pixels[..., 1], GREY, 8))
    for x, y in ((2, 2), (3, 2), (1, 5), (7, 1), (13, 10)):
        for name, image in (("reduced.png", Image.fromarray(pixels)),
                            ("reduced_grey.png", Image.fromarray(pixels[..., 1]))):
            out.values(name, f"reduce {x} {y}", image.reduce((x, y)))


def main():
    out = Pictures()
    make_jpegs(out)
    make_pngs(out)
    make_reduced(out)
    out.finish()
    print(f"{out.bytes} bytes in {DIRECTORY}", file=sys.stderr)


if __name__ == "__main__":
    main()
