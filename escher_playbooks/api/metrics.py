"""What Prometheus reads at ``/metrics``, and the access log: never a query string or a body."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.journal import JobState
from core.models import SyncState
from escher_playbooks.api.dependencies import Home

access_log = logging.getLogger("escher.api.access")
UNMATCHED = "unmatched"  # paths that are no route share one label: strangers can't fill memory


class JournalCollector(Collector):
    """Counts from the journal, read at each scrape."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        journal = self._home.service.journal
        counts = journal.versions.counts()
        yield GaugeMetricFamily(
            "escher_playbooks", "Playbooks in this home.", value=counts["playbooks"]
        )
        versions = GaugeMetricFamily(
            "escher_versions", "Versions by sync state.", labels=["sync_state"]
        )
        for state in SyncState:
            versions.add_metric([state.value], counts[state.value])
        yield versions
        by_state = journal.jobs.counts()
        jobs = GaugeMetricFamily("escher_jobs", "Jobs by state.", labels=["state"])
        for job_state in JobState:
            if job_state is not JobState.DEFERRED:  # of an item only
                jobs.add_metric([job_state.value], by_state.get(job_state.value, 0))
        yield jobs


class RequestMetrics:
    """The request counters of one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "escher_api_requests",
            "Requests answered (`route` is the path's pattern).",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "escher_api_request_seconds",
            "Time from the request to the start of the answer.",
            ["method", "route"],
            registry=registry,
        )


class Observer:
    """ASGI middleware: counts each answered request by its route and logs its path."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(scope, message["status"], time.perf_counter() - started)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception:
            # answered outside of this middleware, by the handler of last resort
            self._note(scope, HTTPStatus.INTERNAL_SERVER_ERROR, time.perf_counter() - started)
            raise

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method = scope["method"] if route != UNMATCHED else UNMATCHED
        self._metrics.requests.labels(method, route, str(int(status))).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
        # repr: a path with a line break stays one line of the log
        level = logging.DEBUG if scope["path"] == "/healthz" else logging.INFO  # asked every second
        access_log.log(
            level, "%s %r %d %.0f ms", scope["method"], scope["path"], status, seconds * 1e3
        )
