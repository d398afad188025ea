"""
Certificates for a server on this machine: an authority of its own, and one certificate for 127.0.0.1 and localhost.

Needs the `cryptography` package, imported when called. The keys are made for the occasion and thrown away with it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent_memory.embedded.errors import ServerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

__all__ = ["CertificateFiles", "write_certificates"]

_VALID_DAYS = 30


class CertificateFiles(NamedTuple):
    """Paths of PEM files; keys are readable by this user only."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def write_certificates(folder: Path) -> CertificateFiles:
    """
    Write ca.crt, server.crt, server.key, client.crt and client.key into `folder`.

    Raises ServerError if `cryptography` is not installed, OSError.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise ServerError("tls=True needs the cryptography package: pip install cryptography") from error

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _issue("agent-memory test authority", authority_key, None, authority_key)
    files = CertificateFiles(*(folder / name for name in _NAMES))
    _write_certificate(files.authority, authority)
    for name, certificate_path, key_path in (
        ("localhost", files.server, files.server_key),
        ("client", files.client, files.client_key),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        _write_certificate(certificate_path, _issue(name, key, authority, authority_key))
        _write_key(key_path, key)
    return files


_NAMES = ("ca.crt", "server.crt", "server.key", "client.crt", "client.key")


def _issue(
    name: str, key: EllipticCurvePrivateKey, authority: Certificate | None, authority_key: EllipticCurvePrivateKey
) -> Certificate:
    """Sign a certificate for `key`; without an authority it becomes one."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    is_authority = authority is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A clock that is a little behind must not make a new certificate invalid.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        # Python 3.13 checks chains strictly: the key identifiers and the usage have to be there.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_authority:
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def _write_certificate(path: Path, certificate: Certificate) -> None:
    from cryptography.hazmat.primitives import serialization

    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(pem)
