"""The relay's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from azureml_jobs.relay.settings import read_settings
from conf.errors import ConfigError

WHOLE = """
name: relay.example.org
listen: 0.0.0.0:443
certificate: fullchain.pem
key: privkey.pem
ingress: [10.0.0.0/8]
federations:
  trial: {ca: [trial-ca.pem, /etc/next-ca.pem], streams: 64, megabytes_per_second: 50}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "relay.yaml"
    path.write_text(text)
    return path


def test_a_whole_file_is_read_with_its_paths_beside_it(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, WHOLE))
    assert settings.file.certificate == str(tmp_path / "fullchain.pem")
    limits = settings.federations["trial"]
    assert limits.ca == [str(tmp_path / "trial-ca.pem"), "/etc/next-ca.pem"]
    assert limits.streams == 64


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "MDW-117"),
        ("name: a\nfederations: {}", "MDW-117"),
        ("federations: {a: {ca: [x]}}", "MDW-117"),
        ("name: a\nfederations: {a: {}}", "MDW-117"),
        ("name: a\nfederations: {a/b: {ca: [x]}}", "MDW-117"),
        ("name: a\ncertificate: x\nfederations: {a: {ca: [x]}}", "MDW-117"),
        ("name: a\nfederations: [", "MDW-117"),
        ("name: a\nfederation: {a: {ca: [x]}}", "MDW-101"),
        ("name: a\nfederations: {a: {ca: [x], stream: 1}}", "MDW-101"),
        ("name: a\nfederations: {a: {ca: [x], streams: 0}}", "MDW-104"),
        ("name: a/b\nfederations: {a: {ca: [x]}}", "MDW-104"),
        ("name: a\nlisten: here\nfederations: {a: {ca: [x]}}", "MDW-104"),
        ("name: a\nfederations: {a: x}", "MDW-103"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, text: str, code: str) -> None:
    with pytest.raises(ConfigError, match=f"^{code}.*relay.yaml"):
        read_settings(written(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MDW-117"):
        read_settings(tmp_path / "relay.yaml")
