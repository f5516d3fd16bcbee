"""A CA for tests of what it signs: valid from 2020, so that a test's clock may stand in the past."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from azureml_jobs.identity.authority import CA_CERTIFICATE, make_ca
from azureml_jobs.identity.secret_store import FolderSecrets
from azureml_jobs.identity.signed_admission import AdmissionAuthority

BEGINS = datetime(2020, 1, 1, tzinfo=UTC)


def authority_in(folder: Path, federation: str = "test") -> AdmissionAuthority:
    """Return what signs admissions with the CA in a folder, which is made where there is none."""
    secrets = FolderSecrets(folder)
    if CA_CERTIFICATE not in secrets.list():
        make_ca(secrets, federation, BEGINS)
    return AdmissionAuthority(secrets, federation)
