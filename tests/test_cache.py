"""The feature cache gives what the encoders gave, survives kill -9, and knows when it is stale."""

from __future__ import annotations

import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from multi_ipadapter.models.projection import HIDDEN, POOLED
from multi_ipadapter.training.batch import LATENTS, MASK, collate
from multi_ipadapter.training.cache import FeatureCache, build_cache
from multi_ipadapter.training.claims import NAMELESS_SECONDS, STALE_SECONDS, take
from multi_ipadapter.training.config import TrainingConfig
from multi_ipadapter.training.dataset import open_dataset
from multi_ipadapter.training.images import load_picture
from multi_ipadapter.training.online import OnlineSource
from multi_ipadapter.training.sampling import DropOneSampler

SIZE, COUNTS = 32, (3, 2, 4, 1, 5, 2)
SHARD_BYTES = 10_000  # a few pictures: several shards


def encode(pictures, names=None):
    """Stands for VAE and image encoder: cheap, and another result for every picture."""
    x = pictures.float().movedim(-1, 1) / 255  # [b, 3, H, W]
    latents = F.avg_pool2d(torch.cat([x, x.mean(1, keepdim=True)], 1), 8) * 4 - 2  # [b, 4, h, w]
    pooled = F.adaptive_avg_pool2d(x, 4).flatten(1)  # [b, 48]
    hidden = (pooled.unsqueeze(1) * torch.linspace(-3, 3, 17).view(1, -1, 1)).sin()  # [b, 17, 48]
    return {"latents": latents, "image_embeds": pooled, "penultimate_hidden_states": hidden}


@pytest.fixture
def pictures(tmp_path):
    """Identities with `COUNTS` pictures; the third picture is damaged."""
    root = tmp_path / "pictures"
    random = np.random.default_rng(0)
    for i, count in enumerate(COUNTS):
        (root / f"p{i}").mkdir(parents=True)
        for j in range(count):
            values = random.integers(0, 255, (40, 50, 3), np.uint8)
            Image.fromarray(values).save(root / f"p{i}" / f"{j}.png")
            (root / f"p{i}" / f"{j}.txt").write_text(f"caption {i} {j}")
    (root / "p0" / "2.png").write_bytes((root / "p0" / "2.png").read_bytes()[:2000])
    return root


@pytest.fixture
def index(pictures):
    return open_dataset(pictures)


def build(index, folder, encode=encode, fingerprint="abc", **options):
    options = {"shard_bytes": SHARD_BYTES, "batch_size": 2} | options
    return build_cache(index, folder, encode, fingerprint, SIZE, **options)


def shards(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.safetensors"))}


def expected(index, number: int) -> dict[str, torch.Tensor]:
    pixels, _ = load_picture(index, number, SIZE, "crop")
    return {name: values[0] for name, values in encode(pixels[None]).items()}


def test_what_was_encoded_comes_back(index, tmp_path):
    assert build(index, tmp_path / "cache")
    cache = FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")
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
    cache = FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")
    assert [s.path for s in cache.skipped] == ["p0/2.png"] and "cut off" in cache.skipped[0].reason
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
        FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")


def test_parts_of_the_dataset_read_the_same_cache(index, tmp_path):
    build(index, tmp_path / "cache")
    cache = FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")
    for part in cache.index.split(2, seed=1):
        source = cache.of(part)
        numbers = list(range(len(part)))
        got = source.fetch(numbers, [POOLED])[POOLED]
        assert torch.equal(got, torch.stack([expected(part, n)[POOLED].half() for n in numbers]))
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
    cache = FeatureCache(tmp_path / "int8", index, "abc", SIZE, "crop")
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
    cache = FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")
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
    cache = FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")
    online = OnlineSource(index, encode, SIZE)
    for source in (cache, online):
        masks = source.fetch([0, 1], [LATENTS, MASK])[MASK]
        assert masks.shape == (2, 1, 4, 4) and (masks[0] == 1).all()
        assert (masks[1, 0, :, 0] == 1).all() and (masks[1, 0, :, 3] == 0).all()


# Another cache is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "xyz"}, "encoders: the cache has abc, this run xyz"),
        ({"size": 64}, "picture size: the cache has 32, this run 64"),
        ({"fit": "pad"}, "fit: the cache has crop, this run pad"),
    ],
)
def test_another_cache_is_refused(index, tmp_path, change, message):
    build(index, tmp_path / "cache")
    key = {"fingerprint": "abc", "size": SIZE, "fit": "crop"} | change
    for use in (
        lambda: FeatureCache(tmp_path / "cache", index, **key),
        lambda: build_cache(index, tmp_path / "cache", encode, **key),
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
    with pytest.raises(ValueError, match="pictures: the cache has"):
        FeatureCache(tmp_path / "cache", open_dataset(pictures), "abc", SIZE, "crop")


def test_the_same_dataset_elsewhere_keeps_its_cache(pictures, index, tmp_path):
    build(index, tmp_path / "cache")
    pictures.rename(tmp_path / "moved")
    FeatureCache(tmp_path / "cache", open_dataset(tmp_path / "moved"), "abc", SIZE, "crop")


def test_no_cache_and_an_unfinished_one(index, tmp_path):
    with pytest.raises(ValueError, match="no feature cache in .*Build it"):
        FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")
    build(index, tmp_path / "cache")
    (tmp_path / "cache" / "shard-00001.safetensors").unlink()
    with pytest.raises(ValueError, match="not complete: shard-00001.safetensors is missing"):
        FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")


# Damage


def flip(path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["values", "header", "cut", "empty"])
def test_a_damaged_shard_is_named_and_made_anew(index, tmp_path, damage):
    folder = tmp_path / "cache"
    build(index, folder)
    before, path = shards(folder), folder / "shard-00002.safetensors"
    if damage == "cut":
        path.write_bytes(before[path.name][:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        flip(path, {"values": len(before[path.name]) - 200, "header": 20}[damage])
    with pytest.raises(ValueError, match="shard-00002.safetensors in .* is damaged"):
        FeatureCache(folder, index, "abc", SIZE, "crop").verify()
    seen = []
    assert build(index, folder, counted(seen), verify=True)
    assert shards(folder) == before
    rows = json.loads((folder / "cache.json").read_text())["ends"]
    assert sum(seen) == rows[2] - rows[1]


def counted(seen: list[int]):
    def run(pictures):
        seen.append(len(pictures))
        return encode(pictures)

    return run


def test_damaged_values_are_noticed_when_they_are_read(index, tmp_path):
    folder = tmp_path / "cache"
    build(index, folder, shard_bytes=10**6)
    path = folder / "shard-00000.safetensors"
    wanted = expected(index, 5)[LATENTS].half().numpy().tobytes()
    flip(path, path.read_bytes().index(wanted) + 7)
    cache = FeatureCache(folder, index, "abc", SIZE, "crop")
    number = [cache.index.name(n) for n in range(len(cache.index))].index(index.name(5))
    cache.fetch([number + 1], [LATENTS])
    cache.fetch([number], [POOLED])
    with pytest.raises(ValueError, match="checksum of latents, row 5"):
        cache.fetch([number], [LATENTS])


def test_a_damaged_plan_is_named(index, tmp_path):
    build(index, tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").write_text('{"key": ')
    with pytest.raises(ValueError, match="cache.json is damaged"):
        FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")


def test_values_that_are_not_finite_are_refused(index, tmp_path):
    def broken(pictures):
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


# Interruptions


def test_a_stopped_build_goes_on_where_it_was(index, tmp_path):
    folder, calls = tmp_path / "cache", []

    def stop_later():
        calls.append(0)
        return len(calls) > 5

    assert build(index, folder, should_stop=stop_later) is False
    done = shards(folder)
    assert done and not list(folder.glob("*.claim"))
    seen, told = [], []
    assert build(index, folder, counted(seen), on_progress=lambda *a: told.append(a))
    assert told[-1] == (len(index), len(index))
    build(index, tmp_path / "unbroken")
    assert shards(folder) == shards(tmp_path / "unbroken")
    assert sum(seen) < len(index) - 1 and done.items() <= shards(folder).items()
    assert build(index, folder, counted(again := [])) and not again


WORKER = """
import os, signal, sys, time
from pathlib import Path
import torch
from torch.nn import functional as F
from multi_ipadapter.training.cache import build_cache
from multi_ipadapter.training.dataset import open_dataset

{encode}

def start(root, folder, size, shard_bytes, pause, log=None):
    pid = os.fork()
    if pid:
        return pid
    torch.set_num_threads(1)
    fsync = os.fsync
    os.fsync = lambda file: (time.sleep(pause), fsync(file))  # a slow disk

    def slow(pictures):
        time.sleep(pause)
        if log:
            with open(f"{{log}}.{{os.getpid()}}", "a") as file:
                file.write("x" * len(pictures))
        return encode(pictures)
    code = 1
    try:
        index = open_dataset(root)
        build_cache(index, folder, slow, "abc", size, batch_size=2, shard_bytes=shard_bytes)
        code = 0
    finally:
        os._exit(code)
"""

KILLER = """
root, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
folder.mkdir()
count = lambda pattern: len(list(folder.glob(pattern)))
moments = {
    "planned": lambda: count("cache.json"),
    "claimed": lambda: count("shard-00000.claim"),
    "writing": lambda: count(".*.tmp") > leftovers and count("shard-*.claim"),
    "one shard": lambda: count("shard-*.safetensors") == 1,
    "writing again": lambda: count(".*.tmp") > leftovers and count("shard-*.claim"),
    "two shards": lambda: count("shard-*.safetensors") == 2,
}
for name, reached in moments.items():
    leftovers = count(".*.tmp")
    child = start(root, folder, size, int(sys.argv[4]), 0.05)
    while not reached():
        time.sleep(0.001)
        assert os.waitpid(child, os.WNOHANG) == (0, 0), f"done before: {name}"
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
print(count(".*.tmp"), count("shard-*.safetensors"))
"""

PAIR = """
root, folder, size = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
children = [start(root, folder, size, int(sys.argv[4]), 0.05, sys.argv[5]) for _ in range(2)]
for child in children:
    assert os.waitpid(child, 0)[1] == 0
"""


def run_worker(script: str, *args: object) -> str:
    code = WORKER.format(encode=inspect.getsource(encode)) + script
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kill_9_at_any_moment(index, tmp_path):
    folder = tmp_path / "cache"
    told = run_worker(KILLER, index.root, folder, SIZE, SHARD_BYTES)
    leftovers, complete = map(int, told.split())
    assert leftovers >= 2 and complete == 2  # two were killed inside a write
    seen = []
    assert build(index, folder, counted(seen))
    assert build(index, tmp_path / "unbroken")
    assert shards(folder) == shards(tmp_path / "unbroken")
    assert sum(seen) < len(index) - 1  # what was complete is not made again
    FeatureCache(folder, index, "abc", SIZE, "crop").verify()
    old = time.time() - STALE_SECONDS - 1
    for path in folder.glob(".*.tmp"):
        os.utime(path, (old, old))
    build(index, folder)
    assert not list(folder.glob(".*.tmp")) and not list(folder.glob("*.claim"))


def test_two_processes_fill_one_cache(index, tmp_path):
    log = tmp_path / "log"
    run_worker(PAIR, index.root, tmp_path / "cache", SIZE, SHARD_BYTES, log)
    build(index, tmp_path / "alone")
    assert shards(tmp_path / "cache") == shards(tmp_path / "alone")
    counts = [len(path.read_text()) for path in tmp_path.glob("log.*")]
    assert len(counts) == 2 and min(counts) >= 2  # both worked
    assert sum(counts) == len(index) - 1 + 1  # the readable ones once, the first for the plan


def test_claims(tmp_path):
    path = tmp_path / "x.claim"
    first = take(path)
    assert first is not None and take(path) is None
    with first:
        first.renew()
    assert not path.exists()
    owner = {"host": "another-machine", "pid": 1, "token": "x"}
    path.write_text(json.dumps(owner))
    assert take(path) is None  # may live: nobody here can tell
    old = time.time() - STALE_SECONDS - 1
    os.utime(path, (old, old))
    second = take(path)
    assert second is not None
    path.write_text(json.dumps(owner))  # taken over by another machine
    with second:
        pass
    assert path.exists()


# Without a cache


def test_online_gives_what_the_cache_gives(index, tmp_path):
    build(index, tmp_path / "cache")
    cache = FeatureCache(tmp_path / "cache", index, "abc", SIZE, "crop")
    online = OnlineSource(cache.index, encode, SIZE, batch_size=3)
    numbers = [4, 1, 7, 1]
    names = (LATENTS, POOLED, HIDDEN, MASK)
    ours, theirs = online.fetch(numbers, names), cache.fetch(numbers, names)
    for name in names:
        assert torch.equal(ours[name].half(), theirs[name]) and not ours[name].is_inference()
    assert [online.caption(n) for n in numbers] == [cache.caption(n) for n in numbers]
    part = cache.index.subset([2])
    assert torch.equal(online.of(part).fetch([0], [POOLED])[POOLED][0], expected(part, 0)[POOLED])


def test_online_replaces_a_bad_picture_by_another_of_the_identity(index, pictures):
    online = OnlineSource(index, encode, SIZE)
    got = online.fetch([2, 0], [POOLED])[POOLED]
    assert torch.equal(got[0], got[1]) and torch.equal(got[1], expected(index, 0)[POOLED])
    assert [s.path for s in online.skipped] == ["p0/2.png"]
    assert online.caption(2) == "caption 0 0"
    for name in ("0", "1"):
        (pictures / "p0" / f"{name}.png").unlink()
    with pytest.raises(ValueError, match="No picture of p0 can be read"):
        online.fetch([2, 0], [POOLED])


def test_a_claim_without_a_name_is_taken_over_soon(tmp_path):
    """Its owner was killed between creating the file and writing into it."""
    path = tmp_path / "x.claim"
    path.touch()
    assert take(path) is None
    old = time.time() - NAMELESS_SECONDS - 1
    os.utime(path, (old, old))
    assert take(path) is not None
