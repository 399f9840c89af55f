"""Removing a folder tree so that it is whole or gone under its name, whatever interrupts the removal."""

import asyncio
import shutil
from pathlib import Path


async def remove_folder(folder: Path) -> None:
    """Remove `folder` if it is there. A cancelled caller waits for the end: what follows may reuse the name."""
    removal = asyncio.ensure_future(asyncio.to_thread(_remove, folder))
    try:
        await asyncio.shield(removal)
    except asyncio.CancelledError:
        await removal
        raise


def _remove(folder: Path) -> None:
    doomed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)
