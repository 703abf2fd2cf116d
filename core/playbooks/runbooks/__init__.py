"""Runbooks of other tools, made into playbooks: one file a tool, and the shape that they share.

::

    files of a tool ──► documents │ scripts ──pipe──► ssm │ rundeck │ stackstorm │ ansible │ azure ──► Runbook ──► draft
    found by `finding`  in a child of the sandbox      what is kept, what is dropped

Nothing of a runbook is run. The child's modules import little, so nothing is imported here.
"""

from typing import Final

TOOLS: Final = ("ssm", "rundeck", "stackstorm", "ansible", "azure-runbook")
"""Whose runbooks are known, as ``import --from`` names them."""
