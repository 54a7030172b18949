"""FID-Inception gives torch-fidelity's features, and takes the published files alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from multi_ipadapter.evaluation.networks.inception import InceptionModule, load_inception

from .network_files import pictures, randomise, sha256


@pytest.fixture(scope="module")
def tensors():
    """A generated state dict; torch-fidelity loads it strictly, so its keys are the public ones."""
    return randomise(InceptionModule()).state_dict()


@pytest.fixture(scope="module")
def path(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def network(path):
    return load_inception(path)


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 of the features, and to 1e-4 of the much smaller part by which pictures differ."""
    difference = (got - expected).abs().max()
    assert difference / expected.abs().max() <= 1e-5
    assert difference / (expected - expected.mean(0)).abs().max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(120, 160), (512, 480)])
def test_features_are_torch_fidelitys(size, network, path):
    outputs = ["2048", "logits_unbiased"]
    oracle = FeatureExtractorInceptionV3("oracle", outputs, feature_extractor_weights_path=path)
    pixels = pictures(3, *size)
    pool, logits = oracle(pixels)
    features = network(pixels)
    assert features.keys() == network.outputs.keys() == {"pool", "logits"}
    assert features["pool"].shape == (3, 2048) and features["logits"].shape == (3, 1008)
    assert all(value.dtype == torch.float32 for value in features.values())
    assert_close(features["pool"], pool)
    assert_close(features["logits"], logits)


def test_a_safetensors_file_without_the_counters_gives_the_same(network, tensors, tmp_path):
    path = tmp_path / "fid-inception.safetensors"
    save_file({k: v for k, v in tensors.items() if "num_batches" not in k}, path)
    pixels = pictures(1, 64, 64)
    assert torch.equal(load_inception(path)(pixels)["pool"], network(pixels)["pool"])


def test_the_network_says_what_its_features_depend_on(network, path):
    assert network.name == "fid-inception"
    assert network.weights == sha256(path)
    assert network.resize == "torch-fidelity"
    assert load_inception(path, "clean").resize == "clean"


def test_a_changed_file_has_another_hash(path, tmp_path):
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    first = load_inception(copy).weights
    tensors = torch.load(path, weights_only=True)
    tensors["fc.bias"] += 1
    torch.save(tensors, copy)
    assert load_inception(copy).weights == sha256(copy) != first


def test_the_resize_mode_decides_what_the_network_sees(path, network):
    clean = load_inception(path, "clean")
    same, other = pictures(1, 299, 299), pictures(1, 600, 600)
    assert torch.equal(clean(same)["pool"], network(same)["pool"])
    assert not torch.allclose(clean(other)["pool"], network(other)["pool"], rtol=1e-3)


def test_autocast_and_gradients_of_the_caller_do_not_reach_it(network):
    pixels = pictures(1, 80, 80)
    expected = network(pixels)["pool"]
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        got = network(pixels)["pool"]
    assert torch.equal(got, expected) and not got.requires_grad


@pytest.fixture
def flags():
    """PyTorch's switches for TensorFloat-32, put back afterwards."""
    before = precisions()
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    yield switches
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for switch, value in zip(switches, (True, False), strict=True):  # as PyTorch starts
        switch.allow_tf32 = value
    for operation, value in zip(operations(), before, strict=True):
        operation.fp32_precision = value


def operations():
    backends = torch.backends
    return (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul)


def precisions():
    """What each operation computes in, by the settings that PyTorch has had since 2.9."""
    return [operation.fp32_precision for operation in operations()]


def matmul_new():
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def everything_new():
    torch.backends.fp32_precision = "tf32"


def matmul_old():
    torch.set_float32_matmul_precision("medium")


@pytest.mark.parametrize("setting", [matmul_new, everything_new, matmul_old])
def test_settings_of_either_kind_are_overruled_and_left(setting, network, flags):
    setting()
    before, seen = precisions(), []
    hook = network.module.Mixed_5b.register_forward_hook(lambda *_: seen.append(precisions()))
    network(pictures(1, 32, 32))
    hook.remove()
    assert seen == [["ieee"] * 4] and precisions() == before and before != ["ieee"] * 4


@pytest.mark.parametrize("setting", [True, False])
def test_it_runs_in_full_precision_and_leaves_the_setting_of_others(setting, network, flags):
    for switch in flags:
        switch.allow_tf32 = setting
    seen = []
    hook = network.module.Mixed_5b.register_forward_hook(
        lambda *_: seen.extend(switch.fp32_precision for switch in operations())
    )
    network(pictures(1, 32, 32))
    hook.remove()
    assert seen == ["ieee"] * 4
    assert [switch.allow_tf32 for switch in flags] == [setting, setting]


def test_a_failing_run_leaves_the_setting_too(network, flags):
    for switch in flags:
        switch.allow_tf32 = True
    with pytest.raises(ValueError, match="Got pictures"):
        network(torch.zeros(1, 3, 32, 32))
    assert [switch.allow_tf32 for switch in flags] == [True, True]


def test_torchvisions_inception_is_refused(tensors, tmp_path):
    save_file(
        tensors | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)},
        tmp_path / "inception_v3.safetensors",
    )
    with pytest.raises(ValueError, match="1000 classes; FID-Inception has 1008"):
        load_inception(tmp_path / "inception_v3.safetensors")


def test_missing_left_over_and_misshapen_tensors_are_named(tensors, tmp_path):
    path = tmp_path / "odd.safetensors"

    def message(changed) -> str:
        save_file(changed, path)
        with pytest.raises(ValueError, match="odd.safetensors is not the weights of FID-") as error:
            load_inception(path)
        return str(error.value)

    small = {k: v for k, v in tensors.items() if not k.startswith("Mixed")}
    assert "it lacks" in message(small) and "Mixed_5b.branch1x1.bn.bias" in message(small)
    assert "it has unknown 1 tensors (extra)" in message(tensors | {"extra": torch.zeros(1)})
    wrong = tensors | {"fc.bias": torch.zeros(7)}
    assert "fc.bias has shape [7], expected [1008]" in message(wrong)


def test_an_unknown_resize_mode_is_refused_before_the_file_is_read(tmp_path):
    with pytest.raises(ValueError, match="Got resize mode 'lanczos'"):
        load_inception(tmp_path / "missing.pth", "lanczos")
