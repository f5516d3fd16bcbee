"""What a client certificate says, and who may have signed it: in `tests/security/test_handshake.py`."""

from __future__ import annotations

import time
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from azureml_jobs.identity.node_key import fresh_node_key
from azureml_jobs.identity.signed_admission import Admission, check_admission
from tests.azureml_jobs.identity.authorities import authority_in


def test_the_certificate_names_the_key_and_outlives_what_it_says_by_a_year(tmp_path: Path) -> None:
    authority = authority_in(tmp_path)
    now = time.time()
    admission = Admission("test", "north", fresh_node_key()[1], now, now + 86400.0)
    signed = authority.sign(admission)
    certificate = x509.load_pem_x509_certificate(signed.encode())
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == admission.fingerprint
    left = certificate.not_valid_after_utc.timestamp() - admission.expires
    assert abs(left - 365 * 86400) < 2
    assert check_admission(signed, authority.secrets.get("ca-certificate"), "it") == admission


def test_it_never_outlives_the_ca(tmp_path: Path) -> None:
    authority = authority_in(tmp_path)
    now = time.time()
    long = Admission("test", "north", fresh_node_key()[1], now, now + 36500 * 86400.0)
    certificate = x509.load_pem_x509_certificate(authority.sign(long).encode())
    ca = x509.load_pem_x509_certificate(authority.secrets.get("ca-certificate"))
    assert certificate.not_valid_after_utc == ca.not_valid_after_utc
