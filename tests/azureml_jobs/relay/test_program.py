"""The relay's process, as far as it can be seen from inside; `tests/integration/test_relayed_federation.py` runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.relay.program import run
from conf.errors import ConfigError


def test_a_relay_whose_file_is_not_there_ends_before_it_listens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MDW-117"):
        run(tmp_path / "relay.yaml")
