"""Prefect keeps no result of ours: what is finished is known from the store."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import pytest
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings

import flows
import tasks
from flows.build_index import add_documents, build_index
from flows.parameters import AddParameters, BuildParameters
from index_format.errors import SourceError


def test_no_flow_and_no_task_persists_its_result() -> None:
    """Whatever a user's profile says; and where Prefect keeps an error of a flow all the same, it is JSON."""
    modules = [
        importlib.import_module(found.name)
        for package in (flows, tasks)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    made = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, (Flow, Task))}
    assert {one.name for one in made.values()} >= {"sync-index", "encode-shards", "encode shard", "publish"}
    for one in made.values():
        assert one.persist_result is False, one.name
        if isinstance(one, Flow):
            assert one.result_serializer == "json", one.name
        else:
            assert one.cache_policy is NO_CACHE, one.name


def test_nothing_is_pickled_where_a_user_has_results_kept(prefect_here, write_texts, tmp_path: Path) -> None:
    """Neither of a run that ends well nor of one that fails."""
    kept, index = tmp_path / "kept", str(tmp_path / "index")
    with temporary_settings({PREFECT_RESULTS_PERSIST_BY_DEFAULT: True, PREFECT_LOCAL_STORAGE_PATH: kept}):
        build_index(BuildParameters(source=write_texts({"a": "Bees make honey."}), index=index))
        assert not list(tmp_path.glob("kept/*"))
        source = write_texts({"b": "Cats sleep."}).model_copy(update={"text_column": "none"})
        with pytest.raises(SourceError):
            add_documents(AddParameters(source=source, index=index))
    (error,) = kept.iterdir()
    assert json.loads(error.read_text())["__exc_type__"] == "index_format.errors.SourceError"
