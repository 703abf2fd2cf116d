from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Task

import celeryconfig
from core.errors import ServerBusy
from tasks.app import app
from tasks.base import MAX_RETRIES, ServiceTask
from tasks.lanes import BATCH_QUEUE, BATCH_TASKS

HEAVY = {"torch", "sentence_transformers", "transformers", "qdrant_client", "qdrant_edge"}


@pytest.fixture(scope="module")
def registered() -> dict[str, Any]:
    app.loader.import_default_modules()
    return {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}


def _config(name: str = "celeryconfig_again") -> Any:
    """The module read afresh, with the environment as it is now."""
    assert celeryconfig.__file__ is not None
    spec = importlib.util.spec_from_file_location(name, celeryconfig.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_importing_the_tasks_loads_no_model_library(tmp_path: Path) -> None:
    code = (
        "import sys; from tasks import app; app.loader.import_default_modules();"
        "import tasks.jobs, tasks.worker_signals;"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(celeryconfig.__file__).parent,
        env={"ESCHER_HOME": str(tmp_path), "PATH": ""},
    )
    assert done.stdout.strip() == "[]"


def test_every_task_has_its_route_and_every_route_its_task(registered: dict[str, Any]) -> None:
    assert set(registered) == set(celeryconfig.task_routes)


def test_every_queue_is_worked_on_by_somebody(registered: dict[str, Any]) -> None:
    queues = {route["queue"] for route in celeryconfig.task_routes.values()}
    assert queues == {"transfer", "embed", "search", "control"}
    assert celeryconfig.task_default_queue in queues


def test_the_lane_knows_every_task_of_its_queue() -> None:
    routed = {
        name for name, route in celeryconfig.task_routes.items() if route["queue"] == BATCH_QUEUE
    }
    assert routed == BATCH_TASKS


def test_every_task_tries_named_errors_again_and_never_for_ever(registered: dict[str, Any]) -> None:
    for name, task in registered.items():
        assert isinstance(task, ServiceTask), name
        assert [error.__name__ for error in task.autoretry_for] == ["TransientError"]
        assert task.max_retries == MAX_RETRIES
        assert task.acks_late
        assert task.reject_on_worker_lost


def test_only_json_is_taken_from_the_broker() -> None:
    assert celeryconfig.accept_content == ["json"]
    assert celeryconfig.task_serializer == celeryconfig.result_serializer == "json"


class TestTheCurrentFolder:
    """Celery's own loader puts it first on Python's path while it imports."""

    @pytest.mark.parametrize("module", ["celeryconfig", "stringprep", "colorsys"])
    def test_is_not_imported_from(
        self, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / f"{module}.py").write_text("raise AssertionError('imported from here')")
        monkeypatch.delitem(sys.modules, module, raising=False)
        app.loader.import_from_cwd(module)
        app.loader.import_task_module(module)
        assert str(tmp_path) not in sys.path

    def test_gives_no_settings(self, tmp_path: Path) -> None:
        (tmp_path / "celeryconfig.py").write_text("raise AssertionError('imported from here')")
        (tmp_path / "home").mkdir()
        code = "from tasks.app import app; print(app.conf.task_default_queue)"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True, text=True, check=True, cwd=tmp_path,
            env={
                "ESCHER_HOME": str(tmp_path / "home"),
                "PYTHONPATH": str(Path(celeryconfig.__file__ or "").parent),
            },
        )  # fmt: skip
        assert done.stdout.strip() == "control"


@pytest.mark.parametrize("program", ["celery", "/venv/bin/celery", "/lib/celery/__main__.py"])
def test_celerys_own_programs_write_for_nobody_else(program: str, tmp_path: Path) -> None:
    code = (
        f"import os, sys; sys.argv[0] = {program!r}; os.umask(0o022); import tasks.app;"
        "print(os.umask(0o022))"
    )
    environment = {"ESCHER_HOME": str(tmp_path), "PATH": ""}
    root = Path(celeryconfig.__file__ or "").parent
    run = [sys.executable, "-c", code]
    done = subprocess.run(
        run, capture_output=True, text=True, check=True, cwd=root, env=environment
    )
    assert done.stdout.strip() == str(0o077)
    other = [sys.executable, "-c", code.replace(program, "my-program")]
    done = subprocess.run(
        other, capture_output=True, text=True, check=True, cwd=root, env=environment
    )
    assert done.stdout.strip() == str(0o022), "a program that sends us messages keeps its own"


class TestBeat:
    def test_issues_the_sync_as_often_as_it_is_set(
        self, settings: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ESCHER_SYNC_INTERVAL_MINUTES", "2")
        entry = _config().beat_schedule["sync"]
        assert (entry["task"], entry["schedule"]) == ("playbooks.sync", 120)
        assert entry["options"]["expires"] == 120, "ticks that nobody took do not pile up"

    def test_issues_no_sync_when_it_is_off(
        self, settings: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ESCHER_SYNC_ENABLED", "false")
        assert list(_config().beat_schedule) == ["evict"]

    def test_evicts_hourly(self, settings: object) -> None:
        entry = _config().beat_schedule["evict"]
        assert (entry["task"], entry["schedule"]) == ("playbooks.evict", 3600)


@pytest.mark.parametrize(
    ("error", "waited"),
    [(ServerBusy("busy", retry_after=30), 30.0), (ServerBusy("busy", retry_after=3600), 60.0)],
)
def test_a_task_that_is_tried_again_heeds_what_the_server_asked_for(
    registered: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: ServerBusy, waited: float
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(Task, "retry", lambda _self, **options: asked.append(options["countdown"]))
    registered["playbooks.embed"].retry(exc=error)
    assert asked == [waited]
