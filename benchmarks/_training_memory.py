"""A few training steps in a process of their own: prints as JSON the most memory they took.

On a GPU all that PyTorch held at once, models included; on a CPU what the process grew by.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ._comfyui import prepare

STEPS = 3


def main(way: str, root: str, batch_size: str, kind: str) -> None:
    """Train, and print the peak in bytes."""
    prepare(cpu=kind == "cpu")
    import psutil
    import torch
    from comfy.model_management import get_torch_device

    from ..training.sampling import DropOneSampler
    from ._load_memory import peak_memory
    from ._training_plain import PlainLoop
    from ._training_steps import ONLINE, PLAIN, backbone_of, make_trainer
    from ._training_world import FixedReferences, World, scale_of

    device = get_torch_device()
    start = psutil.Process().memory_info().rss
    with torch.inference_mode():
        world = World(Path(root), scale_of(device))
        config = world.scale.settings(batch_size=int(batch_size), steps=STEPS)
        if way == PLAIN:
            with torch.inference_mode(False):
                sampler = FixedReferences(DropOneSampler(world.index, config), world.index)
                loop = PlainLoop(world, config, sampler)
                for _ in range(STEPS):
                    loop.step()
                loop.close()
        else:
            source = world.online() if way == ONLINE else world.cached()
            with backbone_of(world, config) as backbone:
                make_trainer(world, backbone, source, config, True).train()
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory() - start
    print(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
