"""What is wanted of pictures with faces, and what came of each of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .align import CROPS, MARGIN
from .analysis import Face
from .quality import Quality

WHO = ("majority", "largest", "index")
ORDERS = ("best first", "as they came")
THUMBNAIL = 192  # pixels
THUMBNAILS = 120  # pictures of which a small copy is kept, so that folders may be large


@dataclass(frozen=True)
class Settings:
    """What is wanted.

    Attributes:
        size: side of the faces in pixels.
        kind, margin: see `align.crop`.
        who: whose face of each picture: the person most pictures share, the largest, or the one
            at `index`, counted from the largest, 0.
        at_least: least size (`Face.size`) of a face in pixels.
        keep: how many faces at most, the best; 0: all.
        order: of the faces that are kept.
        drop_duplicates: near-duplicates of a better face are left out.
    """

    size: int = 512
    kind: str = "loose"
    margin: float = MARGIN
    who: str = "majority"
    index: int = 0
    at_least: float = 64
    keep: int = 0
    order: str = ORDERS[0]
    drop_duplicates: bool = True

    def __post_init__(self):
        for name, value, options in (
            ("crop", self.kind, CROPS),
            ("who", self.who, WHO),
            ("order", self.order, ORDERS),
        ):
            if value not in options:
                raise ValueError(f"Got {name} {value!r}; expected one of {', '.join(options)}.")
        for name, value, least in (
            ("size", self.size, 16),
            ("margin", self.margin, 0),
            ("index", self.index, 0),
            ("at_least", self.at_least, 0),
            ("keep", self.keep, 0),
        ):
            if not value >= least:
                raise ValueError(f"Got {name} {value}; expected at least {least}.")


@dataclass
class Candidate:
    """A face that may be kept."""

    face: Face
    number: int  # among the faces of its picture, 0 the largest
    quality: Quality
    signature: np.ndarray
    embedding: np.ndarray | None


@dataclass
class Verdict:
    """What was done with a picture.

    Attributes:
        place: of its face among those that are kept, from 0; None: left out.
        reason: why it was left out, in words; "" if it was not.
        face, quality: of the face that was chosen, or else of the largest; None without one.
        found: how many faces the picture has; `chosen` counts them from the largest, 0.
        thumbnail: uint8 RGB, None beyond the first `THUMBNAILS` pictures and where there is none.
        scale: pixels of the thumbnail for one of the picture.
    """

    name: str
    place: int | None = None
    reason: str = ""
    face: Face | None = None
    quality: Quality | None = None
    found: int = 0
    chosen: int = 0
    thumbnail: np.ndarray | None = None
    scale: float = 1.0
    candidates: list[Candidate] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        if self.place is None:
            return f"{self.name}: left out, {self.reason}{self.turned}"
        which = f"face {self.chosen + 1} of {self.found} by size, " if self.found > 1 else ""
        return f"{self.name}: kept as {self.place}, {which}{self.quality}{self.turned}"

    @property
    def turned(self) -> str:
        """Said of a picture whose faces were found on their side only."""
        quarters = self.face.quarters if self.face else 0
        how = ("", "on its side", "upside down", "on its side")[quarters]
        return f" ({how}: turned upright)" if how else ""


@dataclass
class Prepared:
    """Faces uint8 [K, S, S, 3], masks float32 [K, S, S] (`align.crop`), a verdict on each picture.

    `indices` are the pictures' numbers, from 0, in the order of the faces.
    """

    faces: np.ndarray
    masks: np.ndarray
    indices: list[int]
    verdicts: list[Verdict]
    notes: list[str]

    def __str__(self) -> str:
        count = len(self.verdicts)
        lines = [f"{len(self.indices)} of {count} pictures kept."]
        return "\n".join([*lines, *self.notes, *map(str, self.verdicts)])
