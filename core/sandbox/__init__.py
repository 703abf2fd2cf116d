"""Readers and checkers of foreign content, in child processes with limits.

A parser can hang, eat all memory or end its process on content that somebody made for it. In a
child it loses that one content: the child is killed and replaced, and the caller is told
(`core.errors.Unreadable`). Children start with the first use, live on for the next ones, end when
idle for half a minute and with the process that started them; they inherit no environment, see no
folder of the user's on their import path, can't write files and can't pass their memory limit.

::

    call(function, items, …)  ──► a child of the pool:  module:name(argument, content) ─► JSON value
    stream(function, …)       ──► a child of its own:   for value, content in module:name(…): …

``function`` is ``"package.module:name"`` of this project. It takes a JSON value and bytes, and
should import little: what it imports is imported in each child. What comes back is JSON (and, of a
stream, bytes), never pickles, and as little trusted as the content was.
"""

from core.sandbox.pool import MAX_MESSAGE_BYTES, call, stream

__all__ = ["MAX_MESSAGE_BYTES", "call", "stream"]
