"""Faces through insightface and onnxruntime, on small graphs whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from multi_ipadapter.evaluation.networks.face import MissingPackageError, load_face

from .network_files import as_array, sha256

# ArcFace's landmarks in its 112 x 112 crop (arXiv 1801.07698): a face that has them at these
# places of the picture, moved by whole pixels, is cut out as it is.
TEMPLATE = [
    38.2946,
    51.6963,
    73.5318,
    51.5014,
    56.0252,
    71.7366,
    41.5493,
    92.3655,
    70.7299,
    92.2041,
]
SIZE = 320
HEADS = {8: 0.0, 16: 0.0, 32: 1.0}  # only the coarsest finds faces


class Graph:
    """Nodes and constants, collected by name."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, value) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes) -> str:
        output = output or f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def save(self, path: Path, shape: list, outputs: dict[str, list]) -> Path:
        source = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "graph", [source], results, self.constants)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def write_detector(path: Path, landmarks: bool = True) -> Path:
    """SCRFD's outputs: scores, boxes and landmarks at three strides, two anchors per cell.

    A 32 x 32 cell that is red throughout is the top left corner of a face; the bluer it is, the
    larger is the face's box (1 to 3 cells); its landmarks are those of `TEMPLATE`.
    """
    graph, outputs = Graph(), {"score": [], "box": [], "points": []}
    column = graph.constant(np.array([-1, 1], np.int64))
    for stride, weight in HEADS.items():
        cells = graph.add("AveragePool", "input", kernel_shape=[stride] * 2, strides=[stride] * 2)
        red, _, blue = (
            graph.add("Reshape", graph.add("Gather", cells, index, axis=1), column)
            for index in (graph.constant(np.int64(channel)) for channel in range(3))
        )
        score = graph.add("Sigmoid", graph.add("Mul", red, graph.constant(np.float32(8))))
        score = graph.add("Mul", score, graph.constant(np.float32(weight)))
        none = graph.add("Mul", score, graph.constant(np.float32(0)))
        side = graph.add("Add", blue, graph.constant(np.float32(2)))
        box = graph.add("Concat", none, none, side, side, axis=1)
        points = graph.add("Add", none, graph.constant(np.float32([TEMPLATE]) / stride))
        for kind, first, second in (
            ("score", score, none),
            ("box", box, box),
            ("points", points, points),
        ):
            width = {"score": 1, "box": 4, "points": 10}[kind]
            both = graph.add("Concat", first, second, axis=1)
            shape = graph.constant(np.array([-1, width], np.int64))
            outputs[kind].append(graph.add("Reshape", both, shape, output=f"{kind}_{stride}"))
    kinds = {"score": 1, "box": 4} | ({"points": 10} if landmarks else {})
    dims = {name: [f"n_{name}", w] for kind, w in kinds.items() for name in outputs[kind]}
    return graph.save(path, [1, 3, "height", "width"], dims)


def projection(width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((48, width)).astype(np.float32)


def write_recogniser(path: Path, width: int = 512) -> Path:
    """Means of a 4 x 4 grid of the crop, times a random matrix."""
    graph = Graph()
    cells = graph.add("AveragePool", "input", kernel_shape=[28, 28], strides=[28, 28])
    matrix = graph.constant(projection(width))
    graph.add("MatMul", graph.add("Flatten", cells), matrix, output="embedding")
    return graph.save(path, ["batch", 3, 112, 112], {"embedding": ["batch", width]})


def expected_embedding(picture: torch.Tensor, x: int, y: int) -> np.ndarray:
    """What the recogniser gives for the face whose crop begins at (x, y)."""
    crop = (as_array(picture)[y : y + 112, x : x + 112].astype(np.float32) - 127.5) / 127.5
    cells = crop.reshape(4, 28, 4, 28, 3).mean((1, 3)).transpose(2, 0, 1).reshape(1, 48)
    (embedding,) = cells @ projection(512)
    return embedding / np.linalg.norm(embedding)


def background(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 250, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    picture[0] //= 4  # nowhere red
    return picture


def put_face(picture: torch.Tensor, x: int, y: int, red: int = 255, blue: int = 128) -> None:
    cell = picture[:, y : y + 32, x : x + 32]
    cell[0], cell[2] = red, blue


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    return write_detector(folder / "det_10g.onnx"), write_recogniser(folder / "w600k_r50.onnx")


@pytest.fixture(scope="module")
def network(files):
    return load_face(*files, detection_size=SIZE)


def test_a_face_is_found_aligned_and_embedded(network):
    pixels = torch.stack([background(seed) for seed in range(3)])
    put_face(pixels[0], 64, 96)
    put_face(pixels[2], 160, 32)
    result = network(pixels)
    assert result["embedding"].shape == (3, 512) and result["found"].shape == (3, 1)
    assert {value.dtype for value in result.values()} == {torch.float32}
    assert result["found"].flatten().tolist() == [1, 0, 1]
    assert torch.equal(result["embedding"][1], torch.zeros(512))
    for row, x, y in ((0, 64, 96), (2, 160, 32)):
        got = result["embedding"][row].numpy()
        assert abs(np.linalg.norm(got) - 1) <= 1e-6
        assert got @ expected_embedding(pixels[row], x, y) >= 1 - 1e-4
    first, last = result["embedding"][0], result["embedding"][2]
    assert first @ last < 0.999


def test_the_largest_face_counts_not_the_surest(network):
    picture = background(5)
    put_face(picture, 32, 32, red=255, blue=0)
    put_face(picture, 160, 160, red=215, blue=255)
    embedding = network(picture[None])["embedding"][0].numpy()
    assert embedding @ expected_embedding(picture, 160, 160) >= 1 - 1e-4
    assert embedding @ expected_embedding(picture, 32, 32) < 0.999


def test_pictures_of_any_size_are_searched(network):
    picture = background(7)[:, :288]
    put_face(picture, 96, 64)
    twice = picture.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for pixels in (picture[None], twice[None]):
        result = network(pixels)
        assert result["found"].item() == 1
        assert result["embedding"][0].numpy() @ expected_embedding(picture, 96, 64) >= 0.99


def test_the_network_says_what_its_embeddings_depend_on(network, files):
    assert network.name == "face-w600k_r50" and network.resize == f"detect-{SIZE}"
    assert network.weights == f"{sha256(files[0])}+{sha256(files[1])}"
    assert network.outputs == {"embedding": 512, "found": 1}


def test_files_in_each_others_place_are_refused(files):
    with pytest.raises(ValueError, match="w600k_r50.onnx is not a model for face detection"):
        load_face(files[1], files[1])
    with pytest.raises(ValueError, match="det_10g.onnx is not a model for face recognition"):
        load_face(files[0], files[0])


def test_a_detector_without_landmarks_is_refused(files, tmp_path):
    detector = write_detector(tmp_path / "scrfd_10g.onnx", landmarks=False)
    with pytest.raises(ValueError, match="scrfd_10g.onnx finds faces without landmarks"):
        load_face(detector, files[1])


def test_a_recogniser_of_another_width_is_refused(files, tmp_path):
    recogniser = write_recogniser(tmp_path / "small.onnx", width=128)
    with pytest.raises(ValueError, match="small.onnx gives embeddings of width 128, expected 512"):
        load_face(files[0], recogniser)


def test_missing_and_damaged_files_are_refused(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file none.onnx"):
        load_face(tmp_path / "none.onnx", files[1])
    broken = tmp_path / "broken.onnx"
    for content in (b"", b"not a model", files[1].read_bytes()[:1000]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="broken.onnx .* is not a complete ONNX model"):
            load_face(files[0], broken)


@pytest.mark.parametrize("size", [0, 31, 100, -32])
def test_a_detection_size_that_is_no_multiple_of_32_is_refused(size, files):
    with pytest.raises(ValueError, match=f"Got detection size {size}; expected a multiple of 32"):
        load_face(*files, detection_size=size)


@pytest.mark.parametrize("package", ["insightface", "onnxruntime"])
def test_without_the_packages_the_command_to_install_them_is_told(package, files, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match='pip install "insightface>=2.1" onnxruntime'):
        load_face(*files)
