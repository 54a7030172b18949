"""Which picture a row restores, and from which others."""

from __future__ import annotations

from collections import Counter

import pytest

from multi_ipadapter.training.sampling import DropOneSampler

from .builders import assert_says, refusal
from .training_world import Groups, settings

COUNTS = [6, 1, 2, 3, 5]  # the second identity cannot be used
GROUPS = Groups(COUNTS)


def rows_of(count=6000, groups=GROUPS, **changes):
    sampler = DropOneSampler(groups, settings(**changes))
    return [sampler.row(i) for i in range(count)]


def owner(number):
    return next(i for i in range(len(COUNTS)) if number in GROUPS.pictures_of(i))


def chi_square(counts, choices):
    expected = sum(counts.values()) / len(choices)
    assert set(counts) <= set(choices)
    return sum((counts[c] - expected) ** 2 / expected for c in choices)


def test_references_are_other_pictures_of_the_identity():
    for row in rows_of():
        assert len(set(row.references)) == len(row.references) >= 1
        assert row.target not in row.references
        assert {owner(r) for r in row.references} == {owner(row.target)} != {1}


def test_their_number_is_uniform_up_to_the_smaller_of_what_there_is_and_the_limit():
    rows = rows_of(9000, max_references=4)
    for identity, most in ((0, 4), (2, 1), (3, 2), (4, 4)):
        sizes = Counter(len(r.references) for r in rows if owner(r.target) == identity)
        assert chi_square(sizes, range(1, most + 1)) < 16.3  # 3 degrees, p = 0.001


def test_every_other_picture_is_as_likely():
    rows = [r for r in rows_of(9000) if r.target == 2]
    chosen = Counter(n for r in rows for n in r.references)
    assert chi_square(chosen, [0, 1, 3, 4, 5]) < 18.5  # 4 degrees, p = 0.001
    assert chi_square(Counter(r.references[0] for r in rows), [0, 1, 3, 4, 5]) < 18.5


def test_every_epoch_restores_each_usable_picture_once():
    usable = [n for i, c in enumerate(COUNTS) if c > 1 for n in GROUPS.pictures_of(i)]
    sampler = DropOneSampler(GROUPS, settings())
    assert len(sampler) == len(usable) == 16
    orders = [tuple(sampler.row(16 * e + i).target for i in range(16)) for e in range(3)]
    assert all(sorted(order) == usable for order in orders)
    assert len(set(orders)) == 3


def test_rows_depend_on_seed_and_position_alone():
    first = rows_of(64, masked_loss=0.5)
    sampler = DropOneSampler(GROUPS, settings(masked_loss=0.5, batch_size=8))
    assert sampler.batch(5) == first[40:48]  # asked first, as after a resume
    halves = DropOneSampler(GROUPS, settings(masked_loss=0.5, batch_size=4))
    assert [*halves.batch(10), *halves.batch(11)] == first[40:48]
    assert rows_of(64, masked_loss=0.5, seed=1) != first


def test_shares_of_what_is_dropped():
    rows = rows_of(8000, drop_image=0.1, drop_text=0.2, drop_both=0.05, masked_loss=0.4)
    counts = Counter((r.drop_image, r.drop_text) for r in rows)
    for kind, share in (((True, False), 0.1), ((False, True), 0.2), ((True, True), 0.05)):
        assert counts[kind] / 8000 == pytest.approx(share, abs=0.015)
    assert sum(r.masked for r in rows) / 8000 == pytest.approx(0.4, abs=0.02)


def test_single_references_drop_but_never_all():
    rows = [r for r in rows_of(reference_dropout=1.0) if owner(r.target) == 0]
    assert {len(r.references) for r in rows} == {1}
    full = sum(len(r.references) for r in rows_of())
    fewer = sum(len(r.references) for r in rows_of(reference_dropout=0.5))
    assert 6000 < fewer < full


def test_self_reconstruction_shows_the_target():
    rows = rows_of(4000, self_reconstruction=0.3)
    themselves = [r for r in rows if r.target in r.references]
    assert len(themselves) / 4000 == pytest.approx(0.3, abs=0.03)
    assert all(r.references == (r.target,) for r in themselves)


def test_no_identity_with_two_pictures():
    message = refusal(DropOneSampler, Groups([1, 1]), settings())
    assert_says(message, "2 identities", "two or more pictures", "add pictures")
