"""Features encoded when a batch asks for them, and what happens to pictures that cannot be read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multi_ipadapter.models.projection import HIDDEN, POOLED
from multi_ipadapter.pictures.decode import BadPictureError
from multi_ipadapter.pictures.index import PictureIndex, group
from multi_ipadapter.training.batch import LATENTS, MASK, collate
from multi_ipadapter.training.config import TrainingConfig
from multi_ipadapter.training.initial import initial_adapter
from multi_ipadapter.training.online import OnlineSource
from multi_ipadapter.training.sampling import DropOneSampler, Row, without_bad
from multi_ipadapter.training.validation import Validator

from .people import COUNTS, SIZE, build, cache_of, damage, encode, expected
from .training_world import one_layer_backbone, settings


def test_online_gives_what_the_cache_gives(index, tmp_path):
    build(index, tmp_path / "cache")
    cache = cache_of(index, tmp_path / "cache")
    online = OnlineSource(cache.index, encode, SIZE, batch_size=3)
    numbers = [4, 1, 7, 1]
    names = (LATENTS, POOLED, HIDDEN, MASK)
    ours, theirs = online.fetch(numbers, names), cache.fetch(numbers, names)
    for name in names:
        assert torch.equal(ours[name].half(), theirs[name]) and not ours[name].is_inference()
    assert [online.caption(n) for n in numbers] == [cache.caption(n) for n in numbers]
    part = cache.index.subset([2])
    assert torch.equal(online.of(part).fetch([0], [POOLED])[POOLED][0], expected(part, 0)[POOLED])


def batch_of(source, *rows: tuple[int, tuple[int, ...]]):
    """References come with their latents, to be compared with the target's."""
    return collate(source, [Row(*row) for row in rows], [LATENTS])


def shown(batch, index) -> list[tuple[int, list[int]]]:
    """Which pictures the rows show, (target, references)."""
    numbers = {}
    for number in range(len(index)):
        with suppress(BadPictureError):
            numbers[expected(index, number)[LATENTS].numpy().tobytes()] = number
    return [
        (numbers[target.numpy().tobytes()], [numbers[x.numpy().tobytes()] for x in row[there]])
        for target, row, there in zip(
            batch.latents, batch.features[LATENTS], batch.present, strict=True
        )
    ]


def test_bad_pictures_give_way_to_others_of_the_identity(index):
    online = OnlineSource(index, encode, SIZE)  # picture 2 is damaged; 0 and 1 are of its identity
    batch = batch_of(online, (2, (1,)), (2, (0,)), (0, (2, 1)), (0, (2,)), (2, (2,)), (4, (3,)))
    assert shown(batch, index) == [
        (0, [1]), (0, [1]), (0, [1]), (0, [1]), (0, [0]), (4, [3])
    ]  # fmt: skip
    assert batch.captions[0] == "caption 0 0"
    (skipped,) = online.skipped
    assert skipped.path == "p0/2.png" and "cut off" in skipped.reason


def test_a_reference_never_becomes_the_target(index, pictures):
    """p1 has one readable picture left, p5 none: others stand in for them."""
    damage(pictures, "p1/1.png")
    for name in ("p5/0.png", "p5/1.png"):  # gone after the dataset was opened
        (pictures / name).unlink()
    online = OnlineSource(index, encode, SIZE)
    sampler = DropOneSampler(index, TrainingConfig(batch_size=len(index) - 1))
    for step in range(2):  # p3 has one picture, and no rows
        rows = shown(collate(online, sampler.batch(step), [LATENTS]), index)
        assert len(rows) == 16
        for target, references in rows:
            assert target not in references and references
            assert {index.identity_of(n) for n in (target, *references)} < {0, 2, 4}
    assert {s.path for s in online.skipped} == {
        "p0/2.png", "p1/1.png", "p5/0.png", "p5/1.png"
    }  # fmt: skip
    assert shown(batch_of(online, (3, (4,)), (16, (15,))), index) == [(5, [6]), (0, [1])]


def test_what_is_known_of_bad_pictures_is_shared_by_all_parts(index):
    online = OnlineSource(index, encode, SIZE)
    part = online.of(index.subset([4, 0]))
    batch_of(part, (7, (5,)))
    assert [str(s) for s in online.skipped] == [
        "p0/2.png: damaged or cut off (image file is truncated). Remove or replace the file."
    ]
    assert online.readable([Row(2, (0,))]) == [Row(0, (1,))]
    assert part.readable([Row(7, (5,))]) == [Row(5, (6,))]


def test_nothing_can_be_read(index, pictures):
    damage(pictures, *(f"{path.parent.name}/{path.name}" for path in pictures.glob("*/*.png")))
    with pytest.raises(ValueError, match="Neither p2 nor the identities after it.*its disk is"):
        batch_of(OnlineSource(index, encode, SIZE), (5, (6,)))


def test_validation_takes_readable_pictures(index):
    online, backbone = OnlineSource(index, encode, SIZE), one_layer_backbone()
    with torch.inference_mode(False):
        widths = {POOLED: 48, HIDDEN: 48}
        adapter = initial_adapter(settings(), backbone.text_weights(), widths)
        validator = Validator(backbone, online, settings())
        assert any(2 in (case.target, *case.references) for case in validator.cases)
        report = validator(adapter)
        assert [s.path for s in online.skipped] == ["p0/2.png"]
        validator.cases = online.readable(validator.cases)
        assert not any(2 in (case.target, *case.references) for case in validator.cases)
        assert validator(adapter) == report


@given(
    bad=st.sets(st.integers(0, 16)),
    target=st.sampled_from([n for n in range(17) if n != 9]),  # 9 is a single
    data=st.data(),
)
def test_rows_do_not_depend_on_when_a_picture_is_noticed(bad, target, data):
    index = noted_index()
    others = [n for n in index.pictures_of(index.identity_of(target)) if n != target]
    chosen = st.lists(st.sampled_from(others), min_size=1, unique=True)
    row = Row(target, tuple(data.draw(chosen | st.just([target]))), masked=True)

    def settled(known: set[int]):
        """As `read_rows` does, each time noticing one bad picture more."""
        while True:
            try:
                now = without_bad(row, index, known.__contains__)
            except ValueError:
                return None
            found = sorted(bad & {now.target, *now.references} - known)
            if not found:
                return now
            known = known | {data.draw(st.sampled_from(found))}

    early, late = settled(set(bad)), settled(set())
    assert early == late
    if early is not None:
        assert not bad & {early.target, *early.references} and early.masked
        itself = row.references == (row.target,)
        assert (early.references == (early.target,)) == itself
        assert itself or early.target not in early.references
        assert len(set(early.references)) == len(early.references)
        assert 1 <= len(early.references) <= len(row.references)


def noted_index() -> PictureIndex:
    """Numbers and identities alone, with `COUNTS`."""
    owners = [(n, f"p{i}") for i, count in enumerate(COUNTS) for n in range(count)]
    return group(Path(), None, ((i, name) for i, (_, name) in enumerate(owners)), [], [])
