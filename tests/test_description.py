"""Texts that tell of the person too: true, distinct, short enough for SD1.x's tokenizer."""

from __future__ import annotations

import itertools

from multi_ipadapter.demo.build.text import NOT_TOLD, example
from multi_ipadapter.demo_world import world
from multi_ipadapter.demo_world.description import MOST, described, phrases, told


def people(count):
    return [(world.identity(i), world.view(i, 0)) for i in range(count)]


def test_every_value_of_an_attribute_has_words_of_its_own():
    first = [0] * len(world.ATTRIBUTES)
    said = []
    for column, values in enumerate(world.ATTRIBUTES.values()):
        for k in range(len(values)):
            said.append(phrases([*first[:column], k, *first[column + 1 :]])[column])
    assert len(set(said)) == len(said) == sum(map(len, world.ATTRIBUTES.values()))
    assert {"curly hair", "pink hair", "no beard", "full beard", "hoops earrings"} <= set(said)


def test_what_is_seen_is_told_as_far_as_it_fits_in_any_order():
    first = set()
    for seed, (who, view) in enumerate(people(200)):
        visible = world.visible(who, view)
        columns = told(visible, seed)
        assert len(columns) == len(set(columns)) == min(MOST, sum(visible))
        assert all(visible[k] for k in columns)
        assert list(columns) == list(told(visible, seed))
        first.add(int(columns[0]))
    assert first == set(range(len(world.ATTRIBUTES)))


def test_what_a_text_is_said_to_tell_is_in_it():
    for who in range(40):
        text, row = example(who, 3, plain=False)
        values = world.identity(who).values
        view, person = row[: len(world.VIEW_FACTORS)], row[len(world.VIEW_FACTORS) :]
        assert view == list(world.view(who, 0).values)
        for name, told_as, value in zip(phrases(values), person, values, strict=True):
            assert told_as in (NOT_TOLD, value)
            assert (name in text.split(", ")) == (told_as != NOT_TOLD)
        assert set(example(who, 3, plain=True)[1][len(view) :]) == {NOT_TOLD}


def test_texts_fit_sd1s_tokenizer(clip):
    longest = 0
    for wording, (who, view) in itertools.product(range(3), people(60)):
        columns = told(world.visible(who, view), wording)
        rows = clip.tokenize(described(world.caption(view, wording), who.values, columns))["l"]
        longest = max(longest, sum(token != 49407 for row in rows for token, _ in row) + 1)
    assert 40 < longest <= 80, "a few lose their last word"
