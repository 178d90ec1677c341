"""Checks at the start that the installed aiokafka has every private name that the service uses."""

from __future__ import annotations

from types import FunctionType
from typing import Any, Final

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.message_accumulator import MessageAccumulator

from fivestage.errors import ConfigurationError

NAMES: Final[dict[type[Any], tuple[str, ...]]] = {
    AIOKafkaConsumer: ("_client", "_coordinator", "_fetcher", "_subscription"),
    AIOKafkaProducer: ("_message_accumulator", "_sender"),
    AIOKafkaClient: (
        "_bootstrap_servers",
        "_conns",
        "_md_update_fut",
        "_on_connection_closed",
        "_ssl_context",
        "_sync_task",
    ),
    AIOKafkaConnection: ("_requests",),
    Fetcher: (
        "_fetch_max_wait_ms",
        "_fetch_min_bytes",
        "_fetch_task",
        "_get_actions_per_node",
        "_proc_fetch_request",
        "_records",
    ),
    GroupCoordinator: (
        "_commit_refresh_task",
        "_coordination_task",
        "_do_commit_offsets",
        "_do_rejoin_group",
        "_heartbeat_task",
        "_perform_assignment",
        "_rejoin_needed_fut",
        "_send_req",
    ),
    ClusterMetadata: ("_last_successful_refresh_ms",),
    MessageAccumulator: ("_batches", "_pending_batches"),
}
"""The attributes and methods that ``aiokafka_internals`` uses, by class; a test compares both."""


def check_installed_aiokafka() -> None:
    """Check that the installed aiokafka has all of NAMES.

    Raises:
        ConfigurationError: a name is missing from this release of aiokafka.
    """
    for kind, names in NAMES.items():
        functions = [member for member in vars(kind).values() if isinstance(member, FunctionType)]
        # vars() of a class has no instance attributes, but the code of some method names them.
        known = {*vars(kind), *(name for function in functions for name in function.__code__.co_names)}
        for name in names:
            if name not in known:
                raise ConfigurationError(
                    f"aiokafka {aiokafka.__version__} lacks {kind.__name__}.{name}, which this release of "
                    "fivestage uses: install the aiokafka version that fivestage requires"
                )
