"""What runs in the fresh process of `brickyard.devices.memory`: needs numpy and onnxruntime alone."""

from __future__ import annotations

import ctypes
import json
import os
import sys

_FIXED_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE of Linux
_MARK = "BRICKYARD_FIXED_ADDRESSES"
_RUNS = 10


def main() -> None:
    """Measure the model of the command line and print its peak as JSON."""
    model, tiny, threads = sys.argv[1:4]
    _fix_addresses()
    run(tiny, threads=1, runs=3)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:
        stream.write("5")  # the peak starts anew from what is resident now
    before = resident_bytes("VmRSS")
    run(model, threads=int(threads), runs=_RUNS)
    sys.stdout.write(json.dumps({"peak_bytes": resident_bytes("VmHWM") - before}) + "\n")


def _fix_addresses() -> None:
    """Start this program again with fixed addresses, once; without them where that is forbidden."""
    if _MARK in os.environ:
        return
    ctypes.CDLL(None).personality(_FIXED_ADDRESSES)
    os.environ[_MARK] = "1"
    os.execv(sys.executable, [sys.executable, "-P", *sys.argv])


def run(path: str, *, threads: int, runs: int) -> None:
    """Open a model and run it on zeros."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {entry.name: np.zeros(entry.shape, np.float32) for entry in session.get_inputs()}
    for _ in range(runs):
        session.run(None, inputs)


def resident_bytes(name: str) -> int:
    """Return an entry of this process's status: `VmRSS`, resident now, or `VmHWM`, its peak."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    raise SystemExit(f"/proc/self/status of this system has no {name}")


if __name__ == "__main__":
    main()
