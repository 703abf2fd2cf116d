"""Local search: embedding (loaded late), the ``user_playbooks`` collection, ranking.

::

    index.PlaybookIndex         what the rest of the service talks to
    ├── embedding               text → 384 numbers, on this machine
    ├── points                  a playbook version → one point: vector, terms, payload
    ├── collection              the interface, kept by
    │   ├── edge · edge_files   the embedded engine; its manifest and probe
    │   └── qdrant              a Qdrant server
    └── search                  who is visible, in which order; and the way without a model

Importing any of it loads neither torch nor sentence-transformers.
"""
