"""How much memory an NVIDIA card has, asked of its driver."""

from __future__ import annotations

import ctypes
from typing import Any

_DRIVER = "libcuda.so.1"
_UNKNOWN = 2**30


def quarter_of_card_memory(driver: Any | None = None) -> int:
    """Bytes; 1 GiB where the driver does not tell.

    Of all its memory and not of what is free: how many rows make a stack follows from it, and with
    that the last bits, which should not hang on what else uses the card.

    Args:
        driver: the CUDA driver's library; the system's if None.
    """
    try:
        library = ctypes.CDLL(_DRIVER) if driver is None else driver
    except OSError:
        return _UNKNOWN
    device, n_bytes = ctypes.c_int(), ctypes.c_size_t()
    failed = (
        library.cuInit(0)
        or library.cuDeviceGet(ctypes.byref(device), 0)
        or library.cuDeviceTotalMem_v2(ctypes.byref(n_bytes), device)
    )
    return _UNKNOWN if failed else n_bytes.value // 4
