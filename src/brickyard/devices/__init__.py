"""Devices: timing models, and profiles that predict the latency of any subnet."""

from brickyard.devices.measure import Measurement, measure_file, measure_session, this_device_name
from brickyard.devices.profile import DeviceProfile, profile

__all__ = ["DeviceProfile", "Measurement", "measure_file", "measure_session", "profile", "this_device_name"]
