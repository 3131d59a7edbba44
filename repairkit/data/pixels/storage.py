"""Room for the pixels of a data set: in memory, or in a temporary file where they are many."""

from __future__ import annotations

import os
import tempfile

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError

IN_MEMORY_BYTES = 1 << 30


def allocate_pixels(
    shape: tuple[int, ...], *, in_memory_bytes: int = IN_MEMORY_BYTES
) -> NDArray[np.uint8]:
    """Zeroed uint8 of `shape`, in memory up to `in_memory_bytes` and else in a temporary file.

    The file has no name, or is deleted on close, so that not even a killed process leaves it.

    Raises:
        DataError: neither memory nor the folder for temporary files has the room.
    """
    n_bytes = int(np.prod([int(size) for size in shape], dtype=object))
    try:
        if n_bytes <= in_memory_bytes:
            return np.zeros(shape, dtype=np.uint8)
        with tempfile.TemporaryFile(prefix="repairkit-") as file:
            if hasattr(os, "posix_fallocate"):
                # A sparse file would kill the process by SIGBUS once the disk is full.
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    except (OSError, MemoryError, OverflowError) as error:
        raise DataError(
            f"the images need {n_bytes / 2**30:.1f} GiB and {tempfile.gettempdir()} cannot hold "
            f"them ({type(error).__name__}); free space there, point TMPDIR elsewhere, or give "
            "fewer images"
        ) from error
