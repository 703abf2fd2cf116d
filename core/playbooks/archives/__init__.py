"""Archives of playbooks: which they are, their members, and the playbooks that these make.

::

    a child of the sandbox                                         the caller's process
    kinds ──► members ──► tar_members │ zip_members  ──pipe──►  reading ──► drafts
    by its    pages of    headers checked,                      bytes into a file without a name,
    bytes     members     bytes proven                          names shared out over playbooks

The child's modules import little, so nothing is imported here.
"""
