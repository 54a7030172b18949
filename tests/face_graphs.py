"""ONNX graphs that find and recognise painted faces: insightface's file layouts, known answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw

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
HEADS = {8: 0.0, 16: 0.0, 32: 1.0}  # only the coarsest finds faces
CELL = 32
LEVELS = 16  # of a colour channel that codes a number; coarse, so that JPEG keeps it
_STEP = 256 // LEVELS
_PATCH = (44, 70)  # where a crop of 112 pixels codes its embedding


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


def _detector(path: Path, values_of, landmarks: bool, shape: list, upright: bool = False) -> Path:
    """SCRFD's outputs: scores, boxes and landmarks at three strides, two anchors per cell.

    A 32 x 32 cell that is red throughout is a face; the second anchor never finds one.

    Args:
        values_of: graph, stride, zeros, green and blue of the cells -> box and points.
        upright: only a cell that is red above and not below is a face (`darken_below`).
    """
    graph, outputs = Graph(), {"score": [], "box": [], "points": []}
    column = graph.constant(np.array([-1, 1], np.int64))
    for stride, weight in HEADS.items():
        cells = graph.add("AveragePool", "input", kernel_shape=[stride] * 2, strides=[stride] * 2)
        red, green, blue = (
            graph.add("Reshape", graph.add("Gather", cells, index, axis=1), column)
            for index in (graph.constant(np.int64(channel)) for channel in range(3))
        )
        if upright:
            red = graph.add("Reshape", _above_less_below(graph, stride), column)
        score = graph.add("Sigmoid", graph.add("Mul", red, graph.constant(np.float32(8))))
        score = graph.add("Mul", score, graph.constant(np.float32(weight)))
        none = graph.add("Mul", score, graph.constant(np.float32(0)))
        box, points = values_of(graph, stride, none, green, blue)
        for kind, first, second in (
            ("score", score, none),
            ("box", box, box),
            ("points", points, points),
        ):
            width = {"score": 1, "box": 4, "points": 10}[kind]
            both = graph.add("Concat", first, second, axis=1)
            sides = graph.constant(np.array([-1, width], np.int64))
            outputs[kind].append(graph.add("Reshape", both, sides, output=f"{kind}_{stride}"))
    kinds = {"score": 1, "box": 4} | ({"points": 10} if landmarks else {})
    dims = {name: [f"n_{name}", w] for kind, w in kinds.items() for name in outputs[kind]}
    return graph.save(path, shape, dims)


def _above_less_below(graph: Graph, stride: int) -> str:
    """Half the red of each cell's upper half less that of its lower half, less 0.5."""
    weights = np.zeros((1, 3, stride, stride), np.float32)
    weights[0, 0, : stride // 2], weights[0, 0, stride // 2 :] = 1, -1
    kernel = graph.constant(weights / stride**2)
    found = graph.add("Conv", "input", kernel, strides=[stride] * 2)
    return graph.add("Sub", found, graph.constant(np.float32(0.5)))


def darken_below(picture: np.ndarray, x: int, y: int) -> None:
    """Make the face whose red cell is here one of those that are found upright only."""
    picture[y + CELL // 2 : y + CELL, x : x + CELL, 0] = 0


def write_detector(path: Path, landmarks: bool = True) -> Path:
    """The red cell is the top left corner of the face; the bluer it is, the larger is the face's
    box (1 to 3 cells); its landmarks are those of `TEMPLATE`."""

    def values_of(graph: Graph, stride: int, none: str, green: str, blue: str):
        side = graph.add("Add", blue, graph.constant(np.float32(2)))
        box = graph.add("Concat", none, none, side, side, axis=1)
        points = graph.add("Add", none, graph.constant(np.float32([TEMPLATE]) / stride))
        return box, points

    return _detector(path, values_of, landmarks, [1, 3, "height", "width"])


def write_shaped_detector(
    path: Path, shapes: Sequence[np.ndarray], size: int | None = None, upright: bool = False
):
    """The cell's green is the number of the face's shape (`shape`); see `paint`.

    Args:
        shapes: at most `LEVELS`.
        size: of a detector that has only one.
    """
    table = np.zeros((LEVELS, 14), np.float32)
    table[: len(shapes)] = shapes

    def values_of(graph: Graph, stride: int, none: str, green: str, blue: str):
        number = graph.add("Squeeze", _code(graph, green, 128.0), graph.constant(np.int64([1])))
        values = graph.add("Gather", graph.constant(table / stride), number, axis=0)
        parts = graph.constant(np.int64([4, 10]))
        graph.nodes.append(
            helper.make_node("Split", [values, parts], [f"box{stride}", f"kps{stride}"], axis=1)
        )
        return f"box{stride}", f"kps{stride}"

    sides = [1, 3, size or "height", size or "width"]
    return _detector(path, values_of, True, sides, upright)


def _code(graph: Graph, values: str, scale: float) -> str:
    """Number that a mean colour stands for: its level's middle is `_STEP` times it and a half."""
    level = graph.add("Mul", values, graph.constant(np.float32(scale)))
    level = graph.add("Add", level, graph.constant(np.float32(127.5)))
    level = graph.add("Floor", graph.add("Div", level, graph.constant(np.float32(_STEP))))
    limits = (graph.constant(np.float32(0)), graph.constant(np.float32(LEVELS - 1)))
    return graph.add("Cast", graph.add("Clip", level, *limits), to=TensorProto.INT64)


def shape(
    scale: float = 1.0,
    roll: float = 0.0,
    yaw: float = 0.0,
    at: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Box (distances from the cell's corner) and landmarks, [14], in pixels of the detector.

    Args:
        scale: 1: a face whose aligned crop has 112 pixels.
        roll: turns the head clockwise, in degrees.
        yaw: moves the nose towards an eye, 1 onto its height.
        at: moves the face.
    """
    points = np.reshape(TEMPLATE, (5, 2)).astype(np.float64)
    points[2, 0] += yaw * (points[1, 0] - points[0, 0]) / 2
    turn = np.deg2rad(roll)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = ((points - 56) @ matrix.T + 56) * scale + at
    left, top = 16 * scale + at[0], 8 * scale + at[1]
    box = [-left, -top, left + 80 * scale, top + 100 * scale]
    return np.float32([*box, *points.ravel()])


def paint(
    picture: np.ndarray, x: int, y: int, shape: np.ndarray, number: int, code: int, zoom: float = 1
) -> None:
    """A face with a shape and an embedding, by their numbers.

    Args:
        picture: uint8 [H, W, 3]; without red elsewhere.
        x, y: in pixels of the detector; multiples of 32.
        zoom: pixels of the picture for a pixel of the detector.
    """
    points = shape[4:].reshape(5, 2).astype(np.float64) + [x, y]
    source = np.reshape(TEMPLATE, (5, 2)) - 56
    a, b = (source - source.mean(0)) @ [1, 1j], (points - points.mean(0)) @ [1, 1j]
    turn = np.vdot(a, b) / np.vdot(a, a)
    low, high = _PATCH[0] - 57, _PATCH[1] - 55  # a pixel more on each side
    corners = np.array([[low, low], [high, low], [high, high], [low, high]]) - source.mean(0)
    placed = points.mean(0) @ [1, 1j] + (corners @ [1, 1j]) * turn
    outline = [(p.real * zoom, p.imag * zoom) for p in placed]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.polygon(outline, fill=(30, _middle(code // LEVELS), _middle(code % LEVELS)))
    end = ((x + CELL) * zoom - 1, (y + CELL) * zoom - 1)
    draw.rectangle((x * zoom, y * zoom, *end), fill=(250, _middle(number), 0))
    picture[:] = np.asarray(image)


def _middle(code: int) -> int:
    return code * _STEP + _STEP // 2


def projection(width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((48, width)).astype(np.float32)


def write_recogniser(path: Path, width: int = 512) -> Path:
    """Means of a 4 x 4 grid of the crop, times a random matrix."""
    graph = Graph()
    cells = graph.add("AveragePool", "input", kernel_shape=[28, 28], strides=[28, 28])
    matrix = graph.constant(projection(width))
    graph.add("MatMul", graph.add("Flatten", cells), matrix, output="embedding")
    return graph.save(path, ["batch", 3, 112, 112], {"embedding": ["batch", width]})


def write_coded_recogniser(path: Path, embeddings: np.ndarray) -> Path:
    """The embedding whose number the crop's middle codes in green and blue; see `paint`.

    Args:
        embeddings: [at most 256, 512].
    """
    table = np.zeros((LEVELS * LEVELS, embeddings.shape[1]), np.float32)
    table[: len(embeddings)] = embeddings
    graph = Graph()
    low, high = _PATCH
    middle = graph.add(
        "Slice",
        "input",
        graph.constant(np.int64([1, low, low])),
        graph.constant(np.int64([3, high, high])),
        graph.constant(np.int64([1, 2, 3])),
    )
    means = graph.add("ReduceMean", middle, axes=[2, 3], keepdims=0)
    digits = _code(graph, means, 127.5)
    number = graph.add("Mul", digits, graph.constant(np.int64([[LEVELS, 1]])))
    number = graph.add("ReduceSum", number, graph.constant(np.int64([1])), keepdims=0)
    graph.add("Gather", graph.constant(table), number, axis=0, output="embedding")
    return graph.save(path, ["batch", 3, 112, 112], {"embedding": ["batch", embeddings.shape[1]]})


def write_pack(
    folder: Path,
    shapes: Sequence[np.ndarray],
    embeddings: np.ndarray,
    names: tuple[str, str] = ("det_10g.onnx", "w600k_r50.onnx"),
    size: int | None = None,
    upright: bool = False,
) -> Path:
    """A model pack whose faces `paint` makes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shaped_detector(folder / names[0], shapes, size, upright)
    write_coded_recogniser(folder / names[1], embeddings)
    return folder
