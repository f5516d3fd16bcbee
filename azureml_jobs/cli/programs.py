"""Verbs that are a program of their own: simulation and rehearsal, and the commands of the two
kinds of job.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azureml_jobs.cli.arguments import HELP_FLAGS, Arguments
from azureml_jobs.cli.first_line import say, simulated
from azureml_jobs.cli.help import keys_help

if TYPE_CHECKING:
    from client.node.job import NodeSettings
    from conf.schema import Conf

PATHS: Final = ("--silo-file", "--ca", "--admission", "--key", "--state")
IDLE_TIMEOUT: Final = "--idle-timeout"


def simulate(arguments: Arguments) -> int:
    """Train one model over several silos on this machine, as a Hydra application."""
    from azureml_jobs.cli.hydra_app import application

    def check(conf: Conf) -> None:
        from server.run.start_checks import check_start

        check_start(conf)

    folders: list[Path] = []

    def train(conf: Conf, overrides: list[str], command: str) -> int:
        # Torch takes seconds to import: what is wrong is told before, and so is what comes.
        check(conf)
        say(simulated(conf))
        from client.drafted_contract import filled_in
        from server.simulation import copy_for_workers, simulate_conf

        conf = filled_in(conf)
        copy_for_workers(conf)
        plain = arguments.has("--no-progress")
        finished = simulate_conf(conf, command=command, shown="plain" if plain else "live")
        folders.append(finished.folder)
        return 0

    status = application(["simulate"], list(arguments.rest), train, check)
    if len(folders) > 1:
        from azureml_jobs.cli.compared_runs import end_of_sweep

        end_of_sweep(folders)
    if status == 0 and any(flag in arguments.rest for flag in HELP_FLAGS):
        print(keys_help())
    return status


def serve(arguments: Arguments) -> int:
    """Be the orchestrator of a federation."""
    from azureml_jobs.cli.hydra_app import application

    def work(conf: Conf, overrides: list[str], command: str) -> int:
        # Before gRPC is imported: it would write a line for each stranger's broken handshake.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        from conf.job_logs import log_to_stderr
        from server.serve import serve

        log_to_stderr()
        return serve(conf)

    return application(["serve"], list(arguments.rest), work)


def join(arguments: Arguments) -> int:
    """Be a silo's node."""
    from client.node.job import run

    return run(node_settings(arguments))


def relay(arguments: Arguments) -> int:
    """Be a relay."""
    from azureml_jobs.relay.program import run

    return run(Path(arguments.get("file")))


def node_settings(arguments: Arguments) -> NodeSettings:
    """Return what a silo's node is started with."""
    from client.node.job import NodeSettings

    given: dict[str, Any] = {"foreign_runs": arguments.has("--foreign-runs")}
    for flag, value in arguments.values.items():
        name = flag.removeprefix("--").replace("-", "_")
        given[name] = Path(value) if flag in PATHS else value
    if arguments.has(IDLE_TIMEOUT):
        given["idle_timeout"] = arguments.number(IDLE_TIMEOUT, 0.0)
    return NodeSettings(**given)


def rehearse(arguments: Arguments) -> int:
    """Live through a federation's whole life on Azure ML, without Azure."""
    from azureml_jobs.rehearsal import require

    require()
    from azureml_jobs.rehearsal.rehearse import rehearse

    return rehearse(list(arguments.rest), keep=arguments.has("--keep"))
