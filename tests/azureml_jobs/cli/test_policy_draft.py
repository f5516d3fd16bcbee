"""`meadow policy draft` writes a file that its owner can use as it is, and writes over nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from azureml_jobs.cli.main import main
from azureml_jobs.jobs.silo_file import with_own
from client.policy import check_run
from conf.compose import compose
from conf.errors import ConfigError, SiloError
from conf.silos import silos
from strategies.wire import run_config

RUN = ["task=digits", "model=mlp", "model.hidden=[32,16]", "trainer.lr=1e-5"]
TEXTS = ["+task.args.mode='1e-3'", "+task.args.when='on'", "+task.args.of={a-b:null}"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a run's configuration was stored."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "outputs" / "first"
    made.mkdir(parents=True)
    (made / "config.yaml").write_text(yaml.safe_dump(asdict(compose([*RUN, *TEXTS]))))
    return tmp_path


def test_the_draft_of_a_run_allows_it_and_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "draft", "run=first"]) == 0
    assert "wrote policy-first.yaml: " in capsys.readouterr().out
    conf = with_own(compose(["federation.silos={north:{}}"]), "north", folder / "policy-first.yaml")
    (north,) = silos(conf)

    def check(*changes: str) -> None:
        check_run(run_config.unpack(run_config.pack(compose([*RUN, *TEXTS, *changes]))), north, 1)

    check()
    with pytest.raises(SiloError, match=r"MDW-341.*trainer\.lr=0\.1\. Allowed: 1e-05"):
        check("trainer.lr=0.1")
    with pytest.raises(SiloError, match=r"MDW-341.*task\.args\.mode=0\.001\. Allowed: 1e-3"):
        check("task.args.mode=1e-3")


def test_a_policy_that_is_there_is_not_written_over(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.yaml").write_text("policy: {}")
    status = main(["policy", "draft", "run=first", "file=mine.yaml"])
    assert status == ConfigError.exit_status
    assert "MDW-127: mine.yaml is here already" in capsys.readouterr().err
    assert (folder / "mine.yaml").read_text() == "policy: {}"


def test_a_file_that_can_t_be_written_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "draft", "run=first", "file=no/such.yaml"]) == ConfigError.exit_status
    assert "MDW-127: no/such.yaml can't be written: No such file" in capsys.readouterr().err
