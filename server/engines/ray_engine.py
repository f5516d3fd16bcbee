"""Engine ray: Flower's own simulation, behind a token.

Ray itself is imported only when a run needs it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from conf.schema import Silo
from server.engines.private_folder import private_folder
from server.engines.ray_access import cluster_access, own_token

ServerMain = Callable[[Grid, Context], None]

SOCKET_BELOW: Final = len("/ray/session_2026-12-31_23-59-59_123456_4194304/sockets/plasma_store")
"""Characters that Ray adds to its folder for the longest of its sockets."""


@dataclass(frozen=True)
class RayRun:
    """What a run on Ray is made of.

    `workers` actors at once (None: one a core), which share `gpus` GPUs, in the private `folder` of this run, or on the
    cluster at `address`. `malloc` keeps activations mapped in the actors; `log_dir` is the run's
    own; `app` is the ClientApp; `states` holds the silos' states by name, and is kept up to date.
    """

    silos: list[Silo]
    workers: int | None
    gpus: int | None
    malloc: bool
    log_dir: Path
    app: str
    folder: Path | None
    address: str | None
    states: dict[str, RecordDict] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """The name by which the run is resumed."""
        return self.log_dir.parent.name


def run_on_ray(
    server_main: ServerMain,
    silos: list[Silo],
    *,
    workers: int | None,
    gpus: int | None = None,
    ray_address: str | None,
    malloc: bool,
    log_dir: Path,
    app: str = "client.app:app",
    insecure: bool = False,
    states: dict[str, RecordDict] | None = None,
) -> None:
    """Run `server_main(grid, context)` over Flower's simulation of these silos; one CPU and one
    thread a client, and its share of `gpus` GPUs (None: of all that Ray has).

    `workers` actors at once (None: one a core), on this machine or on the Ray cluster at
    `ray_address`, which has to ask for a token unless `insecure` is set; `states` holds the silos'
    states by name, and is kept up to date. What `server_main` raises
    is raised here. Raises SiloError MDW-320 when an actor died, MDW-312 to 314 and MDW-322, MDW-323
    where Ray can't be used, and Interrupted on Ctrl-C or SIGTERM; a second Ctrl-C no longer waits.
    """
    with _access(ray_address, insecure) as folder:
        # Ray reads at import whether it asks for a token, so it is imported here and not before.
        from server.engines.ray_simulation import simulate_on_ray

        kept = {} if states is None else states
        run = RayRun(silos, workers, gpus, malloc, log_dir, app, folder, ray_address, kept)
        simulate_on_ray(server_main, run)


@contextlib.contextmanager
def _access(address: str | None, insecure: bool) -> Iterator[Path | None]:
    """Open the way to Ray; yield the folder for a private one."""
    if address is not None:
        with cluster_access(address, insecure):
            yield None
        return
    with private_folder(SOCKET_BELOW) as parent, own_token(parent):
        # Ray opens its folder to everyone: only the one around it keeps others out.
        folder = parent / "ray"
        os.mkdir(folder, 0o700)
        yield folder
