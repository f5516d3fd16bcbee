"""The command line: what it answers, what it starts, and the exit status that it leaves."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser

from azureml_jobs.cli.hydra_app import REFUSED
from azureml_jobs.cli.main import main
from azureml_jobs.cli.verbs import VERBS
from conf.errors import CheckpointError, DataError, Interrupted, MeadowError, RoundError
from conf.key_list import keys
from conf.schema import Conf

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[3]


class Simulation:
    """Stands in for `server.simulation`: notes each run and fails where it is told to."""

    def __init__(self) -> None:
        self.runs: list[tuple[Conf, str, str]] = []
        self.fail: Callable[[Conf], BaseException | None] = lambda conf: None

    def simulate_conf(
        self, conf: Conf, *, command: str = "", shown: str = ""
    ) -> types.SimpleNamespace:
        self.runs.append((conf, command, shown))
        error = self.fail(conf)
        if error is not None:
            raise error
        return types.SimpleNamespace(folder=Path(conf.run.output) / f"run-{len(self.runs)}")


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    made = types.ModuleType(name)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Simulation:
    monkeypatch.chdir(tmp_path)
    fake = Simulation()
    module(
        monkeypatch,
        "server.simulation",
        simulate_conf=fake.simulate_conf,
        copy_for_workers=lambda conf: None,
    )
    return fake


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from azureml_jobs.cli.main import main; status = main(['--help']); "
        "status = status or main(['launch', 'all', 'backend=azure', '--help']); "
        "names = {name.partition('.')[0] for name in sys.modules}; "
        "heavy = {'torch', 'flwr', 'hydra', 'omegaconf', 'numpy', 'azure', 'mlflow', 'grpc', 'cryptography'} & names; "
        "sys.exit(f'{heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for name, verb in VERBS.items():
        assert name in done.stdout and verb.summary in done.stdout


def test_a_configuration_is_shown_and_refused_without_torch_or_flower() -> None:
    code = (
        "import sys; from azureml_jobs.cli.main import main; status = main(['simulate', '--cfg', 'job']); "
        "status = status or main(['simulate', 'trainer.lrr=1']) - 2; "
        "heavy = {'torch', 'flwr', 'server'} & set(sys.modules); sys.exit(f'{heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "rounds: 10" in done.stdout and "Did you mean 'lr'?" in done.stderr


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_no_verb_gives_the_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert "meadow VERB" in capsys.readouterr().out


def test_a_misspelt_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simluate"]) == 2
    err = capsys.readouterr().err
    assert "error MDW-110" in err and "Did you mean 'simulate'?" in err
    assert main(["xyz"]) == 2
    known = {name.partition(" ")[0] for name in VERBS}
    assert ", ".join(sorted(known)) in capsys.readouterr().err


def test_version_names_what_it_stands_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == main(["--version"]) == 0
    assert f"flwr {metadata.version('flwr')}" in capsys.readouterr().out


def test_simulate_runs_what_was_composed(simulation: Simulation) -> None:
    argv = ["simulate", "run.rounds=3", "federation.silos.north.data.root=/a b", "--no-progress"]
    assert main(argv) == 0
    ((conf, command, shown),) = simulation.runs
    assert conf.run.rounds == 3 and conf.federation.silos["north"].data == {"root": "/a b"}
    assert command == "meadow simulate run.rounds=3 'federation.silos.north.data.root=/a b'"
    assert shown == "plain"
    assert list(Path().iterdir()) == [], "only the run writes, into its own folder"


def test_progress_is_shown_by_default_and_flags_may_stand_anywhere(simulation: Simulation) -> None:
    assert main(["simulate", "run.rounds=3", "--run", "run.seed=1"]) == 0
    ((conf, _, shown),) = simulation.runs
    assert shown == "live" and (conf.run.rounds, conf.run.seed) == (3, 1)


def test_the_arguments_of_the_process_are_left_as_they_were(simulation: Simulation) -> None:
    before = list(sys.argv)
    main(["simulate"])
    main(["simulate", "foo=1"])
    assert sys.argv == before


@pytest.mark.parametrize(
    "error",
    [
        DataError("MDW-201", "no data", "Look."),
        RoundError("MDW-401", "too few"),
        CheckpointError("MDW-501", "torn"),
    ],
)
def test_a_failure_is_told_in_two_lines_with_its_own_status(
    simulation: Simulation, capsys: pytest.CaptureFixture[str], error: MeadowError
) -> None:
    simulation.fail = lambda conf: error
    assert main(["simulate"]) == error.exit_status
    # after the line that says what runs
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines[0] == f"error {error.code}: {error.message}"
    assert lines[1:] == ([f"  {error.hint}"] if error.hint else [])


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), Interrupted("MDW-900", "Stopped after round 2.", "Go on.")]
)
def test_an_interruption_ends_with_130_and_no_traceback(
    simulation: Simulation, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    simulation.fail = lambda conf: error
    assert main(["simulate"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_fault_of_ours_shows_its_traceback(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation.fail = lambda conf: KeyError("silo")
    assert main(["simulate"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "unexpected KeyError" in err


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["trainer.lrr=1"], "Did you mean 'lr'?"),
        (["strategy=fedprx"], "Did you mean 'fedprox'?"),
        (["trainer.lr=-1"], "must be above 0"),
        (["run.quorum=9"], "3 silos"),
        (["run.seed=1,2"], "--multirun"),
        (["--cfgg", "job"], "--cfgg"),
        (["--cfg", "jobs"], "jobs"),
        (["--cfg", "job", "--multirun"], "--multirun"),
        (["--resolve"], "--resolve"),
        (["--cfg", "job", "trainer.lrr=1"], "Did you mean 'lr'?"),
        (["--help", "trainer.lrr=1"], "Did you mean 'lr'?"),
        (["--config-name", "mine"], "--config-dir"),
        (["--config-path", "mine"], "--config-dir"),
        (["--experimental-rerun", "config.pickle"], "not offered"),
        (["--config-dir", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--shell-completion", "install=bash"], "not offered"),
        (["-m", "trainer.lr=0.1,-1"], "must be above 0"),
        (["-m", "run.seed=0,1", "run.name=x"], "leave run.name out"),
        (["-m", "run.seed=1,x"], "'x' is not a whole number"),
        (["-m", "trainer.lr=interval(0,1)"], "INTERVAL_SWEEP"),
        (["-m", "hydra/sweeper=nix"], "nix"),
    ],
)
def test_a_mistake_stops_before_anything_starts(
    simulation: Simulation, capsys: pytest.CaptureFixture[str], args: list[str], word: str
) -> None:
    assert main(["simulate", *args]) == 2
    out = capsys.readouterr()
    assert word in out.err and "Traceback" not in out.err
    assert simulation.runs == [] and list(Path().iterdir()) == []


def test_help_of_simulate_shows_groups_options_and_configuration(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--help", "trainer=adam"]) == 0
    out = capsys.readouterr().out
    for words in (
        "strategy: bulyan, centered_clipping, external, fedavg, fedprox, geometric_median, krum",
        "data: column, dirichlet, iid, labels, own, quantity",
        "optimizer: adam",
        "--no-progress",
    ):
        assert words in out
    assert "experiment=quickstart" in out and "schema" not in out
    assert simulation.runs == []


def test_help_of_simulate_lists_the_flags_that_are_offered(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--help"]) == 0
    listed = set(
        re.findall(
            r"--[a-z-]+",
            capsys.readouterr().out.partition("== Flags ==")[2].partition("== What")[0],
        )
    ) - {"--no-progress"}
    hydras = {
        flag
        for action in get_args_parser()._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }
    assert listed == hydras - {f"--{name.replace('_', '-')}" for name in REFUSED}


def test_help_of_simulate_says_what_each_key_means(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--help"]) == 0
    _, _, told = capsys.readouterr().out.partition("== What the keys mean")
    # without spaces: a long text goes over two lines
    words = "".join(told.split())
    for key in keys():
        if "NAME" not in key.path:
            assert "".join(f"{key.path}{key.help}".split()) in words


def test_a_sweep_over_names_and_one_that_names_each_run_by_its_seed_run(
    simulation: Simulation,
) -> None:
    assert main(["simulate", "-m", "run.name=a,b"]) == 0
    assert main(["simulate", "-m", "run.seed=0,1", "run.name=x-${run.seed}"]) == 0
    assert [conf.run.name for conf, _, _ in simulation.runs] == ["a", "b", "x-0", "x-1"]


def test_cfg_prints_the_configuration_whole_in_part_and_resolved(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--cfg", "job", "run.seed=4"]) == 0
    assert "seed: ${run.seed}" in capsys.readouterr().out
    assert main(["simulate", "--cfg", "job", "--package", "data", "--resolve", "run.seed=4"]) == 0
    out = capsys.readouterr().out
    assert "seed: 4" in out and "optimizer" not in out
    assert main(["simulate", "--cfg", "hydra"]) == 0
    assert simulation.runs == []


def test_a_configuration_with_a_wrong_value_can_still_be_looked_at(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--cfg", "job", "trainer.lr=-1"]) == 0
    assert "lr: -1" in capsys.readouterr().out


def test_files_of_ones_own_come_from_a_directory(simulation: Simulation) -> None:
    own = Path("own/experiment")
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nrun:\n  rounds: 7\n")
    assert main(["simulate", "--config-dir", "own", "experiment=mine"]) == 0
    ((conf, command, _),) = simulation.runs
    assert conf.run.rounds == 7 and command == "meadow simulate --config-dir own experiment=mine"


@pytest.mark.parametrize("sweep", [[], ["-m", "run.seed=0,1"]], ids=["one", "sweep"])
def test_numbers_in_files_of_ones_own_are_those_of_yaml_1_2(
    sweep: list[str], simulation: Simulation
) -> None:
    own = Path("it's own/experiment")
    own.mkdir(parents=True)
    text = "# @package _global_\nrun:\n  rounds: 010\ntrainer:\n  lr: 1e-3\n"
    (own / "mine.yaml").write_text(text)
    assert main(["simulate", "--config-dir", "it's own", "experiment=mine", *sweep]) == 0
    for conf, command, _ in simulation.runs:
        assert (conf.run.rounds, conf.trainer.lr) == (10, 0.001)
        assert command.startswith("meadow simulate --config-dir 'it'\"'\"'s own' ")
        assert "searchpath" not in command


def test_a_file_of_ones_own_that_says_a_key_twice_is_an_error(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path("own/experiment")
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nrun: {rounds: 7}\nrun: {rounds: 8}\n")
    assert main(["simulate", "--config-dir", "own", "experiment=mine"]) == 2
    assert "MDW-100" in (said := capsys.readouterr().err) and "given twice" in said


def test_hydra_s_own_key_for_folders_names_the_flag(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "hydra.searchpath=[file:///tmp]"]) == 2
    assert "MDW-111" in (said := capsys.readouterr().err) and "--config-dir" in said


def test_a_sweep_runs_every_combination_into_one_folder(simulation: Simulation) -> None:
    assert main(["simulate", "-m", "run.seed=0,1", "strategy=fedprox", "strategy.mu=0.1,0.2"]) == 0
    ran = [(conf.run.seed, conf.strategy.mu) for conf, _, _ in simulation.runs]  # type: ignore[attr-defined]
    assert ran == [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
    (folder,) = {conf.run.output for conf, _, _ in simulation.runs}
    assert Path(folder).parent == Path("outputs") and (Path(folder) / "multirun.yaml").is_file()
    assert simulation.runs[1][1] == "meadow simulate run.seed=0 strategy=fedprox strategy.mu=0.2"


def test_a_sweep_sweeps_over_new_names_too(simulation: Simulation) -> None:
    args = [
        "strategy=external",
        "strategy.target=flwr.serverapp.strategy.FedAdam",
        "strategy.args.eta=0.1,0.2",
    ]
    assert main(["simulate", "--multirun", *args]) == 0
    assert [conf.strategy.args for conf, _, _ in simulation.runs] == [  # type: ignore[attr-defined]
        {"eta": 0.1},
        {"eta": 0.2},
    ]


def test_a_sweep_goes_on_after_a_failure_and_leaves_its_status(
    simulation: Simulation, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation.fail = lambda conf: RoundError("MDW-401", "too few") if conf.run.seed == 0 else None
    assert main(["simulate", "-m", "run.seed=0,1"]) == RoundError.exit_status
    assert len(simulation.runs) == 2 and "error MDW-401" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("MDW-900", "Stopped.")])
def test_a_sweep_ends_when_it_is_interrupted(simulation: Simulation, error: BaseException) -> None:
    simulation.fail = lambda conf: error
    assert main(["simulate", "-m", "run.seed=0,1,2"]) == 130
    assert len(simulation.runs) == 1


@pytest.mark.parametrize("keeps", [[], ["head"]], ids=["all shared", "personal layers"])
def test_evaluate_prints_a_line_for_all_silos_and_for_each(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    keeps: list[str],
) -> None:
    run = tmp_path / "one"
    (run / "model").mkdir(parents=True)
    (run / "model" / "model.safetensors").touch()
    (run / "config.yaml").write_text(f"strategy: {{name: fedavg, keeps: {keeps}}}\n")
    scores = types.SimpleNamespace(
        union={"loss": 0.5, "accuracy": 0.9}, by_silo={"north": {"accuracy": 0.8}}
    )
    module(monkeypatch, "server.scoring.evaluation", evaluate_run=lambda run, places: scores)
    assert main(["evaluate", f"run={run}"]) == 0
    out, err = capsys.readouterr()
    first, *more = err.splitlines()
    assert first == "one: 3 silos, digits, fedavg"
    assert [line.partition(":")[0] for line in more] == ["The silos keep head"] * len(keeps)
    assert out.splitlines() == [
        "all silos  loss 0.5000  accuracy 0.9000",
        "north      accuracy 0.8000",
    ]


def test_report_writes_the_report_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("")
    module(
        monkeypatch,
        "server.report.build",
        write_report=lambda folder, outside: folder / "report.html",
    )
    assert main(["report", f"run={tmp_path}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert main(["report", "run=nowhere"]) == 2


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_a_verb_about_a_run_says_which_argument_it_takes(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    assert f"meadow {verb} run=RUN_ID" in capsys.readouterr().out
    for wrong in ([], ["rum=one"], ["run="], ["one", "two"]):
        assert main([verb, *wrong]) == 2
        assert "run=RUN_ID" in capsys.readouterr().err
