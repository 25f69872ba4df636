"""Ray where its public interface does not suffice: each function says what for, as probed with Ray 2.60.

Nothing else in rspipe touches `ray._private` or file descriptor 2.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# Elsewhere than on Linux Ray keeps to 127.0.0.1 by default; this asks for it here.
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@dataclass(frozen=True)
class Answer:
    """How an address answers the question whether a Ray head lives there."""

    kind: Literal["alive", "unauthenticated", "other service", "none"]
    version: str = ""
    """Of the Ray of a head that is alive."""


def address_of_running_ray() -> str:
    """Return host:port of the Ray that runs on this machine, or that ran there last.

    Raises:
        ConnectionError: There is none.
    """
    from ray._private import services

    return str(services.get_ray_address_from_environment("auto", None))


def ask_head(address: str, *, seconds: float) -> Answer:
    """Ask a Ray head whether it is alive, as `ray.init` does at first, but once and for so long at most."""
    import grpc
    from ray._private.authentication import authentication_token_setup as tokens
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated.gcs_service_pb2 import CheckAliveReply, CheckAliveRequest
    from ray.exceptions import AuthenticationError

    # As `ray.init` does where RAY_AUTH_MODE is not set; a token that the head does not ask for harms nothing.
    logging.getLogger("ray").setLevel(logging.ERROR)
    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    others = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    # No proxy of the web's leads to a head.
    with init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(
            "/ray.rpc.NodeInfoGcsService/CheckAlive",
            request_serializer=CheckAliveRequest.SerializeToString,
            response_deserializer=CheckAliveReply.FromString,
        )
        try:
            return Answer("alive", call(CheckAliveRequest(), timeout=seconds).ray_version)
        except AuthenticationError:
            return Answer("unauthenticated")
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return Answer("unauthenticated")
            return Answer("other service" if error.code() in others else "none")


def free_resources() -> list[dict[str, float]]:
    """Return what nobody holds of each node that is there; publicly there is only the sum."""
    from ray._private import state

    return list(state.available_resources_per_node().values())


def requests_that_wait() -> int:
    """Return how many actors, tasks and placement groups wait for resources; publicly only `ray status` shows them.

    An actor whose process is starting has its resources, and waits for none.
    """
    from ray._private.worker import global_worker
    from ray.autoscaler.v2.sdk import get_cluster_resource_state

    state = get_cluster_resource_state(global_worker.gcs_client)
    return len(state.pending_resource_requests) + len(state.pending_gang_resource_requests)


@contextmanager
def own_ray() -> Iterator[None]:
    """Let a Ray that is started meanwhile listen at 127.0.0.1 alone, with a token that its user alone can read.

    `ray.init(_node_ip_address="127.0.0.1")` replaces that address by one that others reach. The variable of the
    environment is read by the processes that Ray starts, but by this one only when it imports Ray.
    """
    from ray._private import ray_constants

    _make_token()
    before, enabled = os.environ.get(_CLUSTERS), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[_CLUSTERS], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        with without_servers():
            yield
    finally:
        os.environ.pop(_CLUSTERS)
        if before is not None:
            os.environ[_CLUSTERS] = before
        ray_constants.ENABLE_RAY_CLUSTER = enabled


def _make_token() -> None:
    """Write ~/.ray/auth_token where Ray would, but readable for its owner alone."""
    from ray._private.authentication import authentication_token_setup as tokens

    if os.environ.get(tokens.AUTH_MODE_ENV_VAR, "token").lower() != "token":
        return
    if not tokens.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
        mask = os.umask(0o077)
        try:
            tokens.generate_and_save_token()
        finally:
            os.umask(mask)
        # It has looked, and keeps what it has found.
        tokens.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def without_servers() -> Iterator[None]:
    """Let a Ray that is started meanwhile do without its dashboard and its autoscaler: two seconds of CPU.

    `include_dashboard=False` starts the dashboard's process all the same, for statistics that are off, and waits
    for it. A Ray of one machine, which ends with its driver, does not grow.
    """
    from ray._private.node import Node

    before = Node.start_api_server, Node.start_monitor
    Node.start_api_server = Node.start_monitor = lambda *_, **__: None
    try:
        yield
    finally:
        Node.start_api_server, Node.start_monitor = before


@contextmanager
def messages_to(log: Path) -> Iterator[None]:
    """Append to a file what Ray reports of lost nodes and workers, instead of printing it.

    Ray prints a paragraph per worker whatever `log_to_driver` and `logging_level` are; what matters of it reaches us
    as errors.
    """
    from ray._private import worker

    def write(data: dict[str, Any], **_: bool) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.writelines(f"({data.get('pid')}) {line}\n" for line in data.get("lines", ()))

    before = worker.print_to_stdstream
    worker.print_to_stdstream = write
    try:
        yield
    finally:
        worker.print_to_stdstream = before


@contextmanager
def native_stderr_to(log: Path) -> Iterator[None]:
    """Append to a file what native code writes to file descriptor 2; Python's own sys.stderr stays where it is.

    Why a cluster refuses a client (`Unauthenticated`) is written there by Ray's native code and said nowhere else:
    `ray.init` raises a plain ConnectionError, and RAY_BACKEND_LOG_LEVEL changes nothing. The rest is noise to a user.
    """
    sys.stderr.flush()
    original = os.dup(2)
    with log.open("ab") as file, os.fdopen(os.dup(original), "w", buffering=1) as terminal:
        os.dup2(file.fileno(), 2)
        python_stderr, sys.stderr = sys.stderr, terminal
        try:
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(original, 2)
            os.close(original)


@contextmanager
def credentials_stay() -> Iterator[None]:
    """Keep Tune from copying credentials of this process's environment into its actors, and so into Ray's logs.

    Nodes have their own, as in every other stage.
    """
    from ray.tune.execution import class_cache

    copied = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(copied)
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE.update(copied)
