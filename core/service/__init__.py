"""The one room that puts the parts of a home together; `PlaybookService` is its face."""

from core.service.playbook_service import PlaybookService

__all__ = ["PlaybookService"]
