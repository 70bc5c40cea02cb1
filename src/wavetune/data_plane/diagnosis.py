"""Addresses of the servers, and why a connection fails: to gRPC servers that are away and that refuse are the same."""

import ipaddress
import re
import socket
import ssl
import tempfile
from pathlib import Path

from wavetune.data_plane.certificates import Identity
from wavetune.errors import ConfigError, DeploymentError

DEFAULT_PORT = 7443
_REACH_S, _LOOKS = 5.0, 2
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # HTTP/2's, with empty settings


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of an address; without a port, the default of the servers.

    >>> host_and_port("edge.example.org"), host_and_port("[::1]:5000")
    (('edge.example.org', 7443), ('::1', 5000))

    Raises: ConfigError if it is no address, or an IPv6 address without brackets whose end could be a port.
    """
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (host.count(":") and not host.startswith("[")):
        host, port = address, str(DEFAULT_PORT)
    host = host.strip("[]")
    if not _is_host(host) or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"{address!r} is not an address; write HOST:PORT with a port from 0 to 65535, or HOST alone, and an IPv6 "
            "address in brackets"
        )
    if host == address and re.search(r":\d{4}$", address):  # of IPv6
        before, _, end = address.rpartition(":")
        raise ConfigError(f"{address!r} may end with a port; write [{before}]:{end}, or [{address}] without a port")
    return host, int(port)


def _is_host(host: str) -> bool:
    """Whether this may be a name or an IP address, and is no URL and no sentence.

    >>> _is_host("fe80::1%eth0"), _is_host("https://edge"), _is_host("1::2::3"), _is_host("my edge")
    (True, False, False, False)
    """
    if ":" not in host:
        return re.fullmatch(r"[^\s/@?#]+", host) is not None
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def with_port(address: str) -> str:
    """An address with its port, as gRPC takes it.

    >>> with_port("edge.example.org"), with_port("::1")
    ('edge.example.org:7443', '[::1]:7443')
    """
    host, port = host_and_port(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_listenable(address: str) -> None:
    """Raise DeploymentError, with the system's reason, where nothing can listen at an address."""
    host, port = host_and_port(address)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with socket.socket(found[0][0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
            probe.listen()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise DeploymentError(f"cannot listen at {with_port(address)}: {why}; choose another --address") from error


def diagnose(address: str, identity: Identity) -> None:
    """Look once at servers that cannot be reached; returns if they are away, or if nothing is wrong.

    Raises DeploymentError where one side does not take the other's certificate, which waiting does not mend.
    """
    try:
        closed = all(_closes_at_once(address, identity) for _ in range(_LOOKS))  # once may be a server that stops
    except ssl.SSLCertVerificationError as error:
        raise DeploymentError(
            f"this device does not take the certificate shown at {address}: {error.verify_message}; it must be the "
            "servers' own, of the same authority, made for this host (`wavetune certificates --host`)"
        ) from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if "wrong version" in reason or "http request" in reason or "record layer" in reason:
            raise DeploymentError(f"what listens at {address} does not speak TLS; check the port") from error
        closed = "alert" in reason
    except OSError:
        return
    if closed:
        raise DeploymentError(
            f"the servers at {address} do not take this device's certificate; it must be of their authority, valid by "
            "their clock, and not revoked"
        )


def _closes_at_once(address: str, identity: Identity) -> bool:
    """Whether the servers take a connection and then end it before their first byte, as after a wrong certificate."""
    host, port = host_and_port(address)
    with socket.create_connection((host, port), _REACH_S) as plain:
        plain.settimeout(_REACH_S)
        with _context(identity).wrap_socket(plain, server_hostname=host) as secured:
            try:
                secured.sendall(_HELLO)
                return not secured.recv(1)
            except (ConnectionResetError, BrokenPipeError):
                return True


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=identity.authority.decode("ascii"))
    with tempfile.TemporaryDirectory(prefix="wavetune-") as kept:  # a certificate is taken from a file alone
        path = Path(kept) / "party.pem"
        path.touch(mode=0o600)
        path.write_bytes(identity.certificate + identity.key)
        context.load_cert_chain(path)
    return context
