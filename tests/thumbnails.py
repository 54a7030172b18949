"""Drawn people and pictures by the demo's models -> workflows/<name>.jpg, for the template browser.

With COMFYUI_PATH set, `python -m multi_ipadapter.tests.thumbnails train sweep` draws these two
anew, and without names all. *Demo*, *Sweep* and *Evaluate* show what the demo's models make of
their references; all others show drawn people alone, as symbols of photographs.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from multi_ipadapter.demo import world
from multi_ipadapter.demo.people import clear_view, portrait, write_references
from multi_ipadapter.demo.portrait.canvas import Jitter
from multi_ipadapter.demo.prompt import ADAPTER_FILE, WEIGHT, demo_prompt
from multi_ipadapter.demo.server import ComfyServer
from multi_ipadapter.demo.verdict import verdicts
from multi_ipadapter.demo.world import WEIGHTS_FOLDER

from .tiles import DRAWING, INK, MEASURING, PORTRAITS, SIZE, TRAINING, Card, Point

WORKFLOWS = Path(__file__).parents[1] / "workflows"
MOST_BYTES = 60_000
LEFT, RIGHT, TOP, BOTTOM = 28, SIZE[0] - 24, 106, 338  # of what lies below the title
SIDE, MIDDLE, GAP = BOTTOM - TOP, (TOP + BOTTOM) / 2, 8
_STILL = Jitter(scale=1.0, shift=(0.0, 0.0), tilt=0.0, noise=0.0, blur=0.0, seed=0)
_DISGUISES = (
    {"pose": "left", "eyewear": "sunglasses", "background": "dots", "shirt": "green"},
    {"hat": "beanie", "hat colour": "blue", "background": "stripes", "shirt": "white"},
    {"lower face": "mask", "background": "green", "shirt": "yellow"},
    {"pose": "right", "hat": "cap", "background": "yellow", "shirt": "blue"},
)
_PORTRAIT = {"expression": "smiling", "background": "sunset", "shirt": "purple"}
Draw = Callable[[int, Sequence[tuple[float, int]]], list[Image.Image]]


def person(number: int, factors: dict[str, str]) -> Image.Image:
    """A drawn person; factors of the view that are not named have their first value."""
    options = world.VIEW_FACTORS.items()
    values = tuple(names.index(factors.get(name, names[0])) for name, names in options)
    who = world.identity(world.HELD_OUT.start + number)
    return world.draw(who, world.View(values, _STILL), 512)


def disguised(number: int, count: int) -> list[Image.Image]:
    """Pictures of a person, each of which hides a part."""
    return [person(number, factors) for factors in _DISGUISES[:count]]


def sd15(_: Draw) -> Card:
    """Some references, one picture."""
    card = Card("SD1.5", DRAWING)
    for k, picture in enumerate(disguised(30, 3)):
        card.tile(picture, (LEFT + 4 + 58 * k, TOP + 42 * k), 148, rim=4)
    card.arrow((312, MIDDLE), (370, MIDDLE))
    card.tile(person(30, _PORTRAIT), (RIGHT - SIDE, TOP), SIDE)
    return card


def sdxl(_: Draw) -> Card:
    """As for SD1.5, whose pictures are half as large."""
    card = Card("SDXL", DRAWING)
    side, tile = 316, (SIDE - 2 * GAP) / 3
    for k, picture in enumerate(disguised(16, 3)):
        y = TOP + k * (tile + GAP)
        card.line((LEFT + 36 + tile, y + tile / 2), (RIGHT - side, MIDDLE))
        card.tile(picture, (LEFT + 36, y), tile)
    card.tile(person(16, _PORTRAIT | {"background": "pink"}), (RIGHT - side, 22), side, rim=4)
    return card


def portraits(_: Draw) -> Card:
    """Faces found in a folder, and the best two of what was drawn."""
    card = Card("Portrait", PORTRAITS)
    tile = (SIDE - 2 * GAP) / 3
    found = [*disguised(63, 4), person(63, _PORTRAIT)]
    folder = [found[0], None, found[1], found[2], found[4], None, None, found[3], found[4]]
    for k, picture in enumerate(folder):
        place = (LEFT + k % 3 * (tile + GAP), TOP + k // 3 * (tile + GAP))
        card.tile(picture or person(k, {"crop": "close"}), place, tile, shade=0 if picture else 0.7)
        if picture:
            card.frame((place[0] + 14, place[1] + 14), tile - 28, tile - 22, card.theme.accent)
    card.arrow((276, MIDDLE), (334, MIDDLE))
    second = person(63, _PORTRAIT | {"background": "blue", "pose": "left"})
    card.tile(second, (RIGHT - 168, TOP), 168, 200, rim=4)
    card.tile(person(63, _PORTRAIT), (RIGHT - 264, TOP + 24), 178, 208, rim=4)
    card.badge((RIGHT - 264, TOP + 30), "1")
    return card


def pose(_: Draw) -> Card:
    """References and a pose make a portrait in that pose."""
    card = Card("Portrait + pose", PORTRAITS)
    tile = (SIDE - GAP) / 2
    for k, picture in enumerate(disguised(13, 2)):
        card.tile(picture, (LEFT, TOP + k * (tile + GAP)), tile)
    card.label((LEFT + tile + 23, MIDDLE), "+", size=56)
    _skeleton(card, (LEFT + tile + 46, TOP), 140, SIDE)
    card.arrow((LEFT + tile + 196, MIDDLE), (RIGHT - SIDE - 8, MIDDLE))
    turned = {"pose": "left", "expression": "smiling", "background": "yellow", "shirt": "blue"}
    card.tile(person(13, turned), (RIGHT - SIDE, TOP), SIDE)
    return card


def _skeleton(card: Card, place: Point, width: float, height: float) -> None:
    """Head and shoulders as a pose ControlNet reads them, turned as the portrait is."""
    card.tile(Image.new("RGB", (8, 8), "black"), place, width, height)
    joints = {
        "neck": (0.52, 0.52), "nose": (0.34, 0.32), "left eye": (0.30, 0.23),
        "right eye": (0.46, 0.23), "ear": (0.68, 0.29),
        "left shoulder": (0.20, 0.55), "right shoulder": (0.84, 0.55),
        "left elbow": (0.13, 0.90), "right elbow": (0.90, 0.90),
        "left hip": (0.40, 0.97), "right hip": (0.64, 0.97),
    }  # fmt: skip
    at = {name: (place[0] + x * width, place[1] + y * height) for name, (x, y) in joints.items()}
    for a, b, colour in (
        ("neck", "left shoulder", "#ff3030"),
        ("neck", "right shoulder", "#ff9a20"),
        ("left shoulder", "left elbow", "#ffe020"),
        ("right shoulder", "right elbow", "#40d040"),
        ("neck", "left hip", "#20b070"),
        ("neck", "right hip", "#20a0b0"),
        ("neck", "nose", "#3060ff"),
        ("nose", "left eye", "#a040ff"),
        ("nose", "right eye", "#ff40c0"),
        ("right eye", "ear", "#20c0e0"),
    ):
        card.line(at[a], at[b], 10, colour)
        card.disc(at[a], 7, colour)
        card.disc(at[b], 7, colour)


def two_people(_: Draw) -> Card:
    """Each on the own side of a mask."""
    card = Card("Two people", PORTRAITS)
    tile, wide, high = (SIDE - GAP) / 2, 276, 186
    left, top = (LEFT + RIGHT - wide) / 2, MIDDLE - high / 2
    for number, x in ((43, LEFT), (26, RIGHT - tile)):
        for k, picture in enumerate(disguised(number, 2)):
            card.tile(picture, (x, TOP + k * (tile + GAP)), tile)
    card.arrow((LEFT + tile + 2, MIDDLE), (left - 2, MIDDLE))
    card.arrow((RIGHT - tile - 2, MIDDLE), (left + wide + 2, MIDDLE))
    card.tile(_couple(43, 26), (left, top), wide, high)
    for k in range(10):
        y = top + k * high / 10
        card.line((left + wide / 2, y + 4), (left + wide / 2, y + 14), 4, INK)
    return card


def _couple(*numbers: int) -> Image.Image:
    """Two people side by side before one wall."""
    canvas = Image.new("RGB", (760, 512))
    for k, number in enumerate(numbers):
        shown = person(number, {"expression": "smiling", "shirt": ("blue", "yellow")[k]})
        canvas.paste(shown.crop((66, 0, 446, 512)), (380 * k, 0))
    return canvas


def train(_: Draw) -> Card:
    """A folder for each person, and a loss that falls."""
    card = Card("Train", TRAINING)
    tile = (SIDE - 2 * GAP) / 3
    for row, number in enumerate((57, 62, 46)):
        y = TOP + row * (tile + GAP)
        card.bar((LEFT, y), 3 * tile - 8, tile, "#2a5a4c")
        for k, picture in enumerate(disguised(number, 3)):
            card.tile(picture, (LEFT + 6 + k * (tile - 8), y + 6), tile - 12)
    card.arrow((LEFT + 3 * tile, MIDDLE), (LEFT + 3 * tile + 50, MIDDLE))
    _loss(card, LEFT + 3 * tile + 72, TOP, RIGHT, BOTTOM)
    return card


def train_celeba(_: Draw) -> Card:
    """Very many people."""
    card = Card("Train on CelebA", TRAINING)
    columns, rows, gap = 10, 4, 4
    tile = (RIGHT - LEFT - (columns - 1) * gap) / columns
    options = [world.VIEW_FACTORS[name] for name in ("background", "expression", "shirt")]
    for k in range(columns * rows):
        names = ("background", "expression", "shirt")
        factors = {name: some[k % len(some)] for name, some in zip(names, options, strict=True)}
        place = (LEFT + k % columns * (tile + gap), TOP + k // columns * (tile + gap))
        card.tile(person(k, factors), place, tile)
    return card


def _loss(card: Card, left: float, top: float, right: float, bottom: float) -> None:
    """Axes with a noisy curve that falls, and its mean."""
    card.line((left, top), (left, bottom), 4, INK)
    card.line((left, bottom), (right, bottom), 4, INK)
    noisy, mean = [], []
    for k in range(101):
        x = left + 8 + k / 100 * (right - left - 12)
        y = bottom - 24 - (bottom - top - 56) * math.exp(-k / 22)
        mean.append((x, y))
        noisy.append((x, y + 15 * math.sin(2.1 * k) * math.cos(1.3 * k * k)))
    card.curve(noisy, 3, "#3f9477")
    card.curve(mean, 7, card.theme.accent)


def demo(draw: Draw) -> Card:
    """References, and what the demo's models make of them."""
    card = Card("Demo", DRAWING)
    card.tag("no downloads")
    tile = (SIDE - GAP) / 2
    for k in range(4):
        place = (LEFT + k % 2 * (tile + GAP), TOP + k // 2 * (tile + GAP))
        card.tile(portrait(0, k).picture, place, tile)
    (result,) = draw(0, [(WEIGHT, 4)])
    card.arrow((LEFT + SIDE + 28, MIDDLE), (RIGHT - SIDE - 28, MIDDLE))
    card.tile(result, (RIGHT - SIDE, TOP), SIDE)
    return card


def sweep(draw: Draw) -> Card:
    """One person with several weights and numbers of references."""
    card = Card("Sweep", MEASURING)
    weights, numbers, tile = (0.0, 0.5, 1.0, 1.5), (1, 4), 96
    cells = [(weight, number) for number in numbers for weight in weights]
    lefts = [RIGHT - (len(weights) - k) * (tile + GAP) + GAP for k in range(len(weights))]
    tops = [BOTTOM - (len(numbers) - k) * (tile + GAP) + GAP for k in range(len(numbers))]
    for picture, place in zip(draw(63, cells), itertools.product(tops, lefts), strict=True):
        card.tile(picture, place[::-1], tile)
    card.label((LEFT, TOP + 10), "weight", "lm")
    for weight, x in zip(weights, lefts, strict=True):
        card.label((x + tile / 2, TOP + 10), f"{weight:g}")
    for number, y in zip(numbers, tops, strict=True):
        card.label((LEFT, y + tile / 2), f"N = {number}", "lm")
    return card


def evaluate(draw: Draw) -> Card:
    """A real picture, and how near to it generated ones come."""
    card = Card("Evaluate", MEASURING)
    view = clear_view(16)
    pictures = draw(16, [(0.0, 1), (WEIGHT, 1), (WEIGHT, 4)])
    card.tile(portrait(16, view).picture, (LEFT, TOP), SIDE)
    tile = (SIDE - 2 * GAP) / 3
    for k, (picture, told) in enumerate(zip(pictures, verdicts(pictures, 16, view), strict=True)):
        y, likeness = TOP + k * (tile + GAP), float(told.split()[-1])
        card.tile(picture, (LEFT + SIDE + 28, y), tile)
        x = LEFT + SIDE + 28 + tile + 16
        card.bar((x, y + 18), 150, tile - 36, "#6b5330")
        card.bar((x, y + 18), 150 * likeness, tile - 36, card.theme.accent)
        card.label((RIGHT, y + tile / 2), f"{likeness:.2f}", "rm")
    return card


CARDS: dict[str, Callable[[Draw], Card]] = {
    "demo": demo,
    "evaluate": evaluate,
    "portrait": portraits,
    "portrait_pose": pose,
    "sd15_multi_reference": sd15,
    "sdxl_multi_reference": sdxl,
    "sweep": sweep,
    "train": train,
    "train_celeba": train_celeba,
    "two_people": two_people,
}


def draw_by_demo(identity: int, cells: Sequence[tuple[float, int]]) -> list[Image.Image]:
    """What ComfyUI draws with the demo's models for each (weight, number of references)."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder), ["--cpu"]) as server:
        client = server.client
        adapter = server.base / "models" / "ipadapter" / ADAPTER_FILE
        shutil.copyfile(WEIGHTS_FOLDER / "adapter.safetensors", adapter)
        most = max(number for _, number in cells)
        names = [client.upload(path) for path in write_references(Path(folder), identity, most)]
        text = portrait(identity, clear_view(identity)).caption
        prompts = [demo_prompt(names[:number], weight, text=text) for weight, number in cells]
        files = itertools.chain.from_iterable(client.pictures(client.run(x)) for x in prompts)
        return [Image.open(io.BytesIO(file)).convert("RGB") for file in files]


def jpeg(picture: Image.Image) -> bytes:
    """As a file of `MOST_BYTES` at most."""
    for quality in range(92, 0, -4):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()


def main(names: Sequence[str]) -> None:
    """Draw the named workflows, or all."""
    for name in names or CARDS:
        file = WORKFLOWS / f"{name}.jpg"
        file.write_bytes(jpeg(CARDS[name](draw_by_demo).finish()))
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
