"""CelebA from files as its authors wrote them, complete and not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from multi_ipadapter.pictures.captions import ATTRIBUTES, NO_ATTRIBUTES, celeba_caption
from multi_ipadapter.pictures.celeba import ALIGNED, WILD
from multi_ipadapter.pictures.load import load_picture
from multi_ipadapter.pictures.open import open_dataset, recognise

OWNERS = [2880, 2937, 2880, 8692, 2937, 2880, 8692, 5805, 5805]
PARTS = [0, 0, 0, 1, 0, 0, 1, 2, 2]
POINTS = "69 109 106 113 77 142 73 152 108 154"
NAMES = [f"{i:06}.jpg" for i in range(1, len(OWNERS) + 1)]


def has(name: str, i: int) -> bool:
    return (i + ATTRIBUTES.index(name)) % 3 == 0


def write_celeba(root, newline="\n", folder=ALIGNED, wild=False):
    """With the odd headers and blanks of the originals."""
    (root / folder).mkdir(parents=True)
    for i, name in enumerate(NAMES):
        image = Image.new("RGB", (178, 218), (20 * i, 100, 50))
        image.paste((255, 255, 0), (100, 40, 160, 120))
        image.save(root / folder / name)
    rows = range(len(NAMES))

    def write(name, lines):
        (root / name).write_bytes(newline.join([*lines, ""]).encode())

    write("identity_CelebA.txt", [f"{NAMES[i]} {OWNERS[i]}" for i in rows])
    write("list_eval_partition.txt", [f"{NAMES[i]} {PARTS[i]}" for i in rows])
    attributes = [
        f"{NAMES[i]} " + " ".join(f"{1 if has(a, i) else -1:2d}" for a in ATTRIBUTES) for i in rows
    ]
    write("list_attr_celeba.txt", [str(len(NAMES)), " ".join(ATTRIBUTES) + " ", *attributes])
    points = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y"
    landmarks = [str(len(NAMES)), points + " rightmouth_x rightmouth_y"]
    landmarks += [f"{name} {POINTS.replace(' ', '    ')}  " for name in NAMES]
    write(f"list_landmarks_{'' if wild else 'align_'}celeba.txt", landmarks)
    if wild:
        boxes = [f"{name}    100   40     60    80" for name in NAMES]
        write("list_bbox_celeba.txt", [str(len(NAMES)), "image_id x_1 y_1 width height", *boxes])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_identities_and_splits(tmp_path, newline):
    write_celeba(tmp_path, newline)
    assert recognise(tmp_path) == "celeba"
    train = open_dataset(tmp_path)
    assert list(train.identities) == ["2880", "2937"]
    assert [train.name(n) for n in train.pictures_of(0)] == [
        f"{ALIGNED}/{NAMES[i]}" for i in (0, 2, 5)
    ]
    assert list(open_dataset(tmp_path, split="valid").identities) == ["8692"]
    assert list(open_dataset(tmp_path, split="test").identities) == ["5805"]
    assert len(open_dataset(tmp_path, split="all")) == len(NAMES)
    assert train.skipped == [] and train.notes == []


def test_captions_follow_the_attributes(tmp_path):
    write_celeba(tmp_path)
    index = open_dataset(tmp_path, split="all", seed=7)
    for number in range(len(index)):
        picture = index.picture(number)
        i = NAMES.index(picture.path.name)
        present = {a for a in ATTRIBUTES if has(a, i)}
        assert picture.caption == index.caption(number) == celeba_caption(present, 7, NAMES[i])
        assert picture.identity == str(OWNERS[i])
    other = open_dataset(tmp_path, split="all", seed=8)
    assert [index.caption(n) for n in range(9)] != [other.caption(n) for n in range(9)]


def test_masks_from_landmarks(tmp_path):
    write_celeba(tmp_path)
    index = open_dataset(tmp_path)
    assert index.picture(0).landmarks == tuple(map(float, POINTS.split()))
    pixels, mask = load_picture(index, 0, 64, "crop")
    assert pixels.shape == (64, 64, 3) and mask.shape == (64, 64)
    assert mask[33, 32] == 1 and mask[0, 0] == 0


def test_in_the_wild_pictures_are_cut_around_the_face(tmp_path):
    write_celeba(tmp_path, folder=WILD, wild=True)
    index = open_dataset(tmp_path)
    assert index.picture(0).box == (50, 0, 210, 160)  # 80 wide box, twice its side, centre 130, 80
    pixels, mask = load_picture(index, 0, 32, "crop")  # shows 50..178 by 16..144 of the picture
    yellow = (pixels.int() - torch.tensor([255, 255, 0])).abs().sum(-1) < 60
    columns, rows = yellow.any(0).nonzero().flatten(), yellow.any(1).nonzero().flatten()
    assert columns.min() >= 12 and columns.max() <= 28  # (100 - 50) / 4 .. (160 - 50) / 4
    assert rows.min() in (6, 7) and rows.max() <= 26  # (40 - 16) / 4 .. (120 - 16) / 4
    assert mask[:, 10:20].max() == 1


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("list_attr_celeba.txt", f"every caption is {NO_ATTRIBUTES!r}"),
        ("list_landmarks_align_celeba.txt", "no face masks"),
        ("list_eval_partition.txt", "all pictures are used"),
    ],
)
def test_a_missing_file_is_said_with_what_is_lost(tmp_path, missing, said):
    write_celeba(tmp_path)
    (tmp_path / missing).unlink()
    index = open_dataset(tmp_path)
    assert len(index.notes) == 1 and missing in index.notes[0] and said in index.notes[0]
    load_picture(index, 0, 32, "crop")
    if "attr" in missing:
        assert index.caption(0) == NO_ATTRIBUTES


def test_without_identities_there_is_nothing_to_train(tmp_path):
    write_celeba(tmp_path)
    (tmp_path / "identity_CelebA.txt").unlink()
    with pytest.raises(ValueError, match="identity_CelebA.txt is missing.*on request"):
        open_dataset(tmp_path)


def test_without_a_partition_there_is_no_test_split(tmp_path):
    write_celeba(tmp_path)
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(ValueError, match="list_eval_partition.txt is missing"):
        open_dataset(tmp_path, split="test")


def test_a_person_in_two_splits_is_an_error(tmp_path):
    write_celeba(tmp_path)
    path = tmp_path / "list_eval_partition.txt"
    path.write_text(path.read_text().replace("000003.jpg 0", "000003.jpg 2"))
    with pytest.raises(ValueError, match=r"1 identities are in more than one split.*2880"):
        open_dataset(tmp_path)


def test_missing_pictures_are_named(tmp_path):
    write_celeba(tmp_path)
    (tmp_path / ALIGNED / NAMES[0]).unlink()
    index = open_dataset(tmp_path)
    assert [(s.path, s.reason) for s in index.skipped] == [(NAMES[0], "missing")]
    assert len(index.pictures_of(0)) == 2


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "..\\secret.jpg"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    root = tmp_path / "celeba"
    write_celeba(root)
    (tmp_path / "secret.jpg").write_bytes((root / ALIGNED / NAMES[0]).read_bytes())
    with (root / "identity_CelebA.txt").open("a") as file:
        file.write(f"{name} 2880\n")
    with (root / "list_eval_partition.txt").open("a") as file:
        file.write(f"{name} 0\n")
    index = open_dataset(root)
    assert [s.path for s in index.skipped] == [name] and "leads out" in index.skipped[0].reason
    assert len(index) == 5


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    root = tmp_path / "celeba"
    write_celeba(root)
    (root / ALIGNED / NAMES[0]).rename(tmp_path / "secret.jpg")
    (root / ALIGNED / NAMES[0]).symlink_to(tmp_path / "secret.jpg")
    (root / ALIGNED / NAMES[2]).rename(root / "inside.jpg")
    (root / ALIGNED / NAMES[2]).symlink_to(root / ALIGNED / NAMES[5])  # stays inside: fine
    index = open_dataset(root)
    assert [s.path for s in index.skipped] == [NAMES[0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("9\n", "12\n", 1), "9 rows; its first line promises 12"),
        (lambda text: text.replace("000002.jpg", "000002.jpg x", 1), "line 4: got '000002.jpg x"),
        (lambda text: "image_id,5_o_Clock\n" + text, "expected the number of rows"),
    ],
)
def test_damaged_annotations_are_errors(tmp_path, change, message):
    write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=f"list_attr_celeba.txt.*{message}"):
        open_dataset(tmp_path)


def test_the_official_download_keeps_its_files_in_three_folders(tmp_path):
    write_celeba(tmp_path, folder=f"Img/{ALIGNED}/{ALIGNED}")
    for folder in ("Anno", "Eval"):
        (tmp_path / folder).mkdir()
    for file in tmp_path.glob("*.txt"):
        file.rename(tmp_path / ("Eval" if "eval" in file.name else "Anno") / file.name)
    assert open_dataset(tmp_path).name(0) == f"Img/{ALIGNED}/{ALIGNED}/{NAMES[0]}"


def test_no_pictures(tmp_path):
    write_celeba(tmp_path)
    (tmp_path / ALIGNED).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"without pictures; expected them in {ALIGNED}"):
        open_dataset(tmp_path)


def test_captions_are_deterministic_and_varied():
    everything = {"Male", "Smiling", "Eyeglasses", "Wavy_Hair", "Brown_Hair", "Bangs", "Young"}
    drawn = [celeba_caption(everything, 1, f"{i}.jpg") for i in range(200)]
    assert drawn == [celeba_caption(everything, 1, f"{i}.jpg") for i in range(200)]
    assert len(set(drawn)) > 50
    assert celeba_caption(everything, 3, "000001.jpg") == (
        "a close-up photo of a young person with wavy brown hair and bangs, wearing eyeglasses, "
        "with a smile"
    )
    share = np.mean(["glasses" in caption for caption in drawn])
    assert 0.7 < share < 0.9  # mentioned with a chance of 0.8


def test_captions_leave_out_what_a_person_always_looks_like():
    stable = {
        *("Big_Nose", "Pointy_Nose", "Big_Lips", "Oval_Face", "High_Cheekbones", "Chubby"),
        *("Narrow_Eyes", "Arched_Eyebrows", "Bushy_Eyebrows", "Double_Chin", "Attractive"),
        *("Bags_Under_Eyes", "Pale_Skin", "Rosy_Cheeks", "Receding_Hairline"),
    }
    assert stable < set(ATTRIBUTES)
    for i in range(100):
        assert celeba_caption(stable, 0, str(i)) == celeba_caption(set(), 0, str(i))
    words = " ".join(celeba_caption(set(ATTRIBUTES), 0, str(i)) for i in range(300))
    for word in ("nose", "lips", "oval", "cheek", "chubby", "eyebrow", "chin", "attractive"):
        assert word not in words.replace("lipstick", "")


def test_every_visible_attribute_is_said_sometimes():
    for name, word in (
        ("Male", "man"), ("Smiling", "smil"), ("Bald", "bald"), ("Gray_Hair", "gray hair"),
        ("Mustache", "mustache"), ("Wearing_Hat", "hat"), ("Blurry", "blurry"),
        ("Wearing_Necktie", "tie"), ("Mouth_Slightly_Open", "mouth slightly open"),
    ):  # fmt: skip
        assert any(word in celeba_caption({name}, 0, str(i)) for i in range(20)), name
