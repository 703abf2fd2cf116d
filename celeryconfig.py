"""Celery's settings: broker, queues, routes, limits, beat schedule. Nothing else stands here.

The reasons stand in ``docs/architecture.md`` and ``docs/adr/``; URLs come from the service's own
settings (``ESCHER_*``), so a worker started by hand finds the same broker as `up`'s.
"""

from __future__ import annotations

from core.settings import load_settings

_settings = load_settings()

# Longest a task may run before the broker hands it to another worker. Above the longest task
# (an import or rebuild of tens of thousands), as running twice is harmless but wasteful.
VISIBILITY_TIMEOUT_SECONDS = 3600

broker_url = _settings.effective_broker_url
embedded = _settings.embeds_broker  # none of Celery's: its socket is checked to be ours
result_backend = _settings.effective_result_backend
broker_connection_retry_on_startup = True
broker_transport_options = {
    "visibility_timeout": VISIBILITY_TIMEOUT_SECONDS,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    # how soon a queue that was left out for a while is looked at again (see tasks/lanes.py)
    "polling_interval": 0.1,
}
result_backend_transport_options = {"socket_connect_timeout": 5}
result_backend_always_retry = True
result_backend_max_retries = 10
result_expires = 3600  # progress and results stand in the journal; these are for programs that wait

task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
task_default_queue = "control"
task_create_missing_queues = True
task_routes = {
    "playbooks.upload": {"queue": "transfer"},
    "playbooks.publish": {"queue": "transfer"},
    "playbooks.settle": {"queue": "transfer"},
    "playbooks.download": {"queue": "transfer"},
    "playbooks.verify": {"queue": "transfer"},
    "playbooks.embed": {"queue": "embed"},
    "playbooks.unindex": {"queue": "embed"},
    "playbooks.reindex": {"queue": "embed"},
    "playbooks.audit": {"queue": "embed"},
    "playbooks.search": {"queue": "search"},
    "playbooks.sync": {"queue": "control"},
    "playbooks.evict": {"queue": "control"},
    "playbooks.delete": {"queue": "control"},
    "playbooks.import": {"queue": "control"},
    "playbooks.submit": {"queue": "control"},
}

# At least once: a message goes when its task is done, and comes back when its worker dies.
task_acks_late = True
task_reject_on_worker_lost = True
task_retry_on_worker_lost = True
worker_prefetch_multiplier = 1
worker_cancel_long_running_tasks_on_connection_loss = False  # they are harmless to run twice
task_track_started = True

# What Flower and `celery events` show.
worker_send_task_events = True
task_send_sent_event = True
worker_hijack_root_logger = True
worker_redirect_stdouts = False

EVICT_SECONDS = 3600

# A tick that waited past the next one has nothing to add to it, so it expires then.
beat_schedule = {
    "evict": {
        "task": "playbooks.evict",
        "schedule": EVICT_SECONDS,
        "options": {"expires": EVICT_SECONDS},
    }
}
if _settings.sync_enabled:
    beat_schedule["sync"] = {
        "task": "playbooks.sync",
        "schedule": _settings.sync_interval_minutes * 60,
        "options": {"expires": max(30.0, _settings.sync_interval_minutes * 60)},
    }
