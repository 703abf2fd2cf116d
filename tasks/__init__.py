"""The Celery side: ``celery -A tasks worker|beat|events|flower``.

Data flows one way: `tasks.jobs` → `tasks.workflows` → a thin task → `core`.
"""

from tasks.app import app

__all__ = ["app"]
