"""Prefect for the tests: one server for the session, to which flows of this process and of others report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from colonnade.running import prepare_prefect

prepare_prefect()  # before Prefect is imported, as the command line does

import prefect.context  # noqa: E402
from prefect.events.worker import EventsWorker  # noqa: E402
from prefect.settings import (  # noqa: E402
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from tests.prefect_server import DATABASE, PrefectServer, prefect_server  # noqa: E402

EMPTY = "empty-prefect.db"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server as an operator starts it, with an empty home."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as running:
        running.copy_database(tmp_path_factory.getbasetemp() / EMPTY)
        yield running


@pytest.fixture
def empty_database(server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of Prefect with a database that is new but need not be made, which takes a quarter of a minute."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(tmp_path_factory.getbasetemp() / EMPTY, home / DATABASE)
    return home


@pytest.fixture(scope="session")
def prefect_here(server: PrefectServer) -> Iterator[None]:
    """Flows of this process, in whatever thread, report to the session's server."""
    # Without heartbeats a flow ends a second sooner; its log need not be kept.
    quick = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with (
        temporary_settings({PREFECT_API_URL: server.api, **quick}),
        # As Prefect's own harness does: threads that copied no context see these settings too.
        prefect.context._temporary_global_settings_context(prefect.context.get_settings_context()),
    ):
        yield
        EventsWorker.drain_all()  # while there is a server to take them
