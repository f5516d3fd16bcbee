"""What runs in the orchestrator job, and in a simulation of it."""

from conf.flower import require
from server.quiet import quiet_environment

quiet_environment()  # before any module of this package imports Flower or Ray, which read it then
require()
