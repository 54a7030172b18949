"""A training job: data, picture size and cache beside the run's settings, and how both are read."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..pictures.fit import FITS
from .config import TrainingConfig, check_fields


@dataclass(frozen=True)
class DataConfig:
    """Which pictures are used, and how they are prepared.

    Attributes:
        dataset: a folder of identities, CelebA's folder, a manifest, or parquet files.
        size: side of the training pictures in pixels, a multiple of 8.
        held_out: share of the identities that only validation sees, two at least; 0: none.
        previews: held-out identities of which pictures are drawn at every validation.
        cache: encode every picture once, before training, into the run's or a given folder.
        cache_folder: where; empty: in the run's folder, or where the node's runs share theirs.
        int8: store hidden states with 8 bits a value, half the size of a cache.
    """

    dataset: str = ""
    kind: str = "auto"
    split: str = "train"
    size: int = 512
    fit: str = "crop"
    held_out: float = 0.05
    cache: bool = True
    cache_folder: str = ""
    int8: bool = False
    previews: int = 3

    def __post_init__(self):
        check_fields(self)
        if self.size < 64 or self.size % 8:
            raise ValueError(f"Got size = {self.size}; expected a multiple of 8, at least 64.")
        if self.fit not in FITS:
            raise ValueError(f"Got fit = {self.fit!r}; expected one of {', '.join(FITS)}.")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"Got held_out = {self.held_out}; expected at least 0 and below 1.")
        if self.previews < 0:
            raise ValueError(f"Got previews = {self.previews}; expected 0 or more.")


@dataclass(frozen=True)
class Job:
    """Data and run settings, and for the command line the files to load and to write."""

    data: DataConfig
    run: TrainingConfig
    files: dict[str, str] = field(default_factory=dict)

    @property
    def held_out(self) -> float:
        """Share of the identities that only validation sees; 0 without validation."""
        return self.data.held_out if self.run.validate_every else 0.0


# What the command line needs besides; a node gets models by its wires.
FILES = ("checkpoint", "clip_vision", "vae", "face_pack", "output")
DEMO = "demo"  # as checkpoint: the demo's tiny models, to try training without downloads


def read_job(values: dict[str, Any], unnamed: Sequence[str] = ()) -> Job:
    """Sort flat settings into the parts of a job.

    Args:
        unnamed: settings not to propose to whoever misspells one.

    Raises:
        ValueError: an unknown name or a value of the wrong kind.
    """
    data_names = {f.name for f in dataclasses.fields(DataConfig)}
    run_names = {f.name for f in dataclasses.fields(TrainingConfig)}
    known = data_names | run_names | set(FILES)
    if unknown := sorted(set(values) - known):
        names = sorted(known - set(unnamed))
        alike = [n for name in unknown for n in difflib.get_close_matches(name, names, 1)]
        advice = f"did you mean {', '.join(alike)}?" if alike else f"known are {', '.join(names)}."
        raise ValueError(f"Got the unknown settings {', '.join(unknown)}; {advice}")
    return Job(
        DataConfig(**{k: v for k, v in values.items() if k in data_names}),
        TrainingConfig(**{k: v for k, v in values.items() if k in run_names}),
        {k: str(v) for k, v in values.items() if k in FILES},
    )


_NUMBER = re.compile(r"[+-]?\d+(_\d+)*(\.\d+)?([eE][+-]?\d+)?")


def parse_settings(text: str) -> dict[str, Any]:
    """Flat TOML: lines of `name = value`, with # comments; a value is a number, true or false, or a
    text, in quotes unless it is one word.

    Raises:
        ValueError: a line of another form.
    """
    values: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        try:
            if not equals or not name.isidentifier():
                raise ValueError
            read = _value(value)
        except ValueError:
            raise ValueError(
                f"Line {number} of the settings reads {line!r}; expected 'name = value', such as "
                "'steps = 2000' or 'precision = bf16'."
            ) from None
        if name in values:
            raise ValueError(f"The setting {name} is given twice; expected each name once.")
        values[name] = read
    return values


def _value(text: str) -> Any:
    value: Any
    if number := _NUMBER.match(text):
        value, end = _number(number[0].replace("_", "")), number.end()
    elif quoted := re.match(r"'([^']*)'", text):
        value, end = quoted[1], quoted.end()
    elif (word := re.match(r"[A-Za-z_][\w.-]*", text)) and word[0] not in ("true", "false"):
        value, end = word[0], word.end()
    else:
        value, end = json.JSONDecoder().raw_decode(text)
    rest = text[end:].strip()
    if (rest and not rest.startswith("#")) or not isinstance(value, str | bool | int | float):
        raise ValueError
    return value


def _number(text: str) -> int | float:
    return float(text) if set(text) & set(".eE") else int(text)
