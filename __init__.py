"""Multi-Image IP-Adapter, a ComfyUI custom-node pack: this module tells ComfyUI where to look."""

WEB_DIRECTORY = "./js"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """Give ComfyUI the extension object that lists the nodes."""
    # Imported here so that models/ stays importable without ComfyUI, and ComfyUI starts quickly.
    from .nodes import MultiIPAdapterExtension

    return MultiIPAdapterExtension()
