"""The methods of `PlaybookService` about what the scan for secrets found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from core.errors import UsageError
from core.models import Ref
from core.secrets.findings import SecretFinding
from core.secrets.gate import check_level
from core.service_parts import ServiceParts

FindingsByRef = Mapping[Ref, Sequence[SecretFinding]]


class SecretMethods(ServiceParts):
    """What `PlaybookService` hands on to the secrets gate."""

    on_edit_findings: Callable[[FindingsByRef], object] | None = None
    """Told what the scan found in the edits that a sync took in, before anything is uploaded."""

    def findings(self, ref: Ref) -> tuple[SecretFinding, ...]:
        """What looks like a secret in a version; what was not scanned yet is scanned now."""
        return self.publisher.findings([self.store.get(ref)]).get(ref, ())

    def refuse_secrets(self, ref: Ref) -> None:
        """`Refused` where ``secrets_gate = block`` stops the version."""
        if self.settings.secrets_gate == "block":
            refusal = self.store.secrets.refusal(ref, self.findings(ref))
            if refusal is not None:
                raise refusal

    def accept_findings(
        self, targets: Sequence[str], wanted: Sequence[tuple[str, str]], accepted_by: str
    ) -> None:
        """Let findings of these versions (``id@version``) pass, each ``(key, reason)``, for good.

        A finding is a line of a file's very content: with the next edit of the file it is another.
        `NotFound` for a key that none of them has; then nothing is accepted.
        """
        if not targets or any("@" not in target for target in targets):
            raise UsageError(
                "A finding is accepted in one version.", "Name it: publish ID@VERSION."
            )
        refs = [self.store.resolve(target) for target in targets]
        self.publisher.accept_findings(refs, dict(wanted), accepted_by)

    def tell_edit_findings(self, found: FindingsByRef) -> None:
        """Hand on what was found in edits to whoever waits for it in this process."""
        if found and self.on_edit_findings is not None:
            self.on_edit_findings(found)

    @staticmethod
    def check_gate(level: str | None) -> str | None:
        """A ``secrets_gate`` that somebody gave; `UsageError` when it is none."""
        return check_level(level)
