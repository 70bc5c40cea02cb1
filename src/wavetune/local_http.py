"""A few pages over HTTP, read only, from the standard library alone: for a person's browser, or a probe, near by."""

import errno
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from wavetune.errors import ConfigError, DeploymentError
from wavetune.logs import LOG

LOOPBACK = "127.0.0.1"
_PATIENCE_S = 10.0  # for a client that says nothing
_CONNECTIONS = 32  # at once
_OF_EVERY_ANSWER = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Answer:
    """What a path is answered with."""

    body: str
    kind: str = "text/html"
    status: int = 200


Pages = Mapping[str, Callable[[], Answer]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128  # the default of 5 keeps a probe among others waiting for a second

    def __init__(self, host: str, port: int, pages: Pages) -> None:
        self.pages, self.anyone = pages, host not in (LOOPBACK, "localhost")
        self._open = list[Any]()  # connections, the oldest first
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread; of too many connections the oldest ends, which said nothing for longest."""
        self._open.append(request)
        if len(self._open) > _CONNECTIONS:
            with suppress(OSError):
                self._open.pop(0).shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that is over."""
        with suppress(ValueError):
            self._open.remove(request)
        super().shutdown_request(request)

    def names(self) -> set[str]:
        """The Host headers of who means this server; others come by a name that somebody pointed here."""
        port = self.server_address[1]
        hosts = (LOOPBACK, "localhost")
        return {f"{host}:{port}" for host in hosts} | ({*hosts} if port == 80 else set())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's fault."""
        LOG.debug(f"a request from {client_address[0]} broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "wavetune", ""
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE_S

    def do_GET(self) -> None:
        """Answer a path that there is; look at nothing but the path."""
        if not self.server.anyone and self.headers.get("Host", "").lower() not in self.server.names():
            self._send(Answer("this is not the host you meant\n", "text/plain", 421))
            return
        page = self.server.pages.get(self.path.partition("?")[0])
        try:
            answer = page() if page else Answer("there is no such page\n", "text/plain", 404)
        except Exception:  # whatever it is, the next answer may be another
            LOG.warning(f"{self.path} could not be answered", exc_info=True)
            answer = Answer("this page cannot be made now; the terminal says why\n", "text/plain", 500)
        self._send(answer)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.close_connection = True  # with whatever body it has
        self._send(
            Answer("this server is read only\n", "text/plain", 405), {"Allow": "GET, HEAD", "Connection": "close"}
        )

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _send(self, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        body = answer.body.encode(errors="replace")
        self.send_response(answer.status)
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in {**_OF_EVERY_ANSWER, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """For who asked for details."""
        LOG.debug(f"{self.address_string()} {format % args}")


def listening(pages: Pages, port: int, host: str = LOOPBACK, option: str = "--port") -> _Server:
    """A server of pages that listens, and answers once it is told to; port 0 is any free one.

    On loopback it answers only who asks for it by a loopback name, so that no page of the web reads it.
    Raises: DeploymentError where it cannot listen, ConfigError for a port that is none; both name the `option`.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"{option} is {port}; choose a port from 0 to 65535")
    try:
        return _Server(host, port, pages)
    except OSError as error:
        why = "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error)).lower()
        other = f"choose another {option}, or 0 for any that is free"
        raise DeploymentError(f"cannot listen at {host}:{port}: {why}; {other}") from error


@contextmanager
def served(pages: Pages, port: int, host: str = LOOPBACK, option: str = "--port") -> Generator[str]:
    """The pages are answered in this block, by a thread; its address."""
    server = listening(pages, port, host, option)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
