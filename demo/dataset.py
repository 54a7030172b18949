"""A folder of drawn people to try training on, where no photographs are at hand.

`python -m multi_ipadapter.demo.dataset FOLDER` writes one folder for each person, with a caption
beside each picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..models.files import atomically
from . import world

PEOPLE, PICTURES = 40, 6


def write_dataset(folder: Path, people: int = PEOPLE, pictures: int = PICTURES) -> None:
    """Write <folder>/person_00/0.png with its caption 0.txt, and so on.

    Args:
        people, pictures: how many, and how many of each.

    Raises:
        FileExistsError: the folder has something in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; expected a new folder, or an empty one.")
    digits = len(str(people - 1))
    for number in range(people):
        person = folder / f"person_{number:0{digits}}"
        person.mkdir()
        who = world.identity(number)
        for k in range(pictures):
            scene = world.view(number, k)
            with atomically(person / f"{k}.png") as path:
                world.draw(who, scene).save(path, "PNG")
            (person / f"{k}.txt").write_text(world.caption(scene), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m multi_ipadapter.demo.dataset", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="such as ComfyUI/input/people")
    parser.add_argument("--people", type=int, default=PEOPLE, metavar="N", help="how many")
    parser.add_argument("--pictures", type=int, default=PICTURES, metavar="N", help="of each")
    options = parser.parse_args(arguments)
    if not 1 <= options.people <= len(world.TRAINING) or options.pictures < 2:
        parser.error(
            f"got {options.people} people with {options.pictures} pictures each; expected 1 to "
            f"{len(world.TRAINING)} with at least 2"
        )
    try:
        write_dataset(options.folder, options.people, options.pictures)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    count = options.people * options.pictures
    print(f"{count} pictures of {options.people} people: {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
