"""Mistakes with addresses and certificates are told at once in a sentence, and leave nothing behind."""

import socket
import subprocess
import sys
import threading

import grpc
import pytest

from helpers.command_line import assert_refused, settings, wavetune
from helpers.runs import small
from wavetune.data_plane.certificates import check_identity, read_identity, write_certificates
from wavetune.data_plane.control import Coordinator
from wavetune.data_plane.diagnosis import diagnose, host_and_port
from wavetune.data_plane.server import serve
from wavetune.errors import ConfigError, DeploymentError
from wavetune.runtimes.deployed import Deployment, engine
from wavetune.runtimes.device import take_part
from wavetune.runtimes.inprocess import run


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of certificates."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("ours", "theirs"):
        write_certificates(folder / name, 2)
    return folder


@pytest.fixture
def servers(sets):
    server, port = serve(
        "127.0.0.1:0", read_identity(sets / "ours" / "server"), [Coordinator(2, lambda *_: None).handler()], 8, 1 << 20
    )
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


def test_a_port_in_use_is_one_sentence_and_leaves_no_folder(sets, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = wavetune("serve", "sflllm", "--certificates", sets / "ours" / "server", "--address", address,
                          "--out", tmp_path / "run", *settings())  # fmt: skip
        assert_refused(answer, f"cannot listen at {address}", "in use", "choose another --address")
        deployment = Deployment(address, read_identity(sets / "ours" / "server"))

        class Quiet:
            def __getattr__(self, name):
                return lambda *_: None

        with pytest.raises(DeploymentError, match="choose another --address"):
            run(small("fedavg_lora"), tmp_path / "run", Quiet(), engine=engine(deployment, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["device-00", "nowhere"])
def test_servers_with_certificates_that_are_not_theirs_leave_no_folder(sets, tmp_path, folder):
    answer = wavetune("serve", "sflllm", "--certificates", sets / "ours" / folder, "--out", tmp_path / "run")
    assert_refused(answer, "certificates" if folder == "nowhere" else "the servers need the folder server")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "address", ["host:port", ":7443", "host:70000", "host:", "::", "https://host:7443", "::1:port", "a host"]
)
def test_what_is_no_address_is_refused(sets, address):
    if address == "::":
        assert host_and_port(address) == ("::", 7443)
        return
    answer = wavetune("device", address, "--certificates", sets / "ours" / "device-00")
    assert_refused(answer, "is not an address", "HOST:PORT")


def test_an_ipv6_address_that_may_end_with_a_port_is_to_be_put_in_brackets():
    with pytest.raises(ConfigError, match=r"may end with a port; write \[::1\]:7443, or \[::1:7443\] without a port"):
        host_and_port("::1:7443")
    with pytest.raises(ConfigError, match="an IPv6 address in brackets"):
        host_and_port("::1:50051")
    assert [host_and_port(a) for a in ("[::1]:7443", "[::1:7443]", "::1")] == [
        ("::1", 7443),
        ("::1:7443", 7443),
        ("::1", 7443),
    ]


def test_servers_that_do_not_come_up_leave_no_port_of_earlier_ones(sets, tmp_path):
    (tmp_path / "port").write_text("7443")
    answer = wavetune("serve", "sflllm", "--certificates", tmp_path / "nowhere", "--port-file", tmp_path / "port")
    assert_refused(answer, "certificates")
    assert not (tmp_path / "port").exists()


def test_a_device_with_another_authoritys_certificate_is_told_so_at_once(sets, servers):
    (sets / "theirs" / "device-00" / "key.pem").chmod(0o640)
    answer = wavetune("device", servers, "--certificates", sets / "theirs" / "device-00")
    assert answer.code == 2
    assert "key.pem may be read or written by others" in answer.err
    assert "does not take the certificate shown at" in answer.err
    assert "Traceback" not in answer.err
    assert "away" not in answer.out + answer.err


def test_a_device_whose_certificate_the_servers_refuse_is_told_so_at_once(sets, servers, tmp_path):
    """It trusts the servers, but its own certificate is of another authority."""
    mixed = read_identity(sets / "theirs" / "device-00")
    mixed = type(mixed)(read_identity(sets / "ours" / "device-00").authority, mixed.certificate, mixed.key)
    with pytest.raises(ConfigError, match="was not issued by the authority"):
        check_identity(mixed)
    with pytest.raises(DeploymentError, match="do not take this device's certificate"):
        diagnose(servers, mixed)


def test_what_speaks_no_tls_is_told_apart_from_servers_that_are_away(sets):
    ours = read_identity(sets / "ours" / "device-00")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"

        def answer():
            one, _ = other.accept()
            one.recv(100)
            one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            one.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DeploymentError, match="does not speak TLS"):
            diagnose(address, ours)
        thread.join()
    assert diagnose(address, ours) is None  # away


def test_servers_that_are_there_and_right_are_not_complained_of(sets, servers):
    assert diagnose(servers, read_identity(sets / "ours" / "device-01")) is None


def test_grpc_does_not_write_beside_our_sentences(sets, servers):
    """Neither in a process that imports it through wavetune, nor where a handshake fails."""
    program = (
        "import sys; from pathlib import Path; import wavetune.data_plane; import grpc\n"
        "read = lambda n: (Path(sys.argv[2]) / n).read_bytes()\n"
        "c = grpc.ssl_channel_credentials(read('authority.pem'), read('key.pem'), read('certificate.pem'))\n"
        "call = grpc.secure_channel(sys.argv[1], c).unary_unary('/x/y')\n"
        "try: call(b'', timeout=5)\n"
        "except grpc.RpcError as error: print(error.code().name)\n"
    )
    arguments = [sys.executable, "-c", program, servers, str(sets / "theirs" / "device-00")]
    answer = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == f"{grpc.StatusCode.UNAVAILABLE.name}\n"
    assert answer.stderr == ""


def test_certificates_are_made_added_revoked_and_never_overwritten(tmp_path):
    folder = tmp_path / "certificates"
    made = wavetune("certificates", folder, "--devices", 2)
    assert (made.code, made.out.count("\n")) == (0, 2)
    assert "Keep" in made.out
    keys = {path: path.read_bytes() for path in folder.rglob("*.pem")}
    assert_refused(wavetune("certificates", folder, "--devices", 2), "already holds certificates", "--add")
    assert_refused(wavetune("certificates", folder), "--devices N", "--add")
    assert wavetune("certificates", folder, "--add", 1).code == 0
    assert wavetune("certificates", folder, "--revoke", "device-00").code == 0
    assert (folder / "device-02" / "key.pem").exists()
    assert (folder / "server" / "revoked.pem").exists()
    assert all(path.read_bytes() == content for path, content in keys.items() if "device-00" not in str(path))
    assert_refused(wavetune("certificates", folder, "--revoke", "device-77"), "no certificate to 'device-77'")
    assert_refused(wavetune("certificates", tmp_path / "none", "--add", 1), "cannot read the authority's key")


def test_a_state_folder_is_one_process_s(sets, servers, tmp_path):
    from wavetune.errors import RunFolderError
    from wavetune.federation.folder_lock import locked

    ours = read_identity(sets / "ours" / "device-00")
    with locked(tmp_path / "state"), pytest.raises(RunFolderError, match="is in use by process"):
        take_part(servers, ours, tmp_path / "state", 1.0, lambda _text: None)
