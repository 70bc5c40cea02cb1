import stat

import pytest
from cryptography import x509

from wavetune.data_plane.certificates import client_of, read_identity, write_certificates
from wavetune.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("certificates")
    write_certificates(found, 12, ["edge.example.org", "192.0.2.7"])
    return found


def test_each_party_has_a_folder_of_its_own_whose_key_only_its_owner_can_read(folder):
    assert sorted(p.name for p in folder.iterdir()) == [*(f"device-{k:02d}" for k in range(12)), "server"]
    keys = [(folder / name / "key.pem") for name in ("server", "device-00", "device-11")]
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    assert len({key.read_bytes() for key in keys}) == 3


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
