"""Pictures of any kind -> the best faces of one person, and for each picture what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image

from .align import crop, loose_transform, warp
from .analysis import Face, FaceAnalyser
from .choose import majority, near_duplicates, signature
from .find import find_faces, is_usable
from .quality import measure
from .results import ORDERS, THUMBNAIL, THUMBNAILS, Candidate, Prepared, Settings, Verdict

_CROWD = 10  # largest faces of a picture that are looked at
_SIGNATURE_SIDE = 64
_NO_MEMORY = "not enough memory to read it; make the picture smaller"

Load = Callable[[], np.ndarray]
Progress = Callable[[int, int, str], None]


class NoFacesError(ValueError):
    """No picture gave a face; lists the reasons."""


class Cancelled(RuntimeError):
    """The caller has stopped the work."""


def prepare(
    pictures: Sequence[tuple[str, Load]],
    analyser: FaceAnalyser,
    settings: Settings,
    on_progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Prepared:
    """Find the faces of all pictures, then choose, then cut out; one picture at a time in memory.

    The chosen pictures are therefore read twice.

    Args:
        pictures: a name for messages, and what decodes the picture to RGB, uint8 [H, W, 3]; it
            may raise, which leaves this picture out.
        on_progress: called with pictures done, of how many, and what is going on.
        cancelled: True stops the work; or it raises.

    Raises:
        NoFacesError: nothing is left; lists the reasons.
        Cancelled: stopped.
    """
    step = _Step(on_progress, cancelled)
    verdicts = [Verdict(name) for name, _ in pictures]
    for number, (verdict, (_, load)) in enumerate(zip(verdicts, pictures, strict=True)):
        step(number, len(pictures), "finding faces")
        _look(verdict, load, number, analyser, settings)
    notes: list[str] = []
    chosen = _chosen(verdicts, analyser, settings, notes)
    kept = _kept(verdicts, chosen, settings)
    cut: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for done, number in enumerate(kept):
        step(done, len(kept), "cutting out")
        squares = _cut(verdicts[number], pictures[number][1], settings)
        if squares is not None:
            verdicts[number].place = len(cut)
            cut[number] = squares
    step(len(kept), len(kept), "done")
    for verdict in verdicts:
        verdict.candidates = []
    if not cut:
        raise NoFacesError(_nothing(verdicts))
    if len(cut) < len(kept):
        notes.append(
            f"{len(kept) - len(cut)} of the {len(kept)} chosen could not be read a second time "
            "and are missing."
        )
    faces, masks = (np.stack(each) for each in zip(*cut.values(), strict=True))
    return Prepared(faces, masks, list(cut), verdicts, notes)


class _Step:
    """Progress and cancel between pictures."""

    def __init__(self, on_progress: Progress | None, cancelled: Callable[[], bool] | None):
        self._on_progress, self._cancelled = on_progress, cancelled

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._cancelled and self._cancelled():
            raise Cancelled("Stopped while preparing faces.")
        if self._on_progress:
            self._on_progress(done, total, what)


def _read(verdict: Verdict, load: Load) -> np.ndarray | None:
    """The picture; None if it cannot be read, which is said of it, and the others go on."""
    try:
        return load()
    except MemoryError:
        verdict.reason = _NO_MEMORY
    except Exception as error:
        text = str(error).removeprefix(f"{verdict.name}: ")
        verdict.reason = f"cannot be read: {_line(text) or type(error).__name__}"
    return None


def _line(error: object) -> str:
    """What an error says, on one line: OpenCV and onnxruntime write several."""
    return " ".join(str(error).split())


@contextmanager
def _guarded(verdict: Verdict) -> Iterator[None]:
    """Whatever else goes wrong with a picture."""
    try:
        yield
    except MemoryError:
        verdict.reason = _NO_MEMORY
    except Exception as error:
        verdict.reason = f"the face analysis failed: {_line(error) or type(error).__name__}"


def _look(
    verdict: Verdict, load: Load, number: int, analyser: FaceAnalyser, settings: Settings
) -> None:
    """Find the faces of one picture."""
    picture = _read(verdict, load)
    if picture is not None:
        with _guarded(verdict):
            _find(verdict, picture, number, analyser, settings)


def _find(
    verdict: Verdict, picture: np.ndarray, number: int, analyser: FaceAnalyser, settings: Settings
) -> None:
    if number < THUMBNAILS:
        image = Image.fromarray(picture)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        verdict.thumbnail, verdict.scale = np.array(image), image.width / picture.shape[1]
    faces = find_faces(analyser, picture)
    if not faces:
        verdict.reason = "no face found"
        return
    verdict.face, verdict.found = faces[0], len(faces)
    large = [face for face in faces if face.size >= settings.at_least]
    if not large:
        verdict.reason = f"too small: {faces[0].size:.0f} pixels, expected {settings.at_least:g}"
        return
    if settings.who == "index":
        if settings.index >= len(large):
            count = f"{len(large)} face{'s' * (len(large) > 1)}"
            verdict.reason = f"has {count} large enough, so none at index {settings.index}"
            return
        looked_at = range(settings.index, settings.index + 1)
    else:
        looked_at = range(min(len(large), _CROWD))
    alone = settings.who == "largest" or not analyser.recogniser
    usable: list[Candidate] = []
    why = ""
    for number in looked_at:
        try:
            usable.append(_candidate(picture, large[number], number, analyser))
        except MemoryError:
            raise
        except Exception as error:  # one unusable face does not cost the others of its picture
            why = f"no usable face: {_line(error) or type(error).__name__}"
        if alone and usable:
            break
    if not usable:
        verdict.reason = why
        return
    verdict.candidates = usable
    verdict.face, verdict.quality = usable[0].face, usable[0].quality


def _candidate(picture: np.ndarray, face: Face, number: int, analyser: FaceAnalyser) -> Candidate:
    embedding = analyser.embed(picture, face) if analyser.recogniser else None
    if embedding is not None and not is_usable(embedding):
        raise ValueError("the recogniser gives no usable numbers for its face.")
    small = warp(picture, loose_transform(face, _SIGNATURE_SIDE, 0.0), _SIGNATURE_SIDE)
    return Candidate(face, number, measure(picture, face), signature(small), embedding)


def _chosen(
    verdicts: list[Verdict], analyser: FaceAnalyser, settings: Settings, notes: list[str]
) -> dict[int, Candidate]:
    """The candidate by number of the picture."""
    with_faces = {number: v for number, v in enumerate(verdicts) if v.candidates}
    notes.append(f"Faces found by {analyser.name}.")
    if settings.who != "majority" or not analyser.recogniser:
        if settings.who == "majority":
            notes.append(
                f"{analyser.name} cannot tell people apart, so the largest face of each picture "
                "counts. Load a face analysis with a recogniser to keep one person's only."
            )
        return {number: v.candidates[0] for number, v in with_faces.items()}
    flat = [(number, c) for number, v in with_faces.items() for c in v.candidates]
    shared, tied, unsure = majority(
        np.array([c.embedding for _, c in flat]),
        [number for number, _ in flat],
        [c.face.size for _, c in flat],
        _copies(flat),
    )
    for number in with_faces.keys() - shared.keys():
        verdicts[number].reason = "another person"
    notes.append(f"The person is in {len(shared)} of {len(with_faces)} pictures with a face.")
    if len(shared) == 1 < len(with_faces):
        notes.append("No two pictures share a person, so the largest face counts.")
    elif tied:
        notes.append(
            "As many pictures show another person; the one whose faces are larger counts. Leave "
            "out pictures of the other, or choose by who = index."
        )
    elif unsure:
        notes.append(
            "The faces are less alike than one person's mostly are. See on the sheet that nobody "
            "else is among them; more pictures of the person make it sure."
        )
    return {number: flat[face][1] for number, face in shared.items()}


def _copies(flat: list[tuple[int, Candidate]]) -> list[int]:
    """Places of faces that repeat one of another picture."""
    repeats = near_duplicates([c.signature for _, c in flat], [c.embedding for _, c in flat])
    return [place for place, first in repeats.items() if flat[place][0] != flat[first][0]]


def _kept(verdicts: list[Verdict], chosen: dict[int, Candidate], settings: Settings) -> list[int]:
    """Numbers of the pictures whose faces are kept, in the order wanted."""
    for number, candidate in chosen.items():
        verdicts[number].face, verdicts[number].quality = candidate.face, candidate.quality
        verdicts[number].chosen = candidate.number
    ranked = sorted(chosen, key=lambda number: (-chosen[number].quality.total, number))
    if settings.drop_duplicates:
        repeats = near_duplicates(
            [chosen[number].signature for number in ranked],
            [chosen[number].embedding for number in ranked],
        )
        for place, better in repeats.items():
            name = verdicts[ranked[better]].name
            verdicts[ranked[place]].reason = f"near-duplicate of {name}"
        ranked = [number for place, number in enumerate(ranked) if place not in repeats]
    if settings.keep:
        for number in ranked[settings.keep :]:
            quality = chosen[number].quality.total
            verdicts[
                number
            ].reason = f"{settings.keep} better ones are kept (quality {quality:.2f})"
        ranked = ranked[: settings.keep]
    return ranked if settings.order == ORDERS[0] else sorted(ranked)


def _cut(verdict: Verdict, load: Load, settings: Settings) -> tuple[np.ndarray, np.ndarray] | None:
    """The chosen face and its mask; None if the picture cannot be read again."""
    picture = _read(verdict, load)
    if picture is not None and verdict.face is not None:
        with _guarded(verdict):
            return crop(picture, verdict.face, settings.size, settings.kind, settings.margin)
    return None


def _nothing(verdicts: list[Verdict]) -> str:
    lines = [f"{v.name}: {v.reason}" for v in verdicts]
    head = f"None of the {len(verdicts)} pictures gives a face that can be kept:"
    last = "Give pictures that show the whole face, larger and from the front."
    return "\n".join([head, *lines, last])
