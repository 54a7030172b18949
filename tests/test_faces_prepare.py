"""From messy pictures to one person's best faces, through the real insightface code."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from multi_ipadapter.faces.align import crop
from multi_ipadapter.faces.insight import load_insight, load_pack
from multi_ipadapter.faces.prepare import Cancelled, NoFacesError, prepare
from multi_ipadapter.faces.results import THUMBNAILS, Settings

from .face_graphs import paint, shape, write_pack
from .test_faces_choose import people, views

FRONT, SIDE, TINY, LARGE = range(4)
SHAPES = [shape(1.0), shape(1.0, yaw=0.6), shape(0.7, at=(20, 20)), shape(2.0)]
# Numbers of embeddings: 0 to 49 views of the person, then 50 each of three others.
OTHER, THIRD = 50, 100


def embeddings() -> np.ndarray:
    generator = np.random.default_rng([0, 1])
    return np.concatenate([views(p, 50, generator) for p in people(0, 4)]).astype(np.float32)


def scene(seed: int, *faces: tuple[int, int, int, int]) -> np.ndarray:
    """A picture of its own; faces are x, y, shape and embedding."""
    small = np.random.default_rng(seed).integers(0, 200, (80, 80, 3), np.uint8)
    image = np.array(Image.fromarray(small).resize((640, 640), Image.Resampling.BICUBIC))
    image[..., 0] //= 4
    for x, y, number, code in faces:
        paint(image, x, y, SHAPES[number], number, code)
    return image


def given(**images: np.ndarray) -> list:
    return [(name, partial(np.copy, image)) for name, image in images.items()]


@pytest.fixture(scope="module")
def analyser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("insightface") / "buffalo_l"
    return load_pack(write_pack(folder, SHAPES, embeddings()))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Looks at 32 pixels only: for pictures without a face."""
    folder = tmp_path_factory.mktemp("quick")
    write_pack(folder, SHAPES, embeddings())
    return load_insight(folder / "det_10g.onnx", folder / "w600k_r50.onnx", sizes=(32,))


def messy() -> dict[str, np.ndarray]:
    return {
        "side": scene(1, (64, 64, SIDE, 1)),
        "empty": scene(2),
        "front": scene(3, (320, 96, FRONT, 2)),
        "stranger": scene(4, (64, 64, LARGE, OTHER)),
        "group": scene(
            5, (32, 32, LARGE, OTHER + 1), (416, 416, FRONT, 3), (416, 64, FRONT, THIRD)
        ),
        "tiny": scene(6, (96, 128, TINY, 4)),
        "large": scene(7, (64, 64, LARGE, 5)),
        "copy": (scene(7, (64, 64, LARGE, 5)) * 0.95).astype(np.uint8),
    }


def test_a_messy_set_becomes_one_persons_faces_best_first(analyser):
    images = messy()
    settings = Settings(size=128, at_least=80)
    result = prepare(given(**images), analyser, settings)
    reasons = {v.name: v.reason for v in result.verdicts}
    assert reasons == {
        "side": "",
        "empty": "no face found",
        "front": "",
        "stranger": "another person",
        "group": "",
        "tiny": "too small: 63 pixels, expected 80",
        "large": "",
        "copy": "near-duplicate of large",
    }
    names = list(images)
    kept = [names[number] for number in result.indices]
    assert (
        kept[0] == "large"
        and kept[-1] == "side"
        and set(kept) == {"large", "front", "group", "side"}
    )
    quality = [result.verdicts[number].quality.total for number in result.indices]
    assert quality == sorted(quality, reverse=True)
    assert [result.verdicts[number].place for number in result.indices] == [0, 1, 2, 3]
    assert result.faces.shape == (4, 128, 128, 3) and result.faces.dtype == np.uint8
    assert result.masks.shape == (4, 128, 128) and result.masks.dtype == np.float32
    for place, number in enumerate(result.indices):
        verdict = result.verdicts[number]
        pixels, mask = crop(images[verdict.name], verdict.face, 128)
        assert np.array_equal(result.faces[place], pixels)
        assert np.array_equal(result.masks[place], mask)
    chosen = result.verdicts[names.index("group")].face.landmarks  # neither larger nor surer
    assert np.abs(chosen - SHAPES[FRONT][4:].reshape(5, 2) - 416).max() < 1e-3
    text = str(result)
    assert text.startswith("4 of 8 pictures kept.") and "insightface buffalo_l" in text
    assert "The person is in 5 of 6 pictures with a face." in text
    for name in names:
        assert re.search(rf"^{name}: (kept as \d|left out, \w)", text, re.M)


def test_the_result_is_the_same_again_and_in_any_order(analyser):
    images = given(**messy())
    settings = Settings(size=64)
    first, second = (prepare(images, analyser, settings) for _ in range(2))
    assert first.indices == second.indices and np.array_equal(first.faces, second.faces)
    order = np.random.default_rng(0).permutation(len(images))
    mixed = prepare([images[n] for n in order], analyser, settings)
    assert [order[n] for n in mixed.indices] == first.indices
    assert np.array_equal(mixed.faces, first.faces)


def test_equally_good_faces_keep_their_order(analyser):
    same = scene(3, (320, 96, FRONT, 2))
    settings = Settings(size=64, drop_duplicates=False)
    result = prepare(given(a=same, b=same, c=same), analyser, settings)
    assert result.indices == [0, 1, 2]
    dropped = prepare(given(a=same, b=same, c=same), analyser, Settings(size=64))
    assert dropped.indices == [0]
    assert [v.reason for v in dropped.verdicts] == ["", *["near-duplicate of a"] * 2]


@pytest.mark.parametrize("seed", range(3))
def test_the_majority_is_kept_among_40_percent_others(analyser, seed):
    generator = np.random.default_rng(seed)
    codes = [*range(9), *(OTHER + n for n in range(4)), THIRD, 150]
    codes = [codes[n] for n in generator.permutation(15)]
    images = {f"p{c}": scene(c, (64, 64, LARGE if c > 9 else FRONT, c)) for c in codes}
    result = prepare(given(**images), analyser, Settings(size=64))
    assert sorted(result.verdicts[n].name for n in result.indices) == sorted(
        f"p{n}" for n in range(9)
    )


def test_the_largest_face_or_one_by_its_index_can_be_asked_for(analyser):
    group = messy()["group"]
    alone = messy()["front"]
    largest = prepare(given(group=group, alone=alone), analyser, Settings(size=64, who="largest"))
    assert {v.name: round(v.face.size) for v in largest.verdicts} == {"group": 179, "alone": 89}
    second = prepare(given(group=group, alone=alone), analyser, Settings(64, who="index", index=1))
    assert second.indices == [0] and round(second.verdicts[0].face.size) == 89
    assert second.verdicts[1].reason == "has 1 face large enough, so none at index 1"


def test_the_best_are_kept_in_the_order_asked_for(analyser):
    images = given(**messy())
    best = prepare(images, analyser, Settings(size=64, keep=2))
    every = prepare(images, analyser, Settings(size=64))
    assert best.indices == every.indices[:2]
    dropped = best.verdicts[every.indices[2]]
    assert re.fullmatch(r"2 better ones are kept \(quality 0\.\d\d\)", dropped.reason)
    in_order = prepare(images, analyser, Settings(size=64, keep=2, order="as they came"))
    assert in_order.indices == sorted(best.indices)


def test_a_tie_is_told(analyser):
    """A couple in every picture: the larger one is taken."""
    couple = [
        scene(n, (32, 32, LARGE, OTHER + n), (416, 416, FRONT, n), (416, 64, FRONT, THIRD))
        for n in range(2)
    ]
    images = {f"p{n}": image for n, image in enumerate(couple)}
    result = prepare(given(**images), analyser, Settings(size=64, drop_duplicates=False))
    assert [round(v.face.size) for v in result.verdicts] == [179, 179]
    assert "As many pictures show another person; the one whose faces are larger" in str(result)
    images["alone"] = scene(9, (64, 64, FRONT, 5))
    result = prepare(given(**images), analyser, Settings(size=64, drop_duplicates=False))
    assert len(result.indices) == 3 and "As many pictures" not in str(result)
    assert re.search(r"^p0: kept as \d, face [23] of 3 by size, quality", str(result), re.M)
    assert re.search(r"^alone: kept as \d, quality", str(result), re.M)


def test_without_a_recogniser_the_largest_face_counts_and_the_report_says_so(tmp_path):
    analyser = load_pack(write_pack(tmp_path / "buffalo_l", SHAPES, embeddings()))
    analyser.recogniser = ""
    result = prepare(
        given(group=messy()["group"], side=messy()["side"]), analyser, Settings(size=64)
    )
    assert sorted(result.indices) == [0, 1] and round(result.verdicts[0].face.size) == 179
    assert "cannot tell people apart, so the largest face of each picture counts" in str(result)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_go_on(analyser):
    def broken():
        raise ValueError("broken: damaged or cut off. Remove or replace the file.")

    def once(calls=[]):  # noqa: B006 - remembers
        calls.append(1)
        if len(calls) > 1:
            raise OSError("gone")
        return messy()["side"]

    images = given(**messy())
    images[1:1] = [("broken", broken), ("once", once)]
    images.append(("line", lambda: np.zeros((1, 4000, 3), np.uint8)))
    images.append(("flat", lambda: np.zeros((64, 64), np.uint8)))
    result = prepare(images, analyser, Settings(size=64, drop_duplicates=False))
    reasons = {v.name: v.reason for v in result.verdicts}
    assert reasons["broken"] == ("cannot be read: damaged or cut off. Remove or replace the file.")
    assert reasons["once"] == "cannot be read: gone"
    assert reasons["line"] == "no face found"
    assert reasons["flat"].startswith("the face analysis failed: ") and "\n" not in str(reasons)
    assert "1 of the 6 chosen could not be read a second time" in str(result)
    assert result.verdicts[2].place is None
    assert {result.verdicts[n].name for n in result.indices} >= {"side", "front", "large", "group"}
    assert len(result.faces) == len(result.indices) == len(set(result.indices))


def test_an_unusable_face_does_not_cost_the_others_of_its_picture(tmp_path):
    """Landmarks on one spot, and embeddings that are no numbers or nothing."""
    spot = shape(2.0)
    spot[4:] = 90
    known = embeddings()
    known[150], known[151] = np.nan, 0
    analyser = load_pack(write_pack(tmp_path / "buffalo_l", [*SHAPES, spot], known))

    def drawn(seed, *faces):
        image = scene(seed)
        for x, y, number, code in faces:
            paint(image, x, y, [*SHAPES, spot][number], number, code)
        return image

    images = {
        "clear": drawn(1, (64, 64, FRONT, 1)),
        "also": drawn(2, (64, 64, FRONT, 2)),
        "spot": drawn(3, (32, 32, 4, 3), (416, 416, FRONT, 3)),
        "nan": drawn(4, (32, 32, LARGE, 150), (416, 416, FRONT, 4)),
        "zero": drawn(5, (32, 32, LARGE, 151), (416, 416, FRONT, 5)),
        "none": drawn(6, (32, 32, LARGE, 150), (416, 416, FRONT, 151)),
    }
    numbers = "no usable face: the recogniser gives no usable numbers for its face."
    for who in ("majority", "largest"):
        result = prepare(given(**images), analyser, Settings(size=64, who=who))
        reasons = {v.name: v.reason for v in result.verdicts}
        assert reasons == dict.fromkeys(images, "") | {"none": numbers}
        kept = {result.verdicts[n].name: result.verdicts[n] for n in result.indices}
        assert {round(v.face.size) for v in kept.values()} == {89}
        assert kept["spot"].chosen == 1 and kept["spot"].found == 2
    by_index = prepare(given(**images), analyser, Settings(size=64, who="index"))
    reasons = {v.name: v.reason for v in by_index.verdicts if v.reason}
    assert reasons.keys() == {"spot", "nan", "zero", "none"}
    assert reasons["spot"] == "no usable face: The landmarks of the face lie on one spot."


def test_copies_of_one_picture_vote_once(analyser, tmp_path):
    """Four pictures of a person outvote five of the same photograph of somebody else."""
    images = {f"p{n}": scene(n, (64, 64, FRONT, n)) for n in range(4)}
    other = scene(9, (64, 64, LARGE, OTHER))
    for n in range(5):
        Image.fromarray(other).save(tmp_path / f"{n}.jpg", quality=98 - n)
        images[f"copy{n}"] = np.array(Image.open(tmp_path / f"{n}.jpg"))
    for drop in (True, False):
        result = prepare(given(**images), analyser, Settings(size=64, drop_duplicates=drop))
        assert sorted(result.verdicts[n].name for n in result.indices) == ["p0", "p1", "p2", "p3"]
        assert {v.reason for v in result.verdicts[4:]} == {"another person"}
    two = {name: images[name] for name in ("p0", "copy0", "copy1", "copy2")}
    result = prepare(given(**two), analyser, Settings(size=64))
    assert "As many pictures show another person" in str(result)


@pytest.mark.slow
def test_no_face_anywhere_lists_every_picture_with_its_reason(analyser, quick):
    images = {f"p{n}": scene(n) for n in range(3)} | {"tiny": scene(9, (64, 64, TINY, 4))}
    with pytest.raises(NoFacesError) as caught:
        prepare(given(**images), analyser, Settings(at_least=100))
    text = str(caught.value)
    assert text.startswith("None of the 4 pictures gives a face")
    assert text.count("no face found") == 3 and "tiny: too small: 63 pixels, expected 100" in text
    empty = scene(0)
    with pytest.raises(NoFacesError) as caught:
        prepare([(f"p{n}", lambda: empty) for n in range(33)], quick, Settings())
    assert [n for n in range(33) if f"\np{n}: no face found\n" not in str(caught.value)] == []


def test_progress_is_told_and_the_work_can_be_stopped_in_the_middle(analyser):
    images = given(**messy())
    steps, opened = [], []

    def watched(name, load):
        opened.append(name)
        return load()

    watching = [(name, partial(watched, name, load)) for name, load in images]
    result = prepare(
        watching, analyser, Settings(size=64), lambda done, total, what: steps.append((done, total))
    )
    kept = len(result.indices)
    assert steps == [(n, 8) for n in range(8)] + [(n, kept) for n in range(kept + 1)]
    opened.clear()
    with pytest.raises(Cancelled):
        prepare(watching, analyser, Settings(size=64), cancelled=lambda: len(opened) == 3)
    assert len(opened) == 3
    opened.clear()
    with pytest.raises(Cancelled):  # while cutting out
        prepare(watching, analyser, Settings(size=64), cancelled=lambda: len(opened) == 10)
    assert len(opened) == 10


def test_whoever_interrupts_by_an_exception_is_not_held_up(analyser):
    class Interrupt(BaseException):
        """As ComfyUI's."""

    def load():
        raise Interrupt

    with pytest.raises(Interrupt):
        prepare([("a", load)], analyser, Settings())


@pytest.mark.slow
def test_small_copies_are_kept_of_so_many_pictures_only(quick):
    image, found = scene(1), scene(3)
    paint(found, 0, 0, SHAPES[FRONT], FRONT, 2, zoom=20)
    images = [("found", lambda: found)] + [(f"p{n}", lambda: image) for n in range(THUMBNAILS + 5)]
    result = prepare(images, quick, Settings(size=64))
    shown = [v.thumbnail is not None for v in result.verdicts]
    assert shown == [True] * THUMBNAILS + [False] * 6
    assert result.verdicts[0].thumbnail.shape == (192, 192, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "x"}, "Got crop 'x'; expected one of loose, aligned"),
        ({"who": "x"}, "Got who 'x'; expected one of majority, largest, index"),
        ({"order": "x"}, "Got order 'x'; expected one of best first, as they came"),
        ({"size": 0}, "Got size 0; expected at least 16"),
        ({"margin": float("nan")}, "Got margin nan; expected at least 0"),
        ({"keep": -1}, "Got keep -1; expected at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


_MEMORY = """
import sys
from functools import partial
import numpy as np
from PIL import Image
from multi_ipadapter.pictures.sources import FolderSource
from multi_ipadapter.faces.insight import load_pack
from multi_ipadapter.faces.prepare import prepare
from multi_ipadapter.faces.results import Settings

def peak():
    "Most memory so far, in MB."
    if sys.platform == "win32":
        import psutil
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale

def pixels(source, number):
    return source.load(number).pixels.permute(1, 2, 0).contiguous().numpy()

source = FolderSource(sys.argv[2])
pictures = [(source.name(n), partial(pixels, source, n)) for n in range(len(source))]
analyser = load_pack(sys.argv[1])
settings = Settings(size=128, drop_duplicates=False)
prepare(pictures[:1], analyser, settings)
first = peak()
result = prepare(pictures, analyser, settings)
print(len(result.indices), len(pictures), round(first), round(peak()))
"""


@pytest.mark.process
def test_many_large_pictures_need_the_memory_of_one(tmp_path):
    """Each has 12 megapixels, 36 MB decoded; 8 of them, two of which are searched in vain."""
    pack = write_pack(tmp_path / "buffalo_l", SHAPES, embeddings())
    (tmp_path / "pictures").mkdir()
    image = np.zeros((3200, 3840, 3), np.uint8)
    for number in range(8):
        image[:] = (0, 60 + number, 90)
        if number % 4 != 3:
            paint(image, 64, 64, SHAPES[LARGE], LARGE, number, zoom=6)
        Image.fromarray(image).save(tmp_path / "pictures" / f"{number:02}.jpg", quality=95)
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(pack), str(tmp_path / "pictures")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept, count, first, peak = map(int, done.stdout.split())
    assert (kept, count) == (6, 8)
    assert peak - first < 3 * 36, f"{first} MB for one picture, {peak} MB for {count}"
