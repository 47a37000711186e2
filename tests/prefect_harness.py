"""Prefect for the tests: one temporary server for flows of this process, and one in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from colonnade.running import prepare_prefect

prepare_prefect()  # before Prefect is imported, as the command line does

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings  # noqa: E402
from prefect.testing.utilities import prefect_test_harness  # noqa: E402

from tests.prefect_server import PrefectServer, prefect_server  # noqa: E402


@pytest.fixture(scope="session")
def prefect_here() -> Iterator[None]:
    """Flows of this process report to a server of the session's own."""
    # Without heartbeats a flow ends a second sooner; its log need not be kept.
    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}),
    ):
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server as an operator starts it."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as running:
        yield running
