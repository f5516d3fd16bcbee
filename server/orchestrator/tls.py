"""The orchestrator's certificate as Python's ssl takes it."""

from __future__ import annotations

import secrets
import ssl
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from azureml_jobs.identity.authority import ServerCredentials
from conf.files.whole import write_new


def server_context(given: ServerCredentials) -> ssl.SSLContext:
    """Return what a server of HTTP/1.1 with this certificate needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # Python's ssl reads a key from a file only: it is there for a moment, under a password that is
    # nowhere.
    password = secrets.token_bytes(32).hex().encode()
    key = serialization.load_pem_private_key(given.key, None)
    sealed = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "server.pem"
        write_new(file, given.certificate + b"\n" + sealed)
        context.load_cert_chain(file, password=password)
    return context
