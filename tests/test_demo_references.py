"""The node that draws a held-out person."""

from __future__ import annotations

import numpy as np
import torch

from multi_ipadapter.demo_world import world
from multi_ipadapter.demo_world.people import WANTED, clear_view, portrait
from multi_ipadapter.nodes.demo.references import DemoReferences


def test_references_truth_and_caption_are_of_one_held_out_person():
    references, truth, caption = DemoReferences.execute(3, 4).args
    assert references.shape == (4, 128, 128, 3) and truth.shape == (1, 128, 128, 3)
    who = world.identity(world.HELD_OUT.start + 3)
    for k, picture in enumerate(references):
        drawn = np.asarray(world.draw(who, world.view(who.index, k)))
        assert np.array_equal((picture.numpy() * 255).round().astype(np.uint8), drawn)
    wanted = world.view(who.index, WANTED)
    assert caption == world.caption(wanted)
    assert torch.equal((truth[0] * 255).round(), torch.tensor(np.array(world.draw(who, wanted))))


def test_more_references_begin_with_the_same_ones():
    few, many = DemoReferences.execute(5, 2).args[0], DemoReferences.execute(5, 8).args[0]
    assert torch.equal(few, many[:2]) and len(many) == WANTED


def test_another_view_of_the_same_person_is_another_picture():
    first, second = DemoReferences.execute(5, 1).args, DemoReferences.execute(5, 1, 1).args
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    assert first[2] != second[2]


def test_a_portrait_says_what_it_hides():
    shown = portrait(0, 0)
    who = world.identity(world.HELD_OUT.start)
    seen = world.visible(who, world.view(who.index, 0))
    names = [name for name, ok in zip(world.ATTRIBUTES, seen, strict=True) if not ok]
    assert list(shown.hidden) == names and names


def test_the_view_that_the_demo_draws_shows_as_much_as_a_view_can():
    for identity in range(10):
        view = clear_view(identity)
        hidden = [len(portrait(identity, k).hidden) for k in range(WANTED, view + 1)]
        who = world.HELD_OUT.start + identity
        close = [world.view(who, k).factors["crop"] == "close" for k in range(WANTED, view + 1)]
        assert hidden[-1] == 4 and not close[-1]
        assert all(h > 4 or c for h, c in zip(hidden[:-1], close[:-1], strict=True))
