from __future__ import annotations

import errno
import inspect
import pickle
import re

import pytest

from core import errors
from core.errors import Conflict, EscherError, TransientError, storage_error


def _classes(root: type[EscherError] = EscherError) -> list[type[EscherError]]:
    below = (cls for sub in root.__subclasses__() for cls in _classes(sub))
    return [root, *(cls for cls in below if cls.__module__ == errors.__name__)]


CLASSES = _classes()


def _fields(error: EscherError) -> dict[str, object]:
    return {"text": str(error), "type": error.type, "args": error.args, **vars(error)}


def _made(cls: type[EscherError]) -> EscherError:
    parameters = list(inspect.signature(cls).parameters)
    values = {"detail": "a@1.0.0 failed.", "remedy": "Mend it.", "retry_after": 2.5}
    values |= {name: {"revision": 7} for name in parameters if name not in values}
    return cls(**{name: values[name] for name in parameters})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_crosses_a_worker_whole(cls: type[EscherError]) -> None:
    error = _made(cls)

    carried = pickle.loads(pickle.dumps(error))
    rebuilt = cls(*error.args)  # as Celery does with the JSON serializer

    assert type(carried) is cls
    assert _fields(carried) == _fields(rebuilt) == _fields(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_words_and_codes_for_its_reader(cls: type[EscherError]) -> None:
    assert cls.title
    assert cls.exit_code in {1, 2, 3, 4, 5}
    assert 400 <= cls.http_status < 600
    if issubclass(cls, TransientError):
        assert cls.http_status == 503, "whoever asked may try again"


def test_type_names_are_unique() -> None:
    names = [cls.__name__ for cls in CLASSES]
    assert len(names) == len(set(names))


def test_the_drawn_tree_is_the_tree() -> None:
    assert errors.__doc__ is not None
    parents: dict[str, str | None] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: |$)", line)
        if match is None:
            continue
        depth = len(match["branch"]) // 4
        del above[depth:]
        parents[match["name"]] = above[-1] if above else None
        above.append(match["name"])

    assert parents == {
        cls.__name__: None if cls is EscherError else cls.__bases__[0].__name__ for cls in CLASSES
    }


def test_a_conflict_without_the_servers_word_has_an_empty_one() -> None:
    assert Conflict("taken").server == {}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "owner and mode"),
        (errno.EMFILE, "ulimit"),
        (errno.EIO, "disk in order"),
    ],
)
def test_a_failure_of_the_disk_says_what_was_done_where_and_what_to_do(
    number: int, words: str
) -> None:
    error = storage_error(OSError(number, "it failed", "/home/x/metadata.json"), "Writing a@1.0.0")
    assert error.detail == "Writing a@1.0.0 failed (/home/x/metadata.json): it failed."
    assert words in error.remedy
