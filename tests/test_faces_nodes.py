"""The nodes that find and prepare faces, on files as users have them."""

from __future__ import annotations

import os
import shutil
import sys

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from multi_ipadapter.faces.insight import InsightFace, MissingPackError
from multi_ipadapter.faces.prepare import NoFacesError
from multi_ipadapter.nodes.faces.analysis import LoadFaceAnalysis, load_analyser, packs
from multi_ipadapter.nodes.faces.mediapipe import MissingMediaPipeError
from multi_ipadapter.nodes.faces.prepare import PrepareFaces

from .face_graphs import write_pack, write_recogniser
from .test_faces_align import of_insightface
from .test_faces_prepare import FRONT, LARGE, OTHER, SHAPES, SIDE, embeddings, scene


@pytest.fixture
def insight(base):
    """ComfyUI's models/insightface."""
    return base / "models" / "insightface"


@pytest.fixture
def pack(insight):
    """buffalo_l, where insightface itself expects it."""
    return write_pack(insight / "models" / "buffalo_l", SHAPES, embeddings())


def options() -> list[str]:
    return LoadFaceAnalysis.define_schema().inputs[0].options


def person(number: int, place: int = 64) -> np.ndarray:
    return scene(number + 20, (place, 64, FRONT, number))


def write_messy(folder) -> None:
    """One person in every kind of file that phones and programs write, and files that are none."""
    folder.mkdir(parents=True)
    turned = np.rot90(person(0))  # to the left; the tag says so
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(turned)).save(
        folder / "a-turned.jpg", exif=exif, quality=95
    )
    Image.fromarray(person(1)).save(folder / "b.png")
    Image.fromarray(person(2)).convert("CMYK").save(folder / "c-cmyk.tif")
    deep = np.full((64, 64), 20000, np.uint16)
    Image.fromarray(deep).save(folder / "d-16-bit.png")
    frames = [Image.fromarray(person(3)), Image.fromarray(scene(90))]
    frames[0].save(folder / "e-animated.png", save_all=True, append_images=frames[1:])
    whole = folder / "f-cut.jpg"
    Image.fromarray(person(4)).save(whole, quality=95)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    Image.new("1", (9400, 9500)).save(folder / "g-huge.png")
    (folder / "h-text.jpg").write_text("no picture")
    Image.fromarray(scene(91, (64, 64, LARGE, OTHER))).save(
        folder / "i-stranger.webp", lossless=True
    )
    (folder / "j.heic").write_bytes(b"ftypheic")
    Image.fromarray(person(5)).convert("RGBA").save(folder / "k-alpha.png")


@pytest.mark.slow
def test_a_messy_folder_becomes_faces_and_each_file_is_accounted_for(base, pack):
    write_messy(base / "input" / "messy")
    (analyser,) = LoadFaceAnalysis.execute().args
    faces, masks, indices, sheet, report = PrepareFaces.execute(analyser, {}, folder="messy").args
    said = {line.split(":")[0]: line for line in report.splitlines()}
    for name in ("a-turned.jpg", "b.png", "c-cmyk.tif", "e-animated.png", "k-alpha.png"):
        assert f"{name}: kept as" in said[name]
    assert "no face found" in said["d-16-bit.png"]
    assert "damaged or cut off" in said["f-cut.jpg"]
    assert "more than 89,000,000 pixels" in said["g-huge.png"]
    assert "not a picture" in said["h-text.jpg"]
    assert "another person" in said["i-stranger.webp"]
    assert "left out, cannot be read: is none of .jpg" in said["j.heic"]
    assert faces.shape == (5, 512, 512, 3) and faces.dtype == torch.float32
    assert masks.shape == (5, 512, 512) and faces.min() >= 0 and faces.max() <= 1
    assert sorted(indices) == [0, 1, 2, 4, 9]
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3 and sheet.std() > 0.1
    front = PrepareFaces.execute(analyser, {}, folder="messy", size=64, order="as they came").args[
        0
    ]
    assert front.shape == (5, 64, 64, 3)
    upright = scene(20, (64, 64, FRONT, 0))
    single = PrepareFaces.execute(analyser, {"image_0": _image(upright)}, size=64).args[0]
    assert (front[0] - single[0]).abs().mean() < 0.02  # the turned one, upright


def _image(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).float() / 255


def test_images_and_a_folder_count_together_and_sizes_may_differ(base, pack):
    (base / "input" / "more").mkdir()
    Image.fromarray(person(7)).save(base / "input" / "more" / "x.png")
    images = {
        "image_0": _image(person(0), scene(93)),
        "image_4": _image(person(1)[:, :320]),
    }
    (analyser,) = LoadFaceAnalysis.execute("buffalo_l").args
    settings = {"size": 64, "order": "as they came", "drop_duplicates": False}
    result = PrepareFaces.execute(analyser, images, "more", at_least=32, **settings).args
    assert result[2] == [0, 2, 3]
    assert result[4].splitlines()[0] == "3 of 4 pictures kept."
    assert (
        "image_0, picture 2: left out, no face found" in result[4]
        and "x.png: kept as 2" in result[4]
    )


def test_the_sheet_shows_each_picture_framed_by_what_was_done(base, pack):
    (analyser,) = LoadFaceAnalysis.execute().args
    images = {"image_0": _image(person(0), scene(95), person(1))}
    sheet = PrepareFaces.execute(analyser, images, size=64).args[3][0]
    pixels = (sheet * 255).round().to(torch.uint8).numpy()
    kept, left = (np.array([0, 158, 115]), np.array([213, 94, 0]))
    row = pixels[100:101]
    for colour, count in ((kept, 2), (left, 1)):
        there = (row == colour).all(2)[0]
        assert there.sum() >= 6 * count  # three pixels on each side
    assert (pixels == kept).all(2).sum() > 1.8 * (pixels == left).all(2).sum()


def test_no_face_in_any_picture_is_an_error_that_lists_them(base, pack):
    (analyser,) = LoadFaceAnalysis.execute().args
    with pytest.raises(NoFacesError, match="image_0: no face found\nimage_7: no face found"):
        PrepareFaces.execute(analyser, {"image_0": _image(scene(1)), "image_7": _image(scene(2))})


def test_an_aligned_face_is_that_of_insightface_to_a_grey_level(base, pack):
    """Small faces are enlarged, large ones are made smaller."""
    (analyser,) = LoadFaceAnalysis.execute().args
    for image in (scene(97, (64, 64, FRONT, 1)), scene(98, (64, 64, LARGE, 2))):
        (found,) = analyser.detect(image)
        for size in (112, 256, 512):
            settings = {"size": size, "crop": "aligned", "at_least": 1}
            faces = PrepareFaces.execute(analyser, {"image_0": _image(image)}, **settings).args[0]
            theirs = of_insightface(image, found.landmarks, size)
            assert (faces[0] * 255 - torch.from_numpy(theirs)).abs().max() <= 1.01
            assert theirs.std() > 10


def test_a_folder_of_nothing_but_unread_kinds_is_told_file_by_file(base, pack):
    folder = base / "input" / "phone"
    for name in ("b/2.HEIC", "b/1.HEIC", "a/3.HEIC", *(f"{n:02}.HEIC" for n in range(12))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"ftypheic")
    (analyser,) = LoadFaceAnalysis.execute().args
    with pytest.raises(NoFacesError) as caught:
        PrepareFaces.execute(analyser, {}, folder="phone")
    text = str(caught.value)
    assert text.startswith("None of the 15 pictures gives a face") and str(base) not in text
    named = [line.split(":")[0] for line in text.splitlines() if "is none of .jpg" in line]
    first = [f"{n:02}.HEIC" for n in range(12)]
    assert named == [*first, "a/3.HEIC", "b/1.HEIC", "b/2.HEIC"]
    images = {"image_0": _image(person(0))}
    faces, _, indices, _, report = PrepareFaces.execute(analyser, images, "phone", size=64).args
    assert len(faces) == 1 and indices == [0]
    assert report.startswith("1 of 16 pictures kept.")


def test_an_empty_folder_is_named(base, pack):
    (base / "input" / "empty").mkdir()
    (analyser,) = LoadFaceAnalysis.execute().args
    with pytest.raises(ValueError, match="Got no pictures in the folder 'empty'. Connect images"):
        PrepareFaces.execute(analyser, {}, folder="empty")
    images = {"image_0": _image(person(0))}
    assert PrepareFaces.execute(analyser, images, "empty", size=64).args[2] == [0]


def test_an_input_that_is_no_image_is_named_and_the_others_go_on(base, pack):
    (analyser,) = LoadFaceAnalysis.execute().args
    images = {"image_0": torch.rand(1, 64, 64, 1), "image_3": _image(person(0), person(1))}
    images["image_5"] = torch.full((1, 64, 64, 3), float("nan"))
    _, _, indices, _, report = PrepareFaces.execute(
        analyser, images, size=64, order="as they came"
    ).args
    assert indices == [1, 2]
    assert (
        "image_0: left out, cannot be read: Got image_0 of torch.float32 [1, 64, 64, 1]" in report
    )
    assert "image_3, picture 2: kept as 1" in report
    assert "image_5: left out, cannot be read: pixels that are not finite" in report


def test_nothing_to_prepare_and_folders_elsewhere_are_refused(base, pack, tmp_path):
    (analyser,) = LoadFaceAnalysis.execute().args
    with pytest.raises(ValueError, match="Connect images, or give the name of a folder"):
        PrepareFaces.execute(analyser, {})
    outside = tmp_path / "outside"
    write_messy(outside)
    os.symlink(outside, base / "input" / "link")
    for name in (str(outside), "../outside", "link", "none", "."):
        with pytest.raises(ValueError, match=r"for folder; expected the name of a folder below"):
            PrepareFaces.execute(analyser, {}, folder=name)


def test_comfyui_looks_again_when_the_folder_changes(base, pack):
    folder = base / "input" / "set"
    folder.mkdir()
    Image.fromarray(person(0)).save(folder / "a.png")
    before = PrepareFaces.fingerprint_inputs(folder="set", images={})
    assert before == PrepareFaces.fingerprint_inputs(folder="set", images={})
    Image.fromarray(person(1)).save(folder / "b.png")
    assert before != PrepareFaces.fingerprint_inputs(folder="set", images={})
    both = PrepareFaces.fingerprint_inputs(folder="set", images={})
    newest = (folder / "b.png").stat().st_mtime_ns
    os.utime(folder / "a.png", ns=(1, newest - 10**9))  # older than the newest
    older = PrepareFaces.fingerprint_inputs(folder="set", images={})
    (folder / "a.png").rename(folder / "c.png")
    assert len({both, older, PrepareFaces.fingerprint_inputs(folder="set", images={})}) == 3
    assert PrepareFaces.fingerprint_inputs(folder=None) == ""
    assert PrepareFaces.fingerprint_inputs(folder="none") == "missing"


def test_the_choice_lists_what_is_there_and_what_is_published(base, pack, insight):
    assert options() == ["auto", "buffalo_l", "antelopev2", "mediapipe"]
    names = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")
    write_pack(insight / "models" / "antelopev2" / "antelopev2", SHAPES, embeddings(), names)
    write_pack(insight / "own", SHAPES, embeddings(), ("d.onnx", "r.onnx"))
    (insight / "models" / "empty").mkdir()
    assert options() == ["auto", "buffalo_l", "antelopev2", "own", "mediapipe"]
    assert load_analyser("antelopev2").recogniser == "glintr100"
    assert load_analyser("own").recogniser == "r"
    assert load_analyser("auto").recogniser == "w600k_r50"
    shutil.rmtree(pack)
    assert load_analyser("auto").recogniser == "glintr100"


@pytest.mark.parametrize("root", ["", "models"])
def test_other_models_beside_the_packs_are_passed_over(base, insight, root):
    """Such as inswapper's: neither a detector nor a recogniser."""
    other = insight / root / "inswapper"
    other.mkdir(parents=True)
    write_recogniser(other / "inswapper_128.onnx", width=256)
    with pytest.raises(MissingPackError, match="'buffalo_l'.*Or use ComfyUI's own MediaPipe"):
        load_analyser("auto")
    write_pack(insight / root / "own", SHAPES, embeddings(), ("d.onnx", "r.onnx"))
    assert load_analyser("auto").recogniser == "r"
    pack = write_pack(insight / root / "buffalo_l", SHAPES, embeddings())
    assert load_analyser("auto").recogniser == "w600k_r50"
    (pack / "det_10g.onnx").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="det_10g.onnx .* is not a complete ONNX model"):
        load_analyser("auto")


def test_packs_of_a_registered_folder_are_found(base, insight, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    write_pack(elsewhere / "models" / "buffalo_l", SHAPES, embeddings())
    assert packs() == {}
    folder_paths.folder_names_and_paths["insightface"] = ([str(elsewhere)], set())
    assert isinstance(load_analyser("auto"), InsightFace)


def test_a_missing_pack_says_where_it_belongs_and_where_it_is_published(base):
    expected = (
        r"no face model pack 'antelopev2'. Expected scrfd_10g_bnkps.onnx and glintr100.onnx in "
        r"models/insightface/models/antelopev2. insightface publishes .*github.com/deepinsight/"
        r"insightface.*non-commercial"
    )
    with pytest.raises(MissingPackError, match=expected):
        LoadFaceAnalysis.execute("antelopev2")
    with pytest.raises(MissingPackError, match="'buffalo_l'.*Or use ComfyUI's own MediaPipe"):
        LoadFaceAnalysis.execute()


def test_comfyui_loads_again_when_a_pack_is_replaced(base, pack):
    before = LoadFaceAnalysis.fingerprint_inputs()
    assert before == LoadFaceAnalysis.fingerprint_inputs("auto")
    os.utime(pack / "det_10g.onnx", ns=(1, 1))
    assert before != LoadFaceAnalysis.fingerprint_inputs()


def test_a_smaller_face_can_be_turned_away_and_the_pose_counts(base, pack):
    (analyser,) = LoadFaceAnalysis.execute().args
    aside = scene(96, (64, 64, SIDE, 1))
    images = {"image_0": _image(aside, person(0))}
    assert PrepareFaces.execute(analyser, images, size=64).args[2] == [1, 0]
    with pytest.raises(NoFacesError, match="too small: 89 pixels, expected 90"):
        PrepareFaces.execute(analyser, images, size=64, at_least=90)


def test_comfyui_shows_progress_and_can_cancel(base, pack):
    (analyser,) = LoadFaceAnalysis.execute().args
    images = {"image_0": _image(person(0), person(1), person(2))}
    steps = []

    def told(value, total, preview, node_id=None):
        steps.append((value, total))
        if len(steps) == cancel_at:
            comfy.model_management.interrupt_current_processing(True)

    comfy.utils.set_progress_bar_global_hook(told)
    try:
        cancel_at = 0
        PrepareFaces.execute(analyser, images, size=64)
        assert (steps[0], steps[-1]) == ((0, 3), (3, 3))  # core may leave out what is between
        steps.clear()
        cancel_at = 1
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            PrepareFaces.execute(analyser, images, size=64)
        assert steps == [(0, 3)]
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        comfy.model_management.interrupt_current_processing(False)


def test_an_older_comfyui_is_told_of(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_extras.nodes_mediapipe", None)
    with pytest.raises(MissingMediaPipeError, match="Update ComfyUI .v0.30.0"):
        LoadFaceAnalysis.execute("mediapipe")
