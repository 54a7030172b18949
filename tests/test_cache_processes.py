"""Filling the cache survives stops and kill -9, and several processes share the work."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from multi_ipadapter.files.claims import NAMELESS_SECONDS, STALE_SECONDS, take

from .people import SHARD_BYTES, SIZE, build, cache_of, counted, encode, read_all, shards


def test_a_stopped_build_goes_on_where_it_was(index, tmp_path):
    folder, calls = tmp_path / "cache", []

    def stop_later():
        calls.append(0)
        return len(calls) > 5

    assert build(index, folder, watch=(None, stop_later)) is False
    done = shards(folder)
    assert done and not list(folder.glob("*.claim"))
    seen, told = [], []
    assert build(index, folder, counted(seen), watch=[lambda *a: told.append(a)])
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
from multi_ipadapter.models.projection import HIDDEN, POOLED
from multi_ipadapter.training.cache import build_cache
from multi_ipadapter.pictures.open import open_dataset
from multi_ipadapter.training.encoding import Encoders
from multi_ipadapter.training.cache_plan import CacheKey, CacheSpec

{encode}

def start(root, folder, size, shard_bytes, pause, log=None):
    pid = os.fork()
    if pid:
        return pid
    torch.set_num_threads(1)
    fsync = os.fsync
    os.fsync = lambda file: (time.sleep(pause), fsync(file))  # a slow disk

    def slow(pictures, names):
        time.sleep(pause)
        if log:
            with open(f"{{log}}.{{os.getpid()}}", "a") as file:
                file.write("x" * len(pictures))
        return encode(pictures)
    code = 1
    try:
        index = open_dataset(root)
        key = CacheKey("abc", size, "crop", index.digest(times=True))
        spec = CacheSpec(key, (POOLED, HIDDEN), shard_bytes=shard_bytes)
        build_cache(Path(folder), index, Encoders(slow, "abc", {{}}, batch_size=2), spec)
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


@pytest.mark.process
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
    read_all(cache_of(index, folder))
    old = time.time() - STALE_SECONDS - 1
    for path in folder.glob(".*.tmp"):
        os.utime(path, (old, old))
    # Killed between the shard and the end of its claim.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owner = {"host": socket.gethostname(), "pid": gone.pid, "token": "x"}
    (folder / "shard-00001.claim").write_text(json.dumps(owner))
    build(index, folder)
    assert not list(folder.glob(".*.tmp")) and not list(folder.glob("*.claim"))


@pytest.mark.process
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


def test_a_claim_without_a_name_is_taken_over_soon(tmp_path):
    """Its owner was killed between creating the file and writing into it."""
    path = tmp_path / "x.claim"
    path.touch()
    assert take(path) is None
    old = time.time() - NAMELESS_SECONDS - 1
    os.utime(path, (old, old))
    assert take(path) is not None
