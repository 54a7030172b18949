"""The feature cache gives what the encoders gave, and knows when it is stale or damaged."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal

import pytest
import torch
from PIL import Image

from multi_ipadapter.models.projection import HIDDEN, POOLED
from multi_ipadapter.pictures.open import open_dataset
from multi_ipadapter.runs.streams import SPLIT, numbers
from multi_ipadapter.training.batch import LATENTS, MASK, collate
from multi_ipadapter.training.config import TrainingConfig
from multi_ipadapter.training.online import OnlineSource
from multi_ipadapter.training.sampling import DropOneSampler

from .people import (
    COUNTS,
    SIZE,
    build,
    cache_of,
    counted,
    encode,
    expected,
    key_of,
    picture,
    shards,
)


def test_what_was_encoded_comes_back(index, tmp_path):
    assert build(index, tmp_path / "cache")
    cache = cache_of(index, tmp_path / "cache")
    assert len(shards(tmp_path / "cache")) > 3
    assert len(cache.index) == sum(COUNTS) - 1
    order = torch.randperm(len(cache.index), generator=torch.Generator().manual_seed(0)).tolist()
    order += order[:3]  # a picture may be asked for twice
    got = cache.fetch(order, (LATENTS, POOLED, HIDDEN, MASK))
    for i, number in enumerate(order):
        for name, values in expected(cache.index, number).items():
            assert torch.equal(got[name][i], values.half()), name
        assert cache.caption(number) == "caption " + " ".join(cache.index.name(number)[1:4:2])
    assert (got[MASK] == 1).all() and got[MASK].shape == (len(order), 1, 4, 4)
    assert not got[HIDDEN].is_inference()  # autograd may save them


def test_whole_identities_lie_together(index, tmp_path):
    build(index, tmp_path / "cache")
    ends = json.loads((tmp_path / "cache" / "cache.json").read_text())["ends"]
    assert ends[-1] == len(index) and set(ends) <= set(index.starts.tolist())


def test_bad_pictures_are_left_out_by_name(index, tmp_path):
    build(index, tmp_path / "cache")
    cache = cache_of(index, tmp_path / "cache")
    assert [s.path for s in cache.skipped] == ["p0/2.png"] and "cut off" in cache.skipped[0].reason
    assert str(cache.skipped[0]).startswith("p0/2.png: damaged or cut off")
    names = [cache.index.name(n) for n in range(len(cache.index))]
    assert "p0/2.png" not in names and len(names) == sum(COUNTS) - 1


def test_a_cache_of_nothing_readable(pictures, tmp_path):
    index = open_dataset(pictures)
    for path in pictures.glob("*/*.png"):
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ValueError, match="No picture of .* can be read.*p0/0.png: not a picture"):
        build(index, tmp_path / "cache")


def test_no_pair_left_after_the_bad_ones(tmp_path):
    root = tmp_path / "few"
    (root / "a").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(root / "a" / "0.png")
    (root / "a" / "1.png").write_bytes(b"no picture")
    index = open_dataset(root)
    build(index, tmp_path / "cache")
    with pytest.raises(ValueError, match="No identity with two pictures.*a/1.png: not a picture"):
        cache_of(index, tmp_path / "cache")


def test_parts_of_the_dataset_read_the_same_cache(index, tmp_path):
    build(index, tmp_path / "cache")
    cache = cache_of(index, tmp_path / "cache")
    for part in cache.index.split(2, numbers(1, SPLIT)):
        source = cache.of(part)
        every = list(range(len(part)))
        got = source.fetch(every, [POOLED])[POOLED]
        assert torch.equal(got, torch.stack([expected(part, n)[POOLED].half() for n in every]))
        sampler = DropOneSampler(part, TrainingConfig(batch_size=3))
        assert collate(source, sampler.batch(0), [HIDDEN]).latents.shape == (3, 4, 4, 4)
    with pytest.raises(ValueError, match="not in the cache"):
        cache.of(open_dataset(index.root))
    with pytest.raises(ValueError, match="not in the cache"):
        cache.of(index).fetch([2], [POOLED])


def test_int8_is_close_and_small(index, tmp_path):
    build(index, tmp_path / "half")
    build(index, tmp_path / "int8", int8=True, shard_bytes=10**6)
    build(index, tmp_path / "one", shard_bytes=10**6)
    cache = cache_of(index, tmp_path / "int8")
    got = cache.fetch(range(5), [HIDDEN, POOLED])
    wanted = torch.stack([expected(cache.index, n)[HIDDEN] for n in range(5)])
    error = (got[HIDDEN].float() - wanted).abs()
    assert (error <= wanted.abs().amax(-1, keepdim=True) / 127 * 0.51 + 1e-3).all()
    assert error.max() > 1e-3  # it is int8
    assert torch.equal(got[POOLED][0], expected(cache.index, 0)[POOLED].half())
    sizes = [sum(map(len, shards(tmp_path / name).values())) for name in ("one", "int8")]
    assert sizes[1] < 0.65 * sizes[0]
    with pytest.raises(ValueError, match="int8 = True; wanted .* int8 = False"):
        build(index, tmp_path / "int8")


def test_only_the_named_features_are_stored(index, tmp_path):
    build(index, tmp_path / "cache", names=[POOLED])
    cache = cache_of(index, tmp_path / "cache")
    assert set(cache.fetch([0], [LATENTS, POOLED])) == {LATENTS, POOLED}
    with pytest.raises(ValueError, match="holds latents, image_embeds; penultimate_hidden_states"):
        cache.fetch([0], [HIDDEN])
    with pytest.raises(ValueError, match="wanted latents, penultimate_hidden_states"):
        build(index, tmp_path / "cache", names=[HIDDEN])
    with pytest.raises(ValueError, match="Got face_embeds to store; the encoder gives latents"):
        build(index, tmp_path / "other", names=["face_embeds"])


def test_masks_are_stored_where_the_dataset_has_them(pictures, tmp_path):
    half = Image.new("L", (50, 40))
    half.paste(255, (0, 0, 25, 40))
    half.save(pictures / "mask.png")
    entries = [{"image": f"p4/{i}.png", "identity": "x"} for i in range(3)]
    entries[1]["mask"] = "mask.png"
    (pictures / "m.json").write_text(json.dumps(entries))
    index = open_dataset(pictures / "m.json")
    build(index, tmp_path / "cache")
    cache = cache_of(index, tmp_path / "cache")
    online = OnlineSource(index, encode, SIZE)
    for source in (cache, online):
        masks = source.fetch([0, 1], [LATENTS, MASK])[MASK]
        assert masks.shape == (2, 1, 4, 4) and (masks[0] == 1).all()
        assert (masks[1, 0, :, 0] == 1).all() and (masks[1, 0, :, 3] == 0).all()


# Another cache is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "xyz"}, "another VAE or image encoder"),
        ({"size": 64}, "size: 32 there, 64 now"),
        ({"fit": "pad"}, "fit: crop there, pad now"),
        ({"recogniser": "glintr100"}, "face recogniser: '' there, 'glintr100' now"),
    ],
)
def test_another_cache_is_refused(index, tmp_path, change, message):
    build(index, tmp_path / "cache")
    for use in (
        lambda: cache_of(index, tmp_path / "cache", **change),
        lambda: build(index, tmp_path / "cache", key=key_of(index, **change)),
    ):
        with pytest.raises(ValueError, match=f"made from something else.*{message}"):
            use()


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "edited"])
def test_a_changed_dataset_needs_another_cache(pictures, index, tmp_path, change):
    build(index, tmp_path / "cache")
    path = pictures / "p1" / "0.png"
    if change == "added":
        Image.new("RGB", (40, 40)).save(pictures / "p1" / "9.png")
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("00.png"))
    else:
        Image.new("RGB", (40, 40)).save(path)
    with pytest.raises(ValueError, match="pictures of the dataset have changed.*Delete"):
        cache_of(open_dataset(pictures), tmp_path / "cache")


def test_the_same_dataset_elsewhere_keeps_its_cache(pictures, index, tmp_path):
    build(index, tmp_path / "cache")
    pictures.rename(tmp_path / "moved")
    cache_of(open_dataset(tmp_path / "moved"), tmp_path / "cache")


@pytest.mark.parametrize("changed", ["a/0.bmp", "mask.bmp", "mask.bmp, larger"])
def test_a_file_written_anew_needs_another_cache(tmp_path, changed):
    """Uncompressed pictures have the same size whatever they show."""
    (tmp_path / "a").mkdir()
    for i in range(2):
        picture(i).save(tmp_path / "a" / f"{i}.bmp")
    picture(2).convert("L").save(tmp_path / "mask.bmp")
    entries = [{"image": f"a/{i}.bmp", "identity": "a", "mask": "mask.bmp"} for i in range(2)]
    (tmp_path / "m.json").write_text(json.dumps(entries))
    before = open_dataset(tmp_path / "m.json")
    build(before, tmp_path / "cache")
    name, _, larger = changed.partition(", ")
    old = (tmp_path / name).stat()
    image = picture(7, 90 if larger else 80)
    image.convert("L" if name == "mask.bmp" else "RGB").save(tmp_path / name)
    later = 0 if larger else 10**9  # a size alone tells, too
    os.utime(tmp_path / name, ns=(old.st_atime_ns, old.st_mtime_ns + later))
    assert ((tmp_path / name).stat().st_size == old.st_size) == (not larger)
    after = open_dataset(tmp_path / "m.json")
    with pytest.raises(ValueError, match="pictures of the dataset have changed.*Delete"):
        cache_of(after, tmp_path / "cache")
    with pytest.raises(ValueError, match="pictures of the dataset have changed.*Delete"):
        build(after, tmp_path / "cache")
    assert (after.digest() == before.digest()) == (not larger)


def test_a_copy_without_the_times_is_the_same_dataset(pictures, index, tmp_path):
    shutil.copytree(pictures, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / "p0" / "0.png", (1, 1))
    copied = open_dataset(tmp_path / "copy")
    assert copied.digest() == index.digest()
    assert copied.digest(times=True) != index.digest(times=True)
    assert copied.subset([0]).digest() == index.subset([0]).digest() != index.digest()


def test_no_cache_and_an_unfinished_one(index, tmp_path):
    with pytest.raises(ValueError, match="no feature cache in .*Build it"):
        cache_of(index, tmp_path / "cache")
    build(index, tmp_path / "cache")
    (tmp_path / "cache" / "shard-00001.safetensors").unlink()
    with pytest.raises(ValueError, match="not complete: shard-00001.safetensors is missing"):
        cache_of(index, tmp_path / "cache")


# Damage


def flip(path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["header", "cut", "empty"])
def test_a_damaged_shard_is_named_and_made_anew(index, tmp_path, damage):
    folder = tmp_path / "cache"
    build(index, folder)
    before, path = shards(folder), folder / "shard-00002.safetensors"
    if damage == "cut":
        path.write_bytes(before[path.name][:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        flip(path, 20)
    with pytest.raises(ValueError, match="shard-00002.safetensors in .* is damaged"):
        cache_of(index, folder)
    seen = []
    assert build(index, folder, counted(seen))
    assert shards(folder) == before
    rows = json.loads((folder / "cache.json").read_text())["ends"]
    assert sum(seen) == rows[2] - rows[1]


def test_damaged_values_are_noticed_when_they_are_read(index, tmp_path):
    folder = tmp_path / "cache"
    build(index, folder, shard_bytes=10**6)
    path = folder / "shard-00000.safetensors"
    wanted = expected(index, 5)[LATENTS].half().numpy().tobytes()
    flip(path, path.read_bytes().index(wanted) + 7)
    cache = cache_of(index, folder)
    number = [cache.index.name(n) for n in range(len(cache.index))].index(index.name(5))
    cache.fetch([number + 1], [LATENTS])
    cache.fetch([number], [POOLED])
    with pytest.raises(ValueError, match="checksum of latents, row 5"):
        cache.fetch([number], [LATENTS])


def test_a_damaged_plan_is_named(index, tmp_path):
    build(index, tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").write_text('{"key": ')
    with pytest.raises(ValueError, match="cache.json is damaged"):
        cache_of(index, tmp_path / "cache")


def test_values_that_are_not_finite_are_refused(index, tmp_path):
    def broken(pictures, names):
        return {name: values / 0 for name, values in encode(pictures).items()}

    with pytest.raises(ValueError, match="latents of p0/0.png are not finite.*float32"):
        build(index, tmp_path / "cache", broken)


def test_a_full_disk(index, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, old[1]))
        with pytest.raises(OSError, match="shard-00000.safetensors cannot be written.*make room"):
            build(index, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(os.listdir(folder)) == ["cache.json"]
    monkeypatch.setattr("shutil.disk_usage", lambda path: Free)
    with pytest.raises(OSError, match="GB more in .*Make room"):
        build(index, folder)
    monkeypatch.undo()
    assert build(index, folder)


class Free:
    free = 1000
