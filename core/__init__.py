"""The domain: playbooks on disk, to the server, from the server, and local search.

Knows neither Celery nor FastAPI; ``core.service.PlaybookService`` puts the parts together.
"""
