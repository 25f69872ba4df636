"""What answers at the address of a Ray head: known within ten seconds, where Ray itself would try for minutes."""

import os
import socket
import time

from rspipe.errors import ClusterError
from rspipe.execution.ray_internals import Answer, address_of_running_ray, ask_head

_SECONDS = 8.0
"""In all, but for the imports; a head on a busy machine takes two or three."""

_LOOK_SECONDS = 2.0

_HEADS_PORT = "a head's own port is 6379 unless `ray start --port` says otherwise"

_SETTINGS = 4
"""Type of the frame that a server of HTTP/2, as gRPC speaks it, begins with: byte 3."""

REFUSED_TOKEN = (
    "the Ray cluster at {} refuses this client's token; "
    "`export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...` with the content of ~/.ray/auth_token on its head"
)


def head_address(given: str | None) -> str | None:
    """Return host:port of the Ray head to join, which answers; None for a Ray of this run's own.

    Args:
        given: By the user. None takes RAY_ADDRESS, which `ray job submit` sets; "auto" is what runs on this machine.

    Raises:
        ClusterError: It is no address, no Ray head answers there, or one of another version or that refuses the token.
    """
    address, where = given or os.environ.get("RAY_ADDRESS") or "local", "--ray-address" if given else "RAY_ADDRESS"
    if address == "local":
        return None
    remedy = "leave --ray-address out" if given else "unset RAY_ADDRESS"
    named = f"{address} ({where})"
    if address == "auto":
        try:
            address = address_of_running_ray()
        except ConnectionError:
            raise ClusterError(
                f"{where} is 'auto', and no Ray runs on this machine; start one with `ray start --head`, or {remedy}"
            ) from None
        named = f"{address}, where 'auto' of {where} leads,"
    _check(address, named, remedy=remedy)
    return address


def _check(address: str, named: str, *, remedy: str) -> None:
    host, _, port = address.rpartition(":")
    if "://" in address:
        raise ClusterError(
            f"Ray address {address!r} is that of a client or a dashboard; give the head's own, e.g. 10.0.0.1:6379"
        )
    if not host or not port.isdigit():
        raise ClusterError(f"Ray address {address!r} is not of the form host:port; e.g. 10.0.0.1:6379, or leave it out")
    host, deadline = host.strip("[]"), time.monotonic() + _SECONDS
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS - _LOOK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray head answers at {named} ({error}); start one with `ray start --head`, or {remedy}"
        ) from error
    answer = ask_head(address, seconds=max(1.0, deadline - _LOOK_SECONDS - time.monotonic()))
    if answer.kind == "unauthenticated":
        raise ClusterError(REFUSED_TOKEN.format(named.removesuffix(",")))
    if answer.kind == "alive":
        _check_version(answer, named)
    elif answer.kind == "other service":
        raise ClusterError(f"a server of another kind answers at {named}, such as that of Ray's clients; {_HEADS_PORT}")
    elif (wrong := _no_head(host, int(port))) is not None:
        raise ClusterError(f"no Ray head answers at {named}: {wrong}; {_HEADS_PORT}; or {remedy}")


def _check_version(answer: Answer, named: str) -> None:
    import ray

    if answer.version != ray.__version__:
        raise ClusterError(
            f"the Ray head at {named} runs Ray {answer.version}, this is Ray {ray.__version__}; "
            f"`pip install ray=={answer.version}` here, or start the cluster with Ray {ray.__version__}"
        )


def _no_head(host: str, port: int) -> str | None:
    """Return what it is that listens there and is no head; None where it may be a busy one."""
    try:
        with socket.create_connection((host, port), timeout=_LOOK_SECONDS) as connection:
            connection.settimeout(_LOOK_SECONDS)
            connection.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            said = connection.recv(64)
    except TimeoutError:
        return "what listens there says nothing, like a tunnel whose other end is not there"
    except OSError as error:
        return f"what listens there hangs up ({error})"
    if said.startswith(b"HTTP/"):
        return "it is a web server, such as that of Ray's dashboard"
    if len(said) > _SETTINGS and said[3] == _SETTINGS:
        return None
    words = said.decode(errors="replace").split("\n")[0].strip()
    return f"what listens there says {words[:40]!r}" if words else "what listens there hangs up"
