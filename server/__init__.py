"""What runs in the orchestrator job, and in a simulation of it."""

from conf.flower_version import require
from server.engines.quiet import quiet_environment

quiet_environment()  # before any module of this package imports Flower or Ray, which read it then
require()
