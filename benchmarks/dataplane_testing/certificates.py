"""Certificates of a private authority, for servers on loopback, in tests and benchmarks.

Files are made in the folder that the caller names; nothing is kept or trusted anywhere else. Not
for servers that others reach: keys are written without a passphrase.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from dataplane.extras import missing_package

__all__ = ["Authority"]


class Authority:
    """A private certificate authority, for servers on loopback.

    Args:
        folder: folder of the files it makes.
        name: name of the authority.

    Attributes:
        file: certificate of the authority, as PEM.

    Raises:
        MissingPackage: cryptography is not installed.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric import ec
        except ImportError as err:
            raise missing_package("certificates of one's own", "cryptography") from err

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._curve = ec.SECP256R1()
        self._key = ec.generate_private_key(self._curve)
        self.file = folder / f"{name}.pem"
        itself = self._sign(name, self._key, host="127.0.0.1", is_authority=True)
        self.file.write_bytes(itself)

    def issue(
        self, name: str, *, host: str | None = "127.0.0.1", first_day: int = -1, last_day: int = 30
    ) -> Path:
        """Make a certificate of a server; return the file that holds it and its key.

        Args:
            name: name of the file, and the certificate's subject.
            host: name or address of the server; None for a certificate that names none.
            first_day: first day of its validity, from today.
            last_day: last day of its validity, from today.
        """
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(self._curve)
        path = self._folder / f"{self._name}-{name}.pem"
        certificate = self._sign(name, key, host=host, days=(first_day, last_day))
        path.write_bytes(certificate + _secret(key))
        return path

    def server_of_its_own(self) -> Path:
        """Return a file with the authority's own certificate and key."""
        path = self._folder / f"{self._name}-itself.pem"
        path.write_bytes(self.file.read_bytes() + _secret(self._key))
        return path

    def _sign(
        self,
        name: str,
        key: Any,
        *,
        host: str | None = None,
        days: tuple[int, int] = (-1, 30),
        is_authority: bool = False,
    ) -> bytes:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(x509, name))
            .issuer_name(_named(x509, self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if host is not None:
            try:
                names: Any = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                names = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([names]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
        return pem


def _secret(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    secret: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return secret


def _named(x509: Any, name: str) -> Any:
    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
