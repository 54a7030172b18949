"""Which faces are kept: the majority's person, no repeats, the better ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from multi_ipadapter.faces.align import loose_transform, warp
from multi_ipadapter.faces.analysis import Face
from multi_ipadapter.faces.choose import majority, near_duplicates, signature, unit
from multi_ipadapter.faces.quality import frontality, laplacian_variance, measure

from .test_faces_align import face, picture

PICTURES = 20


def people(seed: int, count: int) -> np.ndarray:
    """Unit embeddings of different people: cosines up to 0.2."""
    generator = np.random.default_rng(seed)
    common = unit(generator.standard_normal(512))
    centres = unit(generator.standard_normal((count, 512)))
    centres = unit(centres + 0.4 * common)
    assert (centres @ centres.T - np.eye(count)).max() < 0.3
    return centres


CLEAR, USUAL, HARD = (0.65, 1.0), (0.8, 1.3), (1.0, 1.6)


def views(person: np.ndarray, count: int, generator, noise=CLEAR) -> np.ndarray:
    """Embeddings of one person in several pictures, of any length.

    Args:
        noise: bounds of what is added to the person, of length 1: pairs have a median cosine of
            0.6 (`CLEAR`), 0.48 (`USUAL`: real people, arXiv 2510.14975) or 0.38 (`HARD`).
    """
    added = unit(generator.standard_normal((count, 512)))
    spread = generator.uniform(*noise, (count, 1))
    return unit(person + spread * added) * generator.uniform(15, 25, (count, 1))


@pytest.mark.parametrize(("noise", "median"), [(CLEAR, 0.6), (USUAL, 0.48), (HARD, 0.38)])
def test_the_noise_is_realistic(noise, median):
    generator = np.random.default_rng([0, 1])
    a, b = people(0, 2)
    same, other = (unit(views(x, 100, generator, noise)) for x in (a, b))
    pairs = (same @ same.T)[np.triu_indices(100, 1)]
    assert np.median(pairs) == pytest.approx(median, abs=0.01)
    assert -0.15 < (same @ other.T).min() < (same @ other.T).max() < 0.25


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("strangers", [1, 3, 8])
@pytest.mark.parametrize("share", [0.2, 0.4])
@pytest.mark.parametrize("noise", [CLEAR, USUAL, HARD], ids=["clear", "usual", "hard"])
def test_the_right_person_is_kept_among_up_to_40_percent_others(seed, strangers, share, noise):
    generator = np.random.default_rng([seed, 1])
    persons = people(seed, 1 + strangers)
    wrong = round(PICTURES * share)
    who = generator.permutation(
        [0] * (PICTURES - wrong) + [1 + n % strangers for n in range(wrong)]
    )
    faces = np.concatenate([views(persons[n], 1, generator, noise) for n in who])
    sizes = np.where(who == 0, 100, 500)  # the others are larger
    kept, tied, _ = majority(faces, list(range(PICTURES)), sizes)
    assert kept == {number: number for number in range(PICTURES) if who[number] == 0}
    assert not tied


def wrong_share(n: int, strangers: int, noise, persons_of, seeds: int = 300) -> tuple:
    """Shares of sets of n pictures in which somebody else is kept, and in which two are mixed.

    The strangers are different people, five times as large.
    """
    wrong = mixed = 0
    for seed in range(seeds):
        generator = np.random.default_rng([seed, 1])
        persons = persons_of(seed)
        who = generator.permutation(
            [0] * (n - strangers) + [1 + i % (len(persons) - 1) for i in range(strangers)]
        )
        faces = np.concatenate([views(persons[i], 1, generator, noise) for i in who])
        kept = majority(faces, list(range(n)), np.where(who == 0, 100, 500)).faces
        right = [who[i] == 0 for i in kept]
        wrong, mixed = wrong + (not any(right)), mixed + (any(right) and not all(right))
    return wrong / seeds, mixed / seeds


@pytest.mark.parametrize(("n", "strangers"), [(3, 1), (5, 1), (5, 2), (8, 3)])
def test_a_handful_of_difficult_pictures_seldom_gives_somebody_else(n, strangers):
    """Were ties decided by size at once, it would be 36, 2, 8 and 0.5 % of the sets."""

    def persons_of(seed):
        return people(seed, 4)

    wrong, mixed = wrong_share(n, strangers, HARD, persons_of)
    assert wrong <= (0.03 if n == 3 else 0.003) and mixed == 0
    assert wrong_share(n, strangers, USUAL, persons_of) == (0, 0)


@pytest.mark.parametrize(("n", "strangers"), [(3, 1), (5, 1), (5, 2), (8, 3)])
@pytest.mark.parametrize("noise", [CLEAR, USUAL], ids=["clear", "usual"])
def test_a_relative_stays_apart_in_a_handful_of_pictures_too(n, strangers, noise):
    """Lower cut-offs for all small sets would mix 9 to 20 % of the clear ones."""
    wrong, mixed = wrong_share(n, strangers, noise, lambda seed: relatives(0.4, seed))
    assert wrong == 0 and mixed <= 0.015


def relatives(likeness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two people of this cosine."""
    a, b = np.random.default_rng(seed).standard_normal((2, 512))
    a = unit(a)
    return a, unit(likeness * a + np.sqrt(1 - likeness**2) * unit(b - (a @ b) * a))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [CLEAR, USUAL], ids=["clear", "usual"])
def test_a_relative_in_other_pictures_is_somebody_else(seed, noise):
    generator = np.random.default_rng([seed, 1])
    a, b = relatives(0.4)
    faces = np.concatenate([views(a, 6, generator, noise), views(b, 4, generator, noise)])
    assert majority(faces, list(range(10)), [100] * 10).faces == {n: n for n in range(6)}


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("noise", [CLEAR, USUAL], ids=["clear", "usual"])
def test_relatives_in_equally_many_pictures_are_not_taken_for_one(k, noise):
    """One picture of each may as well be two hard pictures of one: that is told."""
    mixed = untold = 0
    for seed in range(200):
        generator = np.random.default_rng([seed, 1])
        faces = np.concatenate([views(p, k, generator, noise) for p in relatives(0.4, seed)])
        kept, _, unsure = majority(faces, list(range(2 * k)), [100] * (2 * k))
        both = len({face // k for face in kept.values()}) > 1
        mixed, untold = mixed + both, untold + (both and not unsure)
    assert untold <= 5 and (k == 1 or mixed <= 5)


@pytest.mark.parametrize("likeness", [0.5, 0.6, 0.7])
@pytest.mark.parametrize("seed", range(10))
def test_look_alikes_side_by_side_are_never_mixed(seed, likeness):
    """Both are in all pictures, so either is right, and it is told."""
    generator = np.random.default_rng([seed, 1])
    persons = relatives(likeness)
    faces = np.concatenate([views(p, 1, generator, USUAL) for _ in range(10) for p in persons])
    kept, tied, _ = majority(faces, [n // 2 for n in range(20)], [100] * 20)
    assert {face % 2 for face in kept.values()} in ({0}, {1})
    assert len(kept) == 10 and tied


def test_of_two_equal_faces_of_a_picture_one_counts():
    generator = np.random.default_rng([0, 1])
    a, b = people(0, 2)
    twice = np.repeat(views(a, 2, generator), 2, axis=0)  # as in a collage
    faces = np.concatenate([twice, views(b, 3, generator)])
    kept, tied, _ = majority(faces, [0, 0, 1, 1, 2, 3, 4], [100] * 7)
    assert kept == {2: 4, 3: 5, 4: 6} and not tied


def test_of_thousands_of_faces_the_right_person_is_found_in_bounded_memory():
    generator = np.random.default_rng([0, 1])
    persons = people(0, 2)
    who = generator.permutation([0] * 150 + [1] * 50 + [-1] * 2100)
    faces = generator.standard_normal((2300, 512))
    for person in (0, 1):
        faces[who == person] = views(persons[person], (who == person).sum(), generator, USUAL)
    kept = majority(faces, list(range(2300)), [100] * 2300).faces
    assert list(kept) == np.flatnonzero(who == 0).tolist()


def test_of_thousands_of_faces_the_smaller_ones_are_asked_too():
    """A child beside somebody larger, each time another."""
    generator = np.random.default_rng([0, 1])
    faces = generator.standard_normal((1202, 512))
    faces[1::2] = views(people(0, 1)[0], 601, generator, USUAL)
    kept, tied, _ = majority(faces, [n // 2 for n in range(1202)], [500, 100] * 601)
    assert len(kept) >= 595 and all(face % 2 for face in kept.values()) and not tied


@pytest.mark.parametrize("seed", range(5))
def test_of_several_people_in_a_picture_the_shared_one_is_kept(seed):
    generator = np.random.default_rng([seed, 1])
    persons = people(seed, 12)
    faces, pictures, right = [], [], {}
    for number in range(10):
        present = [0, *generator.choice(np.arange(1, 12), 3, replace=False)]
        for person in generator.permutation(present):
            if person == 0:
                right[number] = len(faces)
            faces.append(views(persons[person], 1, generator)[0])
            pictures.append(number)
    assert majority(np.array(faces), pictures, [100] * len(faces)).faces == right


def test_of_twins_in_a_picture_the_closer_one_is_kept():
    generator = np.random.default_rng([0, 1])
    (person,) = people(0, 1)
    faces = [*views(person, 5, generator), person + 1.3 * unit(generator.standard_normal(512))]
    kept = majority(np.array(faces), [0, 1, 2, 3, 4, 4], [1] * 6).faces
    assert kept == {number: number for number in range(5)}


def test_of_equal_counts_the_larger_faces_win_and_the_first_of_equal_ones():
    generator = np.random.default_rng([0, 1])
    a, b = people(1, 2)
    faces = np.concatenate([views(a, 3, generator), views(b, 3, generator)])
    pictures = [0, 1, 2, 0, 1, 2]
    larger = majority(faces, pictures, [10] * 3 + [20] * 3)
    assert larger == ({0: 3, 1: 4, 2: 5}, True, False)
    assert majority(faces, pictures, [10] * 6) == ({0: 0, 1: 1, 2: 2}, True, False)


def test_copies_go_along_but_do_not_vote():
    generator = np.random.default_rng([0, 1])
    a, b = people(1, 2)
    faces = np.concatenate([views(a, 4, generator), np.repeat(views(b, 1, generator), 5, axis=0)])
    sizes = [10] * 4 + [20] * 5
    copies = [5, 6, 7, 8]
    assert majority(faces, range(9), sizes, copies) == ({n: n for n in range(4)}, False, False)
    assert list(majority(faces, range(9), sizes).faces) == [4, 5, 6, 7, 8]
    alone = majority(faces[4:], range(5), sizes[4:], [1, 2, 3, 4])
    assert alone == ({n: n for n in range(5)}, False, False)
    equal = majority(faces[3:], range(6), [50, *sizes[4:]], [2, 3, 4, 5])
    assert equal == ({0: 0}, True, False)  # one picture each, the larger; the copies' sum is more


def test_one_face_and_none():
    assert majority(np.ones((1, 512)), [3], [10]) == ({3: 0}, False, False)
    assert majority(np.ones((0, 512)), [], []) == ({}, False, False)


def test_the_same_faces_in_another_order_are_the_same_choice():
    generator = np.random.default_rng([3, 1])
    persons = people(3, 4)
    faces = np.concatenate([views(p, 5, generator) for p in persons[[0, 0, 1, 2, 3]]])
    first = majority(faces, list(range(25)), [10] * 25).faces
    order = generator.permutation(25)
    second = majority(faces[order], list(range(25)), [10] * 25).faces
    assert (
        set(first.values()) == {int(order[face]) for face in second.values()} and len(first) == 10
    )


def crop_of(image: np.ndarray, found: Face) -> np.ndarray:
    return signature(warp(image, loose_transform(found, 64, 0.0), 64))


def test_recompressed_resized_and_brighter_copies_are_near_duplicates(tmp_path):
    image = picture(0)
    found = face(1.5, at=(100, 80))
    Image.fromarray(image).save(tmp_path / "copy.jpg", quality=50)
    compressed = np.array(Image.open(tmp_path / "copy.jpg"))
    half = np.array(Image.fromarray(image).resize((200, 180), Image.Resampling.BICUBIC))
    halved = Face(found.box / 2, found.landmarks / 2, 0.9)
    brighter = (image * 0.6 + 60).astype(np.uint8)
    signatures = [
        crop_of(i, f)
        for i, f in (
            (image, found),
            (compressed, found),
            (half, halved),
            (brighter, found),
            (picture(5), found),
        )
    ]
    assert near_duplicates(signatures, [None] * 5) == {1: 0, 2: 0, 3: 0}


def test_pictures_that_look_alike_but_show_others_are_no_duplicates():
    a = crop_of(picture(0), face(1.5, at=(100, 80)))
    b = unit(a + 0.3 * crop_of(picture(5), face(1.5, at=(100, 80))))
    assert 0.95 < a @ b < 0.98
    first, second = people(0, 2)
    assert near_duplicates([a, b], [first, first]) == {1: 0}
    assert near_duplicates([a, b], [first, second]) == {}
    assert near_duplicates([a, b], [None, None]) == {}


def test_a_chain_of_similar_faces_is_not_dropped_as_a_whole():
    generator = np.random.default_rng(0)
    a, c = unit(generator.standard_normal((2, 256)))
    c = unit(c - (a @ c) * a)
    chain = [unit(np.cos(t) * a + np.sin(t) * c) for t in (0, 0.15, 0.3)]
    assert chain[0] @ chain[1] > 0.98 > chain[0] @ chain[2] and chain[1] @ chain[2] > 0.98
    assert near_duplicates(chain, [None] * 3) == {1: 0}


def test_larger_sharper_frontal_and_surer_faces_are_better():
    sharp = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    image = np.array(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(1.0)))
    found = face(1.5, at=(150, 150))
    base = measure(image, found)
    assert base.size == pytest.approx(found.size / 256) and base.score == pytest.approx(0.9)
    assert base.pose > 0.9
    blurred = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(4)))
    assert measure(blurred, found).sharpness < 0.5 * base.sharpness
    aside = measure(image, face(1.5, yaw=0.7, at=(150, 150)))
    assert aside.pose < 0.6 and aside.total < base.total
    unsure = Face(found.box, found.landmarks, 0.5)
    assert measure(image, unsure).total < base.total
    small = measure(image, face(0.75, at=(150, 150)))
    assert small.size == pytest.approx(base.size / 2)
    assert measure(blurred, found).total < base.total


def test_quality_parts_by_hand():
    grey = np.zeros((5, 5))
    grey[2, 2] = 1
    assert laplacian_variance(grey) == pytest.approx(20 / 9 - 0)  # one -4 and four 1 of nine
    points = np.array([[0, 0], [4, 0], [2, 2], [1, 4], [3, 4]])
    assert frontality(points) == 1
    points[2, 0] = 4
    assert frontality(points) == 0
    points[2, 0] = 3
    assert frontality(points) == pytest.approx(0.5)
    turned = points @ np.array([[0, 1], [-1, 0]]) * 3
    assert frontality(turned) == pytest.approx(0.5)
    assert frontality(np.zeros((5, 2))) == 0
