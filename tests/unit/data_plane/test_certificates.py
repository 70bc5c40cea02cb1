import datetime as dt
import os
import ssl
import stat
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from wavetune.data_plane import certificates
from wavetune.data_plane.certificates import (
    Authority,
    Identity,
    Revoked,
    check_identity,
    client_of,
    exposed,
    read_identity,
    write_certificates,
)
from wavetune.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("certificates")
    write_certificates(found, 12, ["edge.example.org", "192.0.2.7"])
    return found


def test_each_party_has_a_folder_of_its_own_whose_key_only_its_owner_can_read(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["authority", *(f"device-{k:02d}" for k in range(12)), "server"]
    keys = [(folder / name / "key.pem") for name in ("authority", "server", "device-00", "device-11")]
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    assert all(stat.S_IMODE(key.parent.stat().st_mode) == 0o700 for key in keys)
    assert len({key.read_bytes() for key in keys}) == 4
    assert not exposed(folder / "device-00")


def test_the_servers_certificate_names_loopback_and_the_given_hosts(folder):
    certificate = x509.load_pem_x509_certificate((folder / "server" / "certificate.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "edge.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "192.0.2.7"]


def test_a_devices_certificate_is_signed_by_the_authority_and_says_which_client_it_is(folder):
    identity = read_identity(folder / "device-11")
    assert client_of(identity) == 11
    authority = x509.load_pem_x509_certificate(identity.authority)
    x509.load_pem_x509_certificate(identity.certificate).verify_directly_issued_by(authority)
    assert identity.authority == read_identity(folder / "server").authority


def test_what_is_no_identity_of_a_device_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="the certificate is that of 'server'"):
        client_of(read_identity(folder / "server"))
    with pytest.raises(ConfigError, match=r"cannot read .*authority\.pem"):
        read_identity(tmp_path)


def test_certificates_are_never_written_over_others(tmp_path):
    write_certificates(tmp_path / "set", 1)
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.pem")}
    with pytest.raises(ConfigError, match=r"already holds certificates .* --add 1"):
        write_certificates(tmp_path / "set", 3)
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.pem")} == before


def serial(folder, name):
    return x509.load_pem_x509_certificate((folder / name / "certificate.pem").read_bytes()).serial_number


def test_a_disk_that_is_full_leaves_no_part_of_a_set(tmp_path, monkeypatch):
    write, written = certificates._write, []

    def full(path, *rest):
        written.append(path)
        if len(written) == 8:
            raise OSError("No space left on device")
        return write(path, *rest)

    monkeypatch.setattr(certificates, "_write", full)
    with pytest.raises(OSError, match="No space"):
        write_certificates(tmp_path / "all", 2)
    assert list((tmp_path / "all").iterdir()) == []
    write_certificates(tmp_path / "all", 2)
    assert {p.name for p in (tmp_path / "all").iterdir()} == {"authority", "device-00", "device-01", "server"}


def test_a_device_is_added_revoked_and_given_another_certificate(tmp_path):
    write_certificates(tmp_path, 2, ["edge.example.org"])
    authority = Authority.read(tmp_path)
    revoked = Revoked(tmp_path / "server", authority.certificate)
    assert authority.add(2) == ["device-02", "device-03"]
    check_identity(read_identity(tmp_path / "device-03"))
    first = serial(tmp_path, "device-01")
    assert not revoked(first)
    assert authority.revoke("device-01") == 1
    assert revoked(first)
    with pytest.raises(ConfigError, match="gave no certificate to 'device-01' that is still valid"):
        authority.revoke("device-01")
    assert authority.add(1) == ["device-01"]
    second = serial(tmp_path, "device-01")
    assert not revoked(second)
    authority.renew("device-01")
    assert revoked(first)
    assert revoked(second)
    assert not revoked(serial(tmp_path, "device-01"))
    authority.renew("server")
    check_identity(read_identity(tmp_path / "server"), server=True)
    names = x509.load_pem_x509_certificate((tmp_path / "server" / "certificate.pem").read_bytes())
    names = names.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "edge.example.org"]


def test_a_list_of_revoked_certificates_must_be_the_authoritys(tmp_path):
    for name in ("ours", "theirs"):
        write_certificates(tmp_path / name, 1)
        Authority.read(tmp_path / name).revoke("device-00")
    list_of_others = (tmp_path / "theirs" / "server" / "revoked.pem").read_bytes()
    (tmp_path / "ours" / "server" / "revoked.pem").write_bytes(list_of_others)
    with pytest.raises(ConfigError, match="not signed by the authority"):
        Revoked(tmp_path / "ours" / "server", Authority.read(tmp_path / "ours").certificate)(1)


def test_a_damaged_list_that_comes_while_servers_run_changes_nothing(tmp_path):
    write_certificates(tmp_path, 1)
    authority = Authority.read(tmp_path)
    revoked = Revoked(tmp_path / "server", authority.certificate)
    first = serial(tmp_path, "device-00")
    assert not revoked(first)
    (tmp_path / "server" / "revoked.pem").write_bytes(b"rubbish")
    assert not revoked(first)
    (tmp_path / "server" / "revoked.pem").unlink()
    authority.revoke("device-00")
    assert revoked(first)
    (tmp_path / "server" / "revoked.pem").write_bytes(b"")
    assert revoked(first)
    (tmp_path / "server" / "revoked.pem").unlink()
    (tmp_path / "server" / "revoked.pem").symlink_to("revoked.pem")  # a disk fails in many ways
    assert revoked(first)


def test_without_the_authoritys_key_nobody_is_added(tmp_path):
    write_certificates(tmp_path, 1)
    (tmp_path / "authority" / "key.pem").unlink()
    with pytest.raises(ConfigError, match="without it nobody can be added"):
        Authority.read(tmp_path)


def signed(authority, name, start_days, end_days):
    """A device's identity that is valid between these days from now."""
    now, key = dt.datetime.now(dt.UTC), ec.generate_private_key(ec.SECP256R1())
    builder = certificates._builder(certificates._name(name), authority.certificate.subject, key.public_key())
    builder._not_valid_before = (now + dt.timedelta(days=start_days)).replace(tzinfo=None, microsecond=0)
    builder._not_valid_after = (now + dt.timedelta(days=end_days)).replace(tzinfo=None, microsecond=0)
    usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(usage, critical=False)
    return Identity(
        certificates._public(authority.certificate),
        certificates._public(builder.sign(authority.key, hashes.SHA256())),
        certificates._pem(key),
    )


def test_ones_own_certificates_are_checked_before_a_connection(tmp_path):
    for name in ("ours", "theirs"):
        write_certificates(tmp_path / name, 2)
    authority = Authority.read(tmp_path / "ours")
    ours, other = (read_identity(tmp_path / name / "device-00") for name in ("ours", "theirs"))
    second, server = (read_identity(tmp_path / "ours" / name) for name in ("device-01", "server"))
    for identity, words in (
        (signed(authority, "device-02", -3, -1), "'device-02' expired on"),
        (signed(authority, "device-02", 1, 3), "not valid before .* set the clock"),
        (signed(authority, "device-2", -1, 1), "certificate is that of 'device-2'"),
        (signed(authority, "device-02\x00x", -1, 1), r"certificate is that of 'device-02\\x00x'"),
        (replace(ours, authority=other.authority), "was not issued by the authority in authority.pem"),
        (replace(ours, key=second.key), "key.pem is not the key"),
        (replace(ours, key=b"rubbish"), "is damaged"),
        (server, "is that of 'server'"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_identity(identity)
    with pytest.raises(ConfigError, match="the servers need the folder server"):
        check_identity(ours, server=True)
    check_identity(ours)
    check_identity(server, server=True)
    check_identity(signed(authority, "device-02", -1, 1))


def with_a_damaged_subject(pem: bytes) -> bytes:
    """A certificate whose outer form is whole, while the text of its subject's name is none."""
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    name = b"\x06\x03\x55\x04\x03\x0c"  # a common name, as UTF-8
    at = der.rindex(name) + len(name) + 1
    return ssl.DER_cert_to_PEM_cert(der[:at] + b"\xff" + der[at + 1 :]).encode()


@pytest.mark.parametrize("damage", ["cut", "folder", "pipe", "subject"])
def test_a_damaged_copy_of_an_issued_certificate_is_refused_by_name(tmp_path, damage):
    write_certificates(tmp_path, 1)
    copy = min((tmp_path / "authority" / "issued").iterdir())
    content = copy.read_bytes()
    copy.unlink()
    {
        "cut": lambda: copy.write_bytes(content[:100]),
        "folder": copy.mkdir,
        "pipe": lambda: os.mkfifo(copy),
        "subject": lambda: copy.write_bytes(with_a_damaged_subject(content)),
    }[damage]()
    with pytest.raises(ConfigError, match=rf"cannot read .*{copy.name} \(.*\), a copy of a certificate"):
        Authority.read(tmp_path).add(1)


@pytest.mark.parametrize("name", ["authority", "certificate", "key"])
def test_a_pipe_in_the_place_of_a_certificate_is_not_waited_for(tmp_path, name):
    write_certificates(tmp_path, 1)
    (tmp_path / "device-00" / f"{name}.pem").unlink()
    os.mkfifo(tmp_path / "device-00" / f"{name}.pem")
    with pytest.raises(ConfigError, match=rf"{name}\.pem: it is a pipe or device, not a file"):
        read_identity(tmp_path / "device-00")
