"""Certificates of a run's own authority: one for the main server, one for each device.

Both sides present theirs (mutual TLS), so that a device is known by its certificate's common name before a byte of its
is read, and a device knows that it talks to the server whose authority it was given.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wavetune.errors import ConfigError, JsonError
from wavetune.json_reader import read_bytes

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SERVER, AUTHORITY = "server", "authority"
REVOKED = "revoked.pem"  # in the servers' folder
_VALID_DAYS, _AUTHORITY_DAYS = 365, 3650
_ANOTHER = "whoever made it gives another with `wavetune certificates FOLDER --renew NAME`"


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
    and so on. The authority's key lies in `authority/`, with a copy of all that it signed. Keys can be read by their
    owner alone. Raises ConfigError if the folder holds certificates already.
    """
    if found := [name for name in (SERVER, AUTHORITY, device_name(0)) if (folder / name).exists()]:
        raise ConfigError(
            f"{folder} already holds certificates ({found[0]}); add a device with --add 1, or choose another folder"
        )
    key, part = ec.generate_private_key(ec.SECP256R1()), folder / ".part"
    authority = Authority(part, _authority(key), key)
    own = part / AUTHORITY
    shutil.rmtree(part, ignore_errors=True)  # of one that was killed
    try:
        (own / "issued").mkdir(parents=True, mode=0o700)
        own.chmod(0o700)
        _write(own / "authority.pem", _public(authority.certificate), 0o644)
        _write(own / "key.pem", _pem(key), 0o600)
        authority.issue(SERVER, (*LOOPBACK, *hosts))
        for client in range(num_devices):
            authority.issue(device_name(client))
        for party in part.iterdir():
            os.replace(party, folder / party.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@dataclass(frozen=True)
class Authority:
    """Who signs the certificates in a folder, with its key."""

    folder: Path
    certificate: x509.Certificate
    key: Any

    @classmethod
    def read(cls, folder: Path) -> Authority:
        """The authority of a folder that `write_certificates` made. Raises ConfigError if its key is not there."""
        own = folder / AUTHORITY
        try:
            content, key = (read_bytes(own / f"{name}.pem") for name in ("authority", "key"))
            return cls(folder, load_certificate(content), serialization.load_pem_private_key(key, password=None))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"cannot read the authority's key in {own} ({getattr(error, 'reason', error)}); without it "
                "nobody can be added or revoked: make new certificates in another folder"
            ) from error

    def issue(self, name: str, hosts: Sequence[str] = ()) -> None:
        """Write a party's folder, with a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, hosts, key, self.certificate, self.key)
        own = self.folder / name
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(own / "authority.pem", _public(self.certificate), 0o644)
        _write(own / "certificate.pem", _public(certificate), 0o644)
        _write(own / "key.pem", _pem(key), 0o600)
        _write(self._issued / f"{certificate.serial_number:x}.pem", _public(certificate), 0o644)

    def add(self, count: int) -> list[str]:
        """Give certificates to so many more devices; the lowest numbers that no valid certificate has. Their names."""
        revoked, now = Revoked(self.folder / SERVER, self.certificate), dt.datetime.now(dt.UTC)
        held = {common_name(c) for c in self.issued() if not revoked(c.serial_number) and now < c.not_valid_after_utc}
        free = (name for name in map(device_name, range(len(held) + count)) if name not in held)
        names = [next(free) for _ in range(count)]
        for name in names:
            self.issue(name)
        return names

    def revoke(self, name: str) -> int:
        """Have the servers refuse all certificates of a device; returns how many. Raises ConfigError if it has none."""
        revoked = Revoked(self.folder / SERVER, self.certificate)
        own = [c.serial_number for c in self.issued() if common_name(c) == name and not revoked(c.serial_number)]
        if not own:
            known = sorted({common_name(c) for c in self.issued() if not revoked(c.serial_number)} - {SERVER})
            raise ConfigError(f"{self.folder} gave no certificate to {name!r} that is still valid; it knows {known}")
        self._write_revoked([*revoked.serials(), *own])
        return len(own)

    def renew(self, name: str) -> None:
        """Give a party a new certificate and key, in the place of its old ones; a device's old ones are revoked."""
        old = [c for c in self.issued() if common_name(c) == name]
        if not old:
            raise ConfigError(f"{self.folder} gave no certificate to {name!r}; add a device with --add 1")
        hosts = list[str]()
        if name == SERVER:
            latest = max(old, key=lambda c: c.not_valid_before_utc)
            names = latest.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            hosts = [str(host.value) for host in names]
        elif any(not Revoked(self.folder / SERVER, self.certificate)(c.serial_number) for c in old):
            self.revoke(name)
        self.issue(name, hosts)

    def issued(self) -> Iterator[x509.Certificate]:
        """All certificates that it signed. Raises ConfigError if one cannot be read."""
        for path in sorted(self._issued.glob("*.pem")):
            try:
                yield load_certificate(read_bytes(path))
            except ValueError as error:
                reason = getattr(error, "reason", error)
                raise ConfigError(
                    f"cannot read {path} ({reason}), a copy of a certificate that was given out; put the party's own "
                    "certificate.pem in its place"
                ) from error

    @property
    def _issued(self) -> Path:
        return self.folder / AUTHORITY / "issued"

    def _write_revoked(self, serials: Sequence[int]) -> None:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now).next_update(self.certificate.not_valid_after_utc)
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(one)
        content = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        part = self.folder / SERVER / f"{REVOKED}.part"
        _write(part, content, 0o644)
        os.replace(part, self.folder / SERVER / REVOKED)


class Revoked:
    """The serial numbers in the servers' list of revoked certificates; the file is read again when it changes."""

    def __init__(self, folder: Path, authority: x509.Certificate) -> None:
        self._path, self._authority = folder / REVOKED, authority
        self._read: tuple[int, int] | None = None
        self._serials: frozenset[int] = frozenset()

    def __call__(self, serial: int) -> bool:
        """Whether a certificate was revoked."""
        return serial in self.serials()

    def serials(self) -> frozenset[int]:
        """All of them, as last read well. Raises ConfigError if the first list is not one of the authority."""
        state = self._read
        try:
            found = self._path.stat()
            state = (found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            state = self._read = self._read or (0, 0)  # one that comes later, and is damaged, does not stop the servers
        except OSError:  # of a disk that is away for a moment, too
            pass
        if state is None or state != self._read:
            try:
                listed = x509.load_pem_x509_crl(read_bytes(self._path))
                if not listed.is_signature_valid(self._authority.public_key()):  # pyright: ignore[reportArgumentType]
                    raise ValueError("it is not signed by the authority")
            except (OSError, ValueError) as error:
                if self._read is not None:
                    return self._serials
                raise ConfigError(
                    f"cannot read {self._path} ({error}); copy it from where `wavetune certificates --revoke` wrote it"
                ) from error
            self._read, self._serials = state, frozenset(entry.serial_number for entry in listed)
        return self._serials


def read_identity(folder: Path) -> Identity:
    """The identity in a folder that `write_certificates` made. Raises ConfigError if a file is missing."""
    try:
        return Identity(*(read_bytes(folder / f"{name}.pem") for name in ("authority", "certificate", "key")))
    except JsonError as error:
        raise ConfigError(f"{error}; `wavetune certificates` makes a folder for each party") from error


def exposed(folder: Path) -> str:
    """What is to be said of a party's key that others than its owner may read; empty if none may."""
    key = folder / "key.pem"
    mode = key.stat().st_mode & 0o077
    return (
        f"{key} may be read or written by others, who could then take this party's place; chmod 600 it" if mode else ""
    )


def check_identity(identity: Identity, server: bool = False) -> None:
    """Raise ConfigError unless the other side would take this identity: dates, issuer, role, name and key."""
    try:
        authority, certificate = map(load_certificate, (identity.authority, identity.certificate))
        key = serialization.load_pem_private_key(identity.key, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"a file of this party's certificates is damaged ({error}); {_ANOTHER}") from error
    name, now = common_name(certificate), dt.datetime.now(dt.UTC)
    if not server:
        client_of(identity)
    if _der(key.public_key()) != _der(certificate.public_key()):
        raise ConfigError(f"key.pem is not the key of the certificate of {name!r}; {_ANOTHER}")
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception as error:  # a type for every way in which it fails
        raise ConfigError(
            f"the certificate of {name!r} was not issued by the authority in authority.pem; both must come from one set"
        ) from error
    for what, one in ((f"the certificate of {name!r}", certificate), ("the authority's certificate", authority)):
        if now < one.not_valid_before_utc:
            raise ConfigError(
                f"{what} is not valid before {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and this machine's clock "
                f"says {now:%Y-%m-%d %H:%M}; set the clock"
            )
        if now > one.not_valid_after_utc:
            raise ConfigError(f"{what} expired on {one.not_valid_after_utc:%Y-%m-%d}; {_ANOTHER}")
    role = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    if role not in _roles(certificate):
        raise ConfigError(
            f"the certificate of {name!r} is not one of {'the servers' if server else 'a device'}; "
            f"{'the servers need the folder server' if server else 'a device needs one of the folders device-00, ...'}"
        )


def _roles(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _der(key: Any) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def client_of(identity: Identity) -> int:
    """Which client a device's certificate names. Raises ConfigError if it is none's."""
    name = common_name(x509.load_pem_x509_certificate(identity.certificate))
    _, _, number = name.partition("-")
    if not number.isdecimal() or device_name(int(number)) != name:
        raise ConfigError(f"the certificate is that of {name!r}; a device needs one of the folders device-00, ...")
    return int(number)


def load_certificate(pem: bytes) -> x509.Certificate:
    """A certificate, all of whose fields can be read. Raises ValueError for any other, which is read field by field."""
    certificate = x509.load_pem_x509_certificate(pem)
    _ = certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return certificate


def common_name(certificate: x509.Certificate) -> str:
    """The common name in a certificate, whole; empty if it has none or several."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("wavetune authority")
    usage = x509.KeyUsage(False, False, False, False, False, key_cert_sign=True, crl_sign=True, encipher_only=False,
                          decipher_only=False)  # fmt: skip
    builder = _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())


def _certificate(
    name: str,
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: Any,
) -> x509.Certificate:
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if name == SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = _builder(_name(name), authority.subject, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int = _VALID_DAYS
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # clocks of other machines may be behind
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
