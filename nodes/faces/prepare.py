"""Node: pictures of any kind -> the best faces of one person."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui

from ...faces.align import CROPS, MARGIN
from ...faces.analysis import FaceAnalyser
from ...faces.prepare import Load, prepare
from ...faces.results import ORDERS, WHO, Prepared, Settings
from ...files.names import printable
from ...pictures.decode import BadPictureError
from ...pictures.pixels import to_floats
from ...pictures.sources import FolderSource, Source, TensorSource
from ..host.folders import changed_below, find_pictures
from ..host.images import to_image
from ..host.progress import Progress, cancelled, show_text
from ..host.wires import CATEGORY, JOIN_PICTURES, FaceAnalysisSocket, refuse_unknown
from .sheet import face_sheet

MAX_SLOTS = 64


class PrepareFaces(io.ComfyNode):
    """Cut out the best faces of one person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        images = io.Autogrow.TemplatePrefix(
            io.Image.Input("image", tooltip="A picture, or a batch of pictures."),
            prefix="image_",
            min=0,
            max=MAX_SLOTS,
        )
        return io.Schema(
            node_id="MultiIPAdapter_PrepareFaces",
            display_name="Prepare Faces",
            category=CATEGORY,
            description="Picks the best faces of one person from a handful or a folder of "
            "pictures: drops pictures without the face and near-duplicates, cuts the faces out, "
            "best first, and says for each picture what was done.",
            search_aliases=[
                "face crop",
                "prep image for insightface",
                "face align",
                "faceid",
                "portrait",
            ],
            inputs=[
                FaceAnalysisSocket.Input(
                    "face_analysis",
                    tooltip="From 'Load Face Analysis'. who = majority needs a recogniser.",
                ),
                io.Autogrow.Input(
                    "images",
                    template=images,
                    tooltip="Pictures of the person; others may be in them too. Connect one, and "
                    "the next input appears; each may hold a batch.",
                ),
                io.String.Input(
                    "folder",
                    default="",
                    optional=True,
                    tooltip="Folder of pictures below ComfyUI's input or output folder, read one "
                    "picture at a time. Its pictures are numbered after the images.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    optional=True,
                    tooltip="Side of the faces in pixels.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default=CROPS[0],
                    optional=True,
                    tooltip="loose: an upright square with hair and chin. aligned: tight, eyes "
                    "level, as face recognisers see it.",
                ),
                io.Float.Input(
                    "margin",
                    default=MARGIN,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    optional=True,
                    tooltip="Margin of a loose crop on each side of the face, as a share of the "
                    "face.",
                ),
                io.Combo.Input(
                    "who",
                    options=list(WHO),
                    default=WHO[0],
                    optional=True,
                    tooltip="majority: the person whom most pictures show. largest: the largest "
                    "face of each picture. index: the face with the number in index.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=99,
                    optional=True,
                    tooltip="For who = index: which face of each picture; 0 is the largest.",
                ),
                io.Int.Input(
                    "at_least",
                    default=64,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="Smallest size of a face, in pixels of the picture; smaller ones are "
                    "left out.",
                ),
                io.Int.Input(
                    "keep",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="Largest number of faces; the best are kept. 0: all.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    optional=True,
                    tooltip="Order of the faces that are kept.",
                ),
                io.Boolean.Input(
                    "drop_duplicates",
                    default=True,
                    optional=True,
                    tooltip="Leave out faces that repeat a better one.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="faces", tooltip="One batch, all of the same size, best first."
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="1 on the face; 0 around it and on repeated border.",
                ),
                io.Int.Output(
                    display_name="indices",
                    is_output_list=True,
                    tooltip="Number of each face's picture, from 0.",
                ),
                io.Image.Output(
                    display_name="sheet", tooltip="All pictures, and what was done with each."
                ),
                io.String.Output(
                    display_name="report", tooltip="What was done with each picture, and why."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = "", **_) -> str:
        """ComfyUI looks again when pictures of the folder were added, removed or changed."""
        try:
            return changed_below(find_pictures(folder, "folder")) if folder else ""
        except ValueError:
            return "missing"

    @classmethod
    def execute(
        cls,
        face_analysis: FaceAnalyser,
        images: io.Autogrow.Type,
        folder: str = "",
        size: int = 512,
        crop: str = CROPS[0],
        margin: float = MARGIN,
        who: str = WHO[0],
        index: int = 0,
        at_least: int = 64,
        keep: int = 0,
        order: str = ORDERS[0],
        drop_duplicates: bool = True,
        **unknown,
    ) -> io.NodeOutput:
        refuse_unknown(unknown, "images.image_0", MAX_SLOTS, JOIN_PICTURES)
        settings = Settings(size, crop, margin, who, index, at_least, keep, order, drop_duplicates)
        pictures = _pictures(images, folder)
        prepared = prepare(pictures, face_analysis, settings, Progress(), cancelled)
        sheet = to_image(face_sheet(prepared))
        show_text(cls, str(prepared).split("\n")[0])
        return _outputs(prepared, sheet, ui.PreviewImage(sheet, cls=cls))


def _pictures(images: dict, folder: str) -> list[tuple[str, Load]]:
    """The images, then those of the folder, then its files that are not opened.

    Raises:
        ValueError: there are none, or the folder is not there.
    """
    pictures = [picture for slot, batch in images.items() for picture in _connected(slot, batch)]
    if folder.strip():
        source = FolderSource(find_pictures(folder.strip(), "folder"), may_be_empty=True)
        pictures += _of(source)
        pictures += [(printable(s.path), partial(_refuse, s.reason)) for s in source.skipped]
    if not pictures:
        where = f" in the folder {folder.strip()!r}" if folder.strip() else ""
        raise ValueError(f"Got no pictures{where}. Connect images, or give the name of a folder.")
    return pictures


def _connected(slot: str, batch: torch.Tensor) -> list[tuple[str, Load]]:
    """Pictures of an input; one that is no IMAGE counts as a picture that cannot be read."""
    several = len(batch) > 1
    names = [f"{slot}, picture {i + 1}" if several else slot for i in range(len(batch))]
    try:
        return _of(TensorSource(batch, slot, names))
    except ValueError as error:
        return [(slot, partial(_refuse, str(error)))]


def _of(source: Source) -> list[tuple[str, Load]]:
    return [(source.name(n), partial(_pixels, source, n)) for n in range(len(source))]


def _pixels(source: Source, number: int) -> np.ndarray:
    """RGB, uint8 [H, W, 3]."""
    return source.load(number).pixels.permute(1, 2, 0).contiguous().numpy()


def _refuse(reason: str) -> np.ndarray:
    """What is not opened, such as a HEIC picture, counts as a picture that cannot be read."""
    raise BadPictureError(reason)


def _outputs(prepared: Prepared, sheet: torch.Tensor, preview: ui.PreviewImage) -> io.NodeOutput:
    faces = to_floats(prepared.faces)
    masks = torch.from_numpy(prepared.masks)
    return io.NodeOutput(faces, masks, prepared.indices, sheet, str(prepared), ui=preview)
