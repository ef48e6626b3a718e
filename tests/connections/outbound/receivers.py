"""Receivers on loopback that answer byte by byte what a test tells them, and a throw-away authority for TLS."""

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from connections.messages import LocalError, NetworkError, RequestRefusedError
from connections.outbound import Policy

LOOPBACK = Policy.of(allow_nets=["127.0.0.0/8", "::1/128"], allow_http=True, ports="*")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def raises(cause: str, match: str | None = None) -> "pytest.RaisesExc[Any]":
    """Expect an error of this cause, in the class that the tree gives it."""
    refused = {"invalid_url", "invalid_request", "address_refused"}
    kind = RequestRefusedError if cause in refused else LocalError if cause == "our_fault" else NetworkError
    return pytest.raises(kind, match=match, check=lambda error: error.cause == cause)


def loopback_named(*addresses: str, **changes) -> Policy:
    """The policy of loopback, in whose world every name has these addresses."""
    return replace(LOOPBACK, **{"lookup": lambda host: list(addresses), **changes})


class Receiver:
    """A TCP server that runs `handle` in a thread for each connection, and keeps what it received."""

    def __init__(self, handle: "Handle", tls: ssl.SSLContext | None, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.stopping = threading.Event()
        self.requests: list[bytes] = []
        self.accepted = 0
        self._listener = socket.create_server((address, 0), family=family, backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._handle = handle
        self._tls = tls
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(5)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        self._open.add(raw)
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(raw, server_side=True)
                self._open.add(connection)
            self._handle(connection, self)
        except OSError:
            pass  # the client hung up, as many tests want
        finally:
            self._open -= {raw, connection}
            connection.close()
            raw.close()


Handle = Callable[[socket.socket, Receiver], object]


@contextmanager
def receiver(handle: Handle, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> Iterator[Receiver]:
    running = Receiver(handle, tls, address)
    try:
        yield running
    finally:
        running.close()


def read_request(connection: socket.socket, server: Receiver) -> bytes:
    """Read one request with its body by Content-Length, and keep it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    server.requests.append(head + b"\r\n\r\n" + body)
    return server.requests[-1]


def answering(*pieces: bytes) -> Handle:
    """Read the request, send the pieces, close."""

    def handle(connection: socket.socket, server: Receiver) -> None:
        read_request(connection, server)
        for piece in pieces:
            connection.sendall(piece)

    return handle


def dripping(start: bytes, drop: bytes) -> Handle:
    """Read the request, send the start, then a drop every 20 ms for as long as anyone listens."""

    def handle(connection: socket.socket, server: Receiver) -> None:
        read_request(connection, server)
        connection.sendall(start)
        while not server.stopping.wait(0.02):
            connection.sendall(drop)

    return handle


def hanging(connection: socket.socket, server: Receiver) -> None:
    """Accept, and say nothing."""
    server.stopping.wait(60)


def closed_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Authority:
    """A certificate authority that lives as long as a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Throw-away authority")])
        certificate = self._build(self._name, self._key, 9).add_extension(x509.BasicConstraints(True, None), True)
        self.ca_file = str(folder / "ca.pem")
        Path(self.ca_file).write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))

    def server(self, host: str, *, days: int = 9, names: Sequence[x509.GeneralName] | None = None) -> ssl.SSLContext:
        """A server's TLS with a certificate for a name; a negative number of days makes one that has expired.

        `names` are its subject alternative names: the host by default, and without any it has only a common name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        builder = self._build(subject, key, days)
        if alternatives := [x509.DNSName(host)] if names is None else names:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        file = self._folder / f"{host}{days}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(_pem(certificate) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=days))
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
