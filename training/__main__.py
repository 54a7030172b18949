"""Door of `python -m multi_ipadapter.training`: hands ComfyUI's side to `command`."""

import sys

from ..runs.comfyui import prepare_comfyui
from .command import main


def train(*job):
    """As `headless.train_files`; ComfyUI is looked for once the settings are read."""
    prepare_comfyui()
    from ..nodes.training.headless import train_files

    return train_files(*job)


if __name__ == "__main__":
    sys.exit(main(train))
