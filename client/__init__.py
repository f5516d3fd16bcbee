"""What runs in a silo job, the training loop included."""

from conf.flower_version import require
from conf.telemetry import turn_off

turn_off()  # before any module of this package imports Flower, which reads it then
require()
