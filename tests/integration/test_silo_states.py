"""A resumed SCAFFOLD run has the unbroken run's bits, also with silos that were not asked in between.

On the pool, on Ray, and launched as processes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from server.run.finished import FinishedRun
from server.run.history import read_history
from server.simulation import simulate
from tests.integration import test_local_federation as local

folder = local.folder

RUN = ["task=digits", "data.examples=300", "federation.size=4", "strategy=scaffold"]
RUN += ["run.cohort=2", "run.seed=3", "run.name=a"]
ROUNDS = 6
ENGINES = {
    "here": ["simulation=pool", "simulation.workers=0"],
    "workers": ["simulation=pool", "simulation.workers=2"],
    "ray": ["simulation=ray", "simulation.workers=2"],
}


def digest(run: FinishedRun) -> str:
    return str(run.result.model["digest"])


def whole(folder: Path) -> FinishedRun:
    output = f"run.output={folder / 'whole'}"
    return simulate([*RUN, *ENGINES["here"], f"run.rounds={ROUNDS}", "tracking=off", output])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return digest(whole(tmp_path_factory.mktemp("whole")))


@pytest.mark.usefixtures("one_ray_at_a_time")
@pytest.mark.parametrize(
    "engine",
    [pytest.param(one, marks=pytest.mark.slow) if one == "ray" else one for one in ENGINES],
)
def test_a_resumed_simulation_has_the_unbroken_run_s_bits(
    tmp_path: Path, undisturbed: str, engine: str
) -> None:
    """Resumed twice."""
    output = f"run.output={tmp_path}"
    simulate([*RUN, *ENGINES[engine], "run.rounds=2", "tracking=off", output])
    more = [output, "run.resume=a"]
    simulate([*more, *ENGINES[engine], "run.rounds=3"])
    done = simulate([*more, *ENGINES[engine], f"run.rounds={ROUNDS}"])
    assert digest(done) == undisturbed
    asked = {silo for record in read_history(tmp_path / "a") for silo in record.cohort}
    assert len(asked) > 2, "some silos come back after rounds in which they were not asked"


# In `make test` the harder of the two: the disks are gone.
@pytest.mark.parametrize("emptied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_launched_run_that_is_resumed_has_the_simulation_s_bits(
    folder: Path, tmp_path: Path, emptied: bool
) -> None:
    """Where the nodes' disks are emptied in between, each silo has storage of its own."""
    named = {f"silo-{number}": {"state": str(tmp_path / "own")} for number in range(1, 5)}
    own = [f"federation.silos={json.dumps(named).replace(chr(34), '')}"] if emptied else []
    words = ["launch", "all", "backend=local", *RUN, *own]
    status, said = local.done(folder, *words, "run.rounds=3")
    assert status == 0, said
    if emptied:
        for state in (folder / ".meadow/federation/jobs").glob("silo-*/state"):
            shutil.rmtree(state)
    resumed = ["launch", "all", "backend=local", "run.resume=a", f"run.rounds={ROUNDS}"]
    status, said = local.done(folder, *resumed)
    assert status == 0, said
    assert local.same_bits(folder / "outputs/a", whole(tmp_path))
