"""What answers at an address, each in seconds: real sockets, none of which is a Ray head."""

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from rspipe.errors import ClusterError
from rspipe.execution import heads
from rspipe.execution.heads import head_address
from rspipe.execution.ray_internals import Answer


@pytest.fixture
def listening() -> Iterator[Callable[[bytes | None], str]]:
    """Return a function that listens somewhere and says something to everybody, or nothing (None); the address."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def listen(words: bytes | None) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def talk() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    sockets.append(connection)
                    if words is not None:
                        connection.sendall(words)
                        connection.close()

        threads.append(threading.Thread(target=talk, daemon=True))
        threads[-1].start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    # Listeners that are shut down accept nothing more: then all that was accepted is known.
    for end in (lambda one: one.shutdown(socket.SHUT_RDWR), socket.socket.close):
        for one in sockets:
            with suppress(OSError):
                end(one)
        for thread in threads:
            thread.join()


class Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""


@pytest.fixture
def web_server() -> Iterator[str]:
    """Start a web server; return its address."""
    server = Quiet(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_SECONDS", 1.5)
    monkeypatch.setattr(heads, "_LOOK_SECONDS", 0.3)


def test_a_web_server_is_no_head_and_is_named_as_it_was_given(web_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", web_server)
    expected = (
        rf"{web_server} \(RAY_ADDRESS\): it is a web server, such as that of Ray's dashboard; .*unset RAY_ADDRESS"
    )
    with pytest.raises(ClusterError, match=expected):
        head_address(None)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (None, "says nothing, like a tunnel whose other end is not there"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", r"says 'SSH-2\.0-OpenSSH_9\.6'"),
        (b"", "what listens there hangs up"),
    ],
)
def test_what_is_no_head_is_described_by_what_it_says(
    words: bytes | None, named: str, listening: Callable[[bytes | None], str]
) -> None:
    address = listening(words)
    expected = rf"no Ray head answers at {address} \(--ray-address\): .*{named}.* leave --ray-address out"
    with pytest.raises(ClusterError, match=expected):
        head_address(address)


def test_a_server_of_http_2_that_is_slow_to_answer_may_be_a_busy_head(
    listening: Callable[[bytes | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = listening(b"\0\0\0\4\0\0\0\0\0")
    monkeypatch.setattr(heads, "ask_head", lambda *_, **__: Answer("none"))
    assert head_address(address) == address


def test_a_head_of_another_version_is_refused_with_both_versions(
    listening: Callable[[bytes | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(heads, "ask_head", lambda *_, **__: Answer("alive", "1.13.0"))
    with pytest.raises(ClusterError, match=rf"runs Ray 1\.13\.0, this is Ray {ray.__version__}; `pip install ray==1"):
        head_address(listening(None))


def test_auto_without_a_ray_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> str:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(heads, "address_of_running_ray", nothing)
    with pytest.raises(ClusterError, match=r"--ray-address is 'auto', and no Ray runs on this machine"):
        head_address("auto")


def test_auto_that_leads_to_a_ray_that_is_gone_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(heads, "address_of_running_ray", lambda: "127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"no Ray head answers at 127\.0\.0\.1:9, where 'auto' of RAY_ADDRESS leads"):
        head_address(None)
