"""The drawn world: deterministic, its hidden parts really hidden, its captions about views only."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from multi_ipadapter.demo_world import world

NAMES = tuple(world.ATTRIBUTES)
PEOPLE = [world.identity(index) for index in range(500)]
VIEWS = [[world.view(index, number) for number in range(4)] for index in range(500)]
SHOWN = np.array(
    [[world.visible(p, v) for v in views] for p, views in zip(PEOPLE, VIEWS, strict=True)]
)  # (500 identities, 4 views, attributes)


def pixels(person: world.Identity, view: world.View, size: int = 64) -> np.ndarray:
    return np.asarray(world.draw(person, view, size), dtype=np.float64)


def changed(person: world.Identity, name: str, value: int) -> world.Identity:
    values = list(person.values)
    values[NAMES.index(name)] = value
    return replace(person, values=tuple(values))


def quiet(view: world.View) -> world.View:
    """The view without its noise and blur."""
    return replace(view, jitter=replace(view.jitter, noise=0.0, blur=0.0))


def plain(**factors: str) -> world.View:
    """The view in which every factor has its first value, but for those given."""
    names = {name.replace(" ", "_"): values for name, values in world.VIEW_FACTORS.items()}
    values = tuple(values.index(factors.get(name, values[0])) for name, values in names.items())
    return world.View(values, world.Jitter(1.0, (0.0, 0.0), 0.0, 0.0, 0.0, 0))


def test_same_pixels_in_any_order() -> None:
    pairs = [(index, number) for index in (3, 100_003) for number in (0, 5)]

    def all_of(order: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        return {(i, n): world.draw(world.identity(i), world.view(i, n)).tobytes() for i, n in order}

    first = all_of(pairs)
    assert first == all_of(pairs[::-1])
    assert len(set(first.values())) == len(pairs)


def test_ranges_are_disjoint() -> None:
    assert world.TRAINING.stop <= world.HELD_OUT.start
    assert len(world.TRAINING) == len(world.HELD_OUT) == 100_000


@pytest.mark.parametrize("name", NAMES)
def test_attributes_are_uniform(name: str) -> None:
    values = [world.identity(index).values[NAMES.index(name)] for index in range(1500)]
    counts = np.bincount(values, minlength=len(world.ATTRIBUTES[name]))
    expected = 1500 / len(counts)
    assert len(counts) == len(world.ATTRIBUTES[name])
    assert ((counts - expected) ** 2 / expected).sum() < 25


def test_attributes_are_independent() -> None:
    values = np.array([world.identity(index).values for index in range(1500)], dtype=np.float64)
    correlation = np.corrcoef(values.T) - np.eye(len(NAMES))
    assert np.abs(correlation).max() < 0.12


def test_hidden_share() -> None:
    hidden = 1 - SHOWN[:, 0].mean(axis=1)
    assert 0.40 <= hidden.mean() <= 0.50
    assert 0.09 <= hidden.std() <= 0.15
    assert hidden.min() >= 0.15
    assert hidden.max() <= 0.70


def test_four_views_tell_nearly_everything() -> None:
    assert SHOWN.any(axis=1).mean() >= 0.93
    assert SHOWN[:, :1].any(axis=1).mean() < 0.65


@pytest.mark.slow
def test_a_person_with_hidden_attributes_changed_looks_the_same() -> None:
    for index in range(60):
        person, view = PEOPLE[index], quiet(VIEWS[index][index % 4])
        before = pixels(person, view)
        for k, name in enumerate(NAMES):
            if world.visible(person, view)[k]:
                continue
            other = changed(
                person, name, (person.values[k] + 1 + index) % len(world.ATTRIBUTES[name])
            )
            if world.visible(other, view)[k] or other == person:
                continue
            difference = np.abs(pixels(other, view) - before).mean()
            assert difference < 0.1, (index, name, person.attributes[name], other.attributes[name])


@pytest.mark.slow
def test_visible_attributes_change_the_picture() -> None:
    for index in range(60):
        person, view = PEOPLE[index], quiet(VIEWS[index][index % 4])
        before = pixels(person, view)
        for k, name in enumerate(NAMES):
            other = changed(
                person, name, (person.values[k] + 1 + index) % len(world.ATTRIBUTES[name])
            )
            both = world.visible(person, view)[k] and world.visible(other, view)[k]
            if other == person or not both:
                continue
            difference = np.abs(pixels(other, view) - before).mean()
            assert difference > 0.05, (index, name, person.attributes[name], other.attributes[name])


@pytest.mark.parametrize(
    ("factors", "hidden"),
    [
        ({"eyewear": "sunglasses"}, ("eye colour", "eye shape", "glasses")),
        ({"eyewear": "goggles"}, ("eye colour", "eye shape", "glasses", "brows")),
        ({"eyes": "closed"}, ("eye colour", "eye shape")),
        ({"hat": "beanie"}, ("hairstyle", "brows")),
        ({"hat": "hood"}, ("hairstyle", "ears", "earrings", "face", "necklace")),
        ({"hat": "headphones"}, ("ears", "earrings")),
        ({"lower_face": "mask"}, ("mouth", "beard", "nose", "face", "cheeks", "mark")),
        ({"lower_face": "scarf"}, ("mouth", "beard", "nose", "face", "cheeks", "mark", "necklace")),
        ({"lower_face": "hand"}, ("mouth",)),
        ({"lower_face": "cup"}, ("mouth",)),
        ({"crop": "close"}, ("ears", "earrings", "necklace")),
    ],
)
@pytest.mark.parametrize("pose", world.VIEW_FACTORS["pose"])
def test_what_covers_an_attribute_covers_all_its_values(
    factors: dict[str, str], hidden: tuple[str, ...], pose: str
) -> None:
    view, person = plain(pose=pose, **factors), PEOPLE[0]
    for name in hidden:
        assert not world.visible(person, view)[NAMES.index(name)]
        pictures = [
            pixels(changed(person, name, value), view)
            for value in range(len(world.ATTRIBUTES[name]))
        ]
        for value, picture in enumerate(pictures):
            assert np.abs(picture - pictures[0]).mean() < 0.05, (
                name,
                world.ATTRIBUTES[name][value],
            )


def test_captions_tell_the_view() -> None:
    for view in (views[0] for views in VIEWS):
        text, scene = world.caption(view, 1), view.factors
        assert text == world.caption(view, 1)
        assert "person" in text
        if scene["pose"] != "ahead":
            assert re.search(rf"(looking|facing|turned to the) {scene['pose']}", text)
        if scene["hat"] != "none":
            assert scene["hat"] in text
            assert scene["hat colour"] in text
        if scene["eyewear"] != "none":
            assert scene["eyewear"] in text
        if scene["lower face"] != "none":
            assert scene["lower face"] in text


def test_captions_vary() -> None:
    assert len({world.caption(VIEWS[0][0], wording) for wording in range(20)}) > 10


def test_captions_never_tell_the_identity() -> None:
    captions = [world.caption(v, n) for n, views in enumerate(VIEWS) for v in views]
    words = {word for text in captions for word in re.findall(r"[a-z-]+", text)}
    assert len(words) <= 150
    identity_words = {
        word
        for names in world.ATTRIBUTES.items()
        for value in (names[0], *names[1])
        for word in value.split()
    }
    # Colours tell clothes and walls, sides poses; a light falls from the "side", a scarf or hand
    # covers "the mouth", and a mask is worn on "the face".
    elsewhere = {"black", "blue", "green", "grey", "pink", "left", "right", "side"}
    elsewhere |= {"mouth", "face"}
    assert not words & (identity_words - elsewhere)
    for text in captions:
        for match in re.finditer(r"\b(?:black|blue|green|grey|pink) (\w+)", text):
            assert match[1] in {
                *("wall", "background", "shirt", "cap", "baseball", "beanie", "knitted"),
                *("hood", "headphones", "scarf"),
            }, text


def test_any_size_shows_the_same() -> None:
    for index in range(6):
        view = quiet(VIEWS[index][0])
        large = world.draw(PEOPLE[index], view, 128).resize((64, 64), Image.Resampling.BOX)
        small = world.draw(PEOPLE[index], view, 64)
        assert small.mode == "RGB"
        assert small.size == (64, 64)
        difference = np.asarray(large, dtype=np.float64) - np.asarray(small, dtype=np.float64)
        assert np.abs(difference).mean() < 3.0
    assert world.draw(PEOPLE[0], VIEWS[0][0], 100).size == (100, 100)


def test_a_person_and_a_view_are_the_same_everywhere() -> None:
    """Written down once, so that another platform or library that draws others is noticed."""
    person = world.identity(world.HELD_OUT.start)
    view = world.view(person.index, 3)
    assert person.values == (2, 3, 5, 5, 2, 2, 3, 1, 1, 0, 2, 4, 3, 2, 1, 0)
    assert view.values == (2, 2, 5, 0, 4, 1, 0, 1, 0, 4, 0, 4)
    reds = pixels(person, view, 128)[..., 0].reshape(4, 32, 4, 32).mean((1, 3))
    known = [
        (101.3, 60.5, 67.3, 119.4),
        (61.0, 132.4, 126.2, 99.0),
        (101.3, 166.5, 125.7, 131.6),
        (196.0, 172.3, 180.0, 224.9),
    ]
    assert np.abs(reds - known).max() < 0.5
