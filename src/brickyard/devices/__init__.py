"""Devices: timing models, and profiles that predict the latency of any subnet."""

from brickyard.devices.measure import Measurement, measure_file, measure_session, this_device_name
from brickyard.devices.profile import DeviceProfile, profile
from brickyard.devices.runtimes import RUNTIMES, Runtime, Session, runtime_named

__all__ = [
    "RUNTIMES",
    "DeviceProfile",
    "Measurement",
    "Runtime",
    "Session",
    "measure_file",
    "measure_session",
    "profile",
    "runtime_named",
    "this_device_name",
]
