"""Pictures through a network into the store: resumed, divided, in bounded memory, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from PIL import Image

from multi_ipadapter.evaluation import extract as module
from multi_ipadapter.evaluation.extract import Batches, Interrupted, extract
from multi_ipadapter.evaluation.store import FeatureStore, remove_features
from multi_ipadapter.pictures.sources import FolderSource, Picture, TensorSource

from .evaluation_world import Network, drawn, write_pictures


@pytest.fixture
def source(tmp_path):
    return FolderSource(write_pictures(tmp_path / "pictures", 23))


def store_of(folder, network):
    return FeatureStore(folder, network, list(network.outputs))


def run(source, folder, network, rank=0, count=1, **options):
    batches = Batches(4, rank=rank, count=count)
    return extract(source, network, store_of(folder, network), batches, **options)


def direct(source, network, output):
    return torch.cat([network(source.load(i).pixels[None])[output] for i in range(len(source))])


def stop_after(calls):
    """`cancelled` that says so at the given call."""
    made = []

    def cancelled() -> bool:
        made.append(1)
        return len(made) > calls

    return cancelled


def test_features_are_the_networks_and_in_order(source, tmp_path):
    network, told = Network(), []
    out = run(source, tmp_path / "store", network, on_pictures=told.append)
    assert out.numbers == list(range(23)) and sum(told) == 23 and network.calls == 6
    for name in ("pool", "logits"):
        expected = direct(source, Network(), name)
        assert torch.allclose(out.features(name, out.numbers), expected, atol=1e-6)
        some = out.features(name, [17, 2, 17])
        assert torch.allclose(some, expected[[17, 2, 17]], atol=1e-6)
    assert out.format(3) == "PNG" and Counter(map(out.size, out.numbers)) == {(24, 20): 23}


def test_a_stopped_run_goes_on_without_computing_anything_again(source, tmp_path):
    first, second, third = Network(), Network(), Network()
    with pytest.raises(Interrupted, match="Stopped after 8 of 23 pictures") as caught:
        run(source, tmp_path / "store", first, cancelled=stop_after(2))
    assert (caught.value.done, caught.value.total, first.seen) == (8, 23, 8)
    resumed = run(source, tmp_path / "store", second)
    assert second.seen == 15, "the first eight come from the store"
    again = run(source, tmp_path / "store", third)
    assert third.seen == 0 and again.numbers == list(range(23))
    whole = run(source, tmp_path / "another", Network())
    for out in (resumed, again):
        assert torch.equal(out.features("pool", out.numbers), whole.features("pool", range(23)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_features_so_far_are_kept_whatever_ends_the_run(source, tmp_path, error):
    def cancelled():
        if network.calls == 3:
            raise error

    network, second = Network(), Network()
    with pytest.raises(error):
        run(source, tmp_path / "store", network, cancelled=cancelled)
    run(source, tmp_path / "store", second)
    assert network.seen == 12 and second.seen == 11


def test_only_changed_pictures_are_computed_again(source, tmp_path):
    run(source, tmp_path / "store", Network())
    Image.fromarray(drawn(777, (30, 30))).save(source.path(5))
    network = Network()
    out = run(source, tmp_path / "store", network)
    assert network.seen == 1 and out.size(5) == (30, 30)


@pytest.mark.parametrize("change", [{"weights": "f" * 64}, {"resize": "other"}, {"name": "other"}])
def test_features_of_another_network_are_not_used(source, tmp_path, change):
    run(source, tmp_path / "store", Network())
    network = Network()
    vars(network).update(change)
    run(source, tmp_path / "store", network)
    assert network.seen == 23


def test_processes_share_the_work_and_their_parts_make_the_whole(source, tmp_path):
    networks = [Network(), Network(), Network()]
    for rank, network in enumerate(networks):
        run(source, tmp_path / "store", network, rank=rank, count=3)
    assert [network.seen for network in networks] == [8, 8, 7]
    last = Network()
    out = run(source, tmp_path / "store", last)
    alone = run(source, tmp_path / "alone", Network())
    assert last.seen == 0
    assert torch.equal(out.features("pool", range(23)), alone.features("pool", range(23)))


def test_unreadable_pictures_are_skipped_and_listed(source, tmp_path):
    source.path(2).write_bytes(b"no picture")
    source.path(9).write_bytes(source.path(9).read_bytes()[:70])
    out = run(source, tmp_path / "store", Network())
    assert out.numbers == [n for n in range(23) if n not in (2, 9)]
    reasons = {s.path: s.reason for s in out.skipped.values()}
    assert reasons.keys() == {"002.png", "009.png"}
    assert reasons["002.png"].startswith("not a picture")
    assert reasons["009.png"].startswith("damaged or cut off")


def test_sizes_may_be_mixed_and_a_batch_has_one(tmp_path):
    batches = [torch.rand(3, 8, 8, 3), torch.rand(3, 16, 8, 3)]
    source = TensorSource([batches[0], batches[1], batches[0]])
    network = Network()
    out = extract(source, network, store_of(tmp_path, network), Batches(9))
    assert network.calls == 2 and Counter(map(out.size, out.numbers)) == {(8, 8): 6, (8, 16): 3}
    expected = direct(source, Network(), "pool")
    assert torch.allclose(out.features("pool", range(9)), expected, atol=1e-6)


class Large:
    """Pictures of 1,000 pixels; `loaded` counts them."""

    skipped = ()

    def __init__(self, count: int):
        self.count, self.loaded = count, 0

    def __len__(self):
        return self.count

    def name(self, number):
        return str(number)

    def fingerprint(self, number):
        return f"{number:032}"

    def load(self, number):
        self.loaded += 1
        return Picture(torch.full((3, 25, 40), number % 256, dtype=torch.uint8), "PNG")


def test_large_pictures_come_in_small_batches_and_few_are_decoded_ahead(tmp_path, monkeypatch):
    class Slow(Network):
        def __call__(self, pixels):
            sizes.append(len(pixels))
            time.sleep(0.02)  # for the threads to decode as far ahead as they may
            ahead.append(source.loaded - sum(sizes))
            return super().__call__(pixels)

    monkeypatch.setattr(module, "_PIXELS", 3_000)
    source, sizes, ahead = Large(20), [], []
    out = extract(source, Slow(), store_of(tmp_path / "a", Network()), Batches(8))
    assert sizes == [3, 3, 2, 3, 3, 2, 3, 1], "never more pixels, and blocks stay blocks"
    # Three wait, four are being decoded when the third is done, and one was taken for the next.
    assert 1 <= max(ahead) <= 3 + module._THREADS + 1
    monkeypatch.undo()
    whole = extract(Large(20), Network(), store_of(tmp_path / "b", Network()), Batches(8))
    expected = whole.features("pool", range(20))
    assert torch.allclose(out.features("pool", range(20)), expected, atol=1e-6)


def test_a_stopped_run_decodes_no_more(tmp_path):
    source = Large(500)
    with pytest.raises(Interrupted):
        run(source, tmp_path / "store", Network(), cancelled=stop_after(1))
    assert source.loaded < 500


def test_features_that_are_not_finite_are_refused_and_the_others_kept(source, tmp_path):
    class Broken(Network):
        def __call__(self, pixels):
            features = super().__call__(pixels)
            if self.calls == 3:
                features["logits"][1, 0] = torch.inf
            return features

    with pytest.raises(ValueError, match="tiny gives logits that are not finite .* for 009.png"):
        run(source, tmp_path / "store", Broken())
    network = Network()
    run(source, tmp_path / "store", network)
    assert network.seen == 23 - 8


def test_damaged_chunks_are_computed_again(source, tmp_path, caplog):
    network = Network()
    run(source, tmp_path / "store", network)
    (chunk,) = store_of(tmp_path / "store", network).folder.glob("*.safetensors")
    chunk.write_bytes(chunk.read_bytes()[:-9])
    again = Network()
    run(source, tmp_path / "store", again)
    assert again.seen == 23 and "is damaged" in caplog.text


def test_removing_features_removes_nothing_else(source, tmp_path):
    folder = tmp_path / "store"
    run(source, folder, Network())
    (folder / "notes.txt").write_text("mine")
    remove_features(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    run(source, folder, Network())
    remove_features(folder)
    assert not folder.exists()


MANY, WIDTH = 16_000, 1024
STREAM = f"""
import sys, threading, time
import psutil, torch
from multi_ipadapter.evaluation.extract import Batches, extract
from multi_ipadapter.pictures.sources import Picture
from multi_ipadapter.evaluation.store import FeatureStore
from multi_ipadapter.evaluation.set_scores import stored_gaussian

class Many:
    skipped = []
    def __len__(self): return {MANY}
    def name(self, number): return str(number)
    def fingerprint(self, number): return f"{{number:032x}}"
    def load(self, number):
        return Picture(torch.tensor([number % 251, number // 251, 7], dtype=torch.uint8)
                       .view(3, 1, 1).expand(3, 8, 8), "PNG")

class Wide:
    name, weights, resize, outputs = "wide", "0" * 64, "none", {{"pool": {WIDTH}}}
    def __call__(self, pixels):
        return {{"pool": pixels.float().mean((2, 3)) @ torch.linspace(-1, 1, 3 * {WIDTH})
                .view(3, {WIDTH})}}

torch.set_num_threads(1)
network = Wide()
store = FeatureStore(sys.argv[1], network, ["pool"])
peak = 0

def watch():
    global peak
    while True:
        peak = max(peak, psutil.Process().memory_info().rss)
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
"""


def peak_memory(count, folder):
    """Bytes, the lower of two runs: now and then the system counts pages of libraries too."""
    code = STREAM.replace(f"return {MANY}", f"return {count}") + (
        f"gaussian = stored_gaussian(extract(Many(), network, store, Batches()), range({count}))\n"
        f"assert gaussian.n == {count} and gaussian.mean.shape == ({WIDTH},)\n"
        "print(peak)"
    )
    # Freed buffers go back to the system at once, so that the peak shows what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    peaks = []
    for run in range(2):
        command = [sys.executable, "-c", code, str(folder / f"{count}_{run}")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    return min(peaks)


@pytest.mark.process
def test_many_pictures_need_no_more_memory_than_few(tmp_path):
    """Features of all of them would take 60 MB more; they stay on disk."""
    few, many = (peak_memory(count, tmp_path) for count in (MANY // 12, MANY))
    more = (MANY - MANY // 12) * WIDTH * 4
    assert many - few < more / 2, (few, many)
