"""Certificates of a run's own authority: one for the main server, one for each device.

Both sides present theirs (mutual TLS), so that a device is known by its certificate's common name before a byte of its
is read, and a device knows that it talks to the server whose authority it was given.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wavetune.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SERVER = "server"
_VALID_DAYS = 365


@dataclass(frozen=True)
class Identity:
    """What one party needs: the authority it trusts, its own certificate chain and private key, all PEM."""

    authority: bytes
    certificate: bytes
    key: bytes


def device_name(client: int) -> str:
    """Common name of a device's certificate.

    >>> device_name(3)
    'device-03'
    """
    return f"device-{client:02d}"


def write_certificates(folder: Path, num_devices: int, hosts: Sequence[str] = ()) -> None:
    """Make an authority, the server's certificate for `hosts` and loopback, and one for each device.

    Each party gets a folder of its own with `authority.pem`, `certificate.pem` and `key.pem`: `server/`, `device-00/`
    and so on. Keys can be read by their owner alone. The authority's own key is not kept: nobody can be added later.
    """
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key)
    parties = {SERVER: (*LOOPBACK, *hosts)} | {device_name(k): () for k in range(num_devices)}
    for name, names in parties.items():
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, names, key, authority, authority_key)
        own = folder / name
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(own / "authority.pem", authority.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(own / "certificate.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(own / "key.pem", _pem(key), 0o600)


def read_identity(folder: Path) -> Identity:
    """The identity in a folder that `write_certificates` made. Raises ConfigError if a file is missing."""
    try:
        return Identity(*((folder / f"{name}.pem").read_bytes() for name in ("authority", "certificate", "key")))
    except OSError as error:
        raise ConfigError(
            f"cannot read {error.filename}: {error.strerror}; `wavetune certificates` makes a folder for each party"
        ) from error


def client_of(identity: Identity) -> int:
    """Which client a device's certificate names. Raises ConfigError if it is none's."""
    name = common_name(x509.load_pem_x509_certificate(identity.certificate))
    _, _, number = name.partition("-")
    if not number.isdecimal() or device_name(int(number)) != name:
        raise ConfigError(f"the certificate is that of {name!r}; a device needs one of the folders device-00, ...")
    return int(number)


def common_name(certificate: x509.Certificate) -> str:
    """The common name in a certificate, whole; empty if it has none or several."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("wavetune authority")
    usage = x509.KeyUsage(False, False, False, False, False, key_cert_sign=True, crl_sign=True, encipher_only=False,
                          decipher_only=False)  # fmt: skip
    builder = _builder(name, name, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())


def _certificate(
    name: str,
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if name == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(_name(name), authority.subject, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # clocks of other machines may be behind
        .not_valid_after(now + dt.timedelta(days=_VALID_DAYS))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
