"""The CUDA driver, looked for without loading anything but it: is there one, what GPU does it drive."""

from __future__ import annotations

import ctypes
import functools

MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


@functools.cache
def capability() -> str | None:
    """The architecture, as "sm_90", of the first GPU; None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    numbers = []
    for attribute in (MAJOR, MINOR):
        found = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(found), attribute, device) != 0:
            return None
        numbers.append(found.value)
    return f"sm_{numbers[0]}{numbers[1]}"
