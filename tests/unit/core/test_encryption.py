from __future__ import annotations

import base64
import dataclasses
import json
import multiprocessing
import sys
import traceback
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.encryption import (
    MAGIC,
    Envelope,
    MasterKey,
    Place,
    is_sealed,
    load_master_key,
    sealed_generation,
)
from core.errors import EscherError, IntegrityError, KeyUnavailable, WrongKey
from core.settings import Settings

PLACE = Place("stop-rds", "1.0.0", "shell/stop.sh", 3)
KEY_TEXT = base64.b64encode(b"CANARY-key-material-32-bytes-xx!").decode()
KEY = MasterKey(base64.b64decode(KEY_TEXT))
ELSEWHERE = [
    dataclasses.replace(PLACE, playbook_id="start-rds"),
    dataclasses.replace(PLACE, version="1.0.1"),
    dataclasses.replace(PLACE, path="shell/other.sh"),
    dataclasses.replace(PLACE, generation=2),
    dataclasses.replace(PLACE, generation=4),
    Place("stop-rds@1.0.0", "", "shell/stop.sh", 3),
]


@pytest.fixture
def envelope() -> Envelope:
    return Envelope(KEY)


@pytest.fixture
def sealed(envelope: Envelope) -> bytes:
    return envelope.seal(b"echo CANARY", PLACE)


def _header(sealed: bytes) -> tuple[dict[str, object], bytes]:
    start = len(MAGIC) + 4
    length = int.from_bytes(sealed[len(MAGIC) : start], "big")
    return json.loads(sealed[start : start + length]), sealed[start + length :]


def _with_header(sealed: bytes, **fields: object) -> bytes:
    header, ciphertext = _header(sealed)
    raw = json.dumps({k: v for k, v in (header | fields).items() if v is not None}).encode()
    return MAGIC + len(raw).to_bytes(4, "big") + raw + ciphertext


def _sealed_by_0_1_0(envelope: Envelope, content: bytes) -> bytes:
    """As that version wrote it: without ``aad``, and without `sensitive` in what it binds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.encryption.AAD_FORM", 1)
        patch.setattr(
            Place,
            "authenticated_data",
            lambda self, form=1, bound=Place.authenticated_data: bound(self, 1),
        )
        return _with_header(envelope.seal(content, PLACE), aad=None)


class TestEnvelope:
    @given(st.binary(max_size=100))
    def test_what_is_sealed_opens_at_its_place(self, content: bytes) -> None:
        envelope = Envelope(KEY)
        assert envelope.open(envelope.seal(content, PLACE), PLACE) == content
        assert envelope.open_text(envelope.seal_text(content, PLACE), PLACE) == content

    def test_it_is_the_drawn_format(self, sealed: bytes) -> None:
        header, ciphertext = _header(sealed)
        assert set(header) == {"kid", "wrap_nonce", "wrapped_key", "nonce", "generation", "aad"}
        assert len(ciphertext) == len(b"echo CANARY") + 16
        assert is_sealed(sealed)
        assert not is_sealed(b"echo CANARY")
        assert sealed_generation(sealed, "it") == 3
        assert b"CANARY" not in sealed

    def test_sensitive_is_part_of_what_is_authenticated(self) -> None:
        parts = json.loads(PLACE.authenticated_data())
        assert parts == ["ESCHERv1", "stop-rds", "1.0.0", "shell/stop.sh", 3, "sensitive"]

    def test_envelopes_of_0_1_0_still_open_and_only_as_such(self, envelope: Envelope) -> None:
        old = _sealed_by_0_1_0(envelope, b"echo CANARY")
        assert envelope.open(old, PLACE) == b"echo CANARY"
        for elsewhere in ELSEWHERE:
            with pytest.raises(IntegrityError):
                envelope.open(old, elsewhere)
        with pytest.raises(IntegrityError):
            envelope.open(_with_header(old, aad=2), PLACE)

    @pytest.mark.parametrize("form", [None, 1, 3, "2x"])
    def test_the_form_is_authenticated(
        self, envelope: Envelope, sealed: bytes, form: object
    ) -> None:
        with pytest.raises(IntegrityError):
            envelope.open(_with_header(sealed, aad=form), PLACE)

    def test_the_same_content_never_looks_the_same(self, envelope: Envelope) -> None:
        one, other = (_header(envelope.seal(b"x", PLACE))[0] for _ in range(2))
        for field in ("nonce", "wrap_nonce", "wrapped_key"):
            assert one[field] != other[field]

    @pytest.mark.parametrize("place", ELSEWHERE, ids=str)
    def test_it_opens_nowhere_else(self, place: Place, envelope: Envelope, sealed: bytes) -> None:
        with pytest.raises(IntegrityError, match="changed, swapped or rolled back"):
            envelope.open(sealed, place)

    def test_a_generation_that_is_only_claimed_does_not_help(
        self, envelope: Envelope, sealed: bytes
    ) -> None:
        claimed = _with_header(sealed, generation=4)
        with pytest.raises(IntegrityError):
            envelope.open(claimed, dataclasses.replace(PLACE, generation=4))

    def test_every_changed_byte_is_noticed(self, envelope: Envelope, sealed: bytes) -> None:
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1
            try:
                opened = envelope.open(bytes(changed), PLACE)
            except EscherError:
                continue
            # the header's own claim of a generation is not what counts
            assert opened == b"echo CANARY"
            assert _header(bytes(changed))[0].get("generation") != 3

    def test_every_cut_is_noticed(self, envelope: Envelope, sealed: bytes) -> None:
        for length in range(len(sealed)):
            with pytest.raises(IntegrityError):
                envelope.open(sealed[:length], PLACE)

    @pytest.mark.parametrize(
        "fields",
        [
            {"kid": None},
            {"nonce": None},
            {"wrapped_key": "?"},
            {"wrapped_key": 7},
            {"wrapped_key": ""},
            {"nonce": ""},
            {"wrap_nonce": "AAAA"},
            {"generation": "x"},
            {"generation": None},
            {"generation": []},
        ],
        ids=str,
    )
    def test_a_damaged_header_is_an_error_of_ours(
        self, fields: dict[str, object], envelope: Envelope, sealed: bytes
    ) -> None:
        with pytest.raises(IntegrityError, match=r"stop-rds@1\.0\.0 shell/stop\.sh"):
            envelope.open(_with_header(sealed, **fields), PLACE)

    def test_a_key_wrapped_for_another_content_does_not_fit(self, envelope: Envelope) -> None:
        one, other = envelope.seal(b"one", PLACE), envelope.seal(b"two", PLACE)
        with pytest.raises(IntegrityError):
            envelope.open(_with_header(one, **_header(other)[0]), PLACE)

    def test_another_key_is_said_to_be_one(self, sealed: bytes) -> None:
        other = Envelope(MasterKey(b"o" * 32))
        with pytest.raises(WrongKey, match=KEY.key_id) as refused:
            other.open(sealed, PLACE)
        assert other.key_id in refused.value.detail
        with pytest.raises(WrongKey):
            other.open(_with_header(sealed, kid=other.key_id), PLACE)

    def test_clear_content_where_sealed_is_expected(self, envelope: Envelope) -> None:
        with pytest.raises(IntegrityError, match="should be encrypted"):
            envelope.open(b"echo CANARY", PLACE)
        with pytest.raises(IntegrityError, match="not base64"):
            envelope.open_text("echo CANARY", PLACE)


class TestMasterKey:
    @pytest.mark.parametrize("length", [0, 16, 31, 33])
    def test_has_32_bytes(self, length: int) -> None:
        with pytest.raises(KeyUnavailable, match=f"{length} bytes"):
            MasterKey(b"k" * length)

    def test_shows_its_id_and_nothing_of_itself(self) -> None:
        for text in (repr(KEY), str(KEY), f"{KEY}", repr(Envelope(KEY)), str([KEY])):
            assert "CANARY" not in text
            assert KEY_TEXT not in text
        assert KEY.key_id in repr(KEY)
        assert MasterKey(b"o" * 32).key_id != KEY.key_id


def _settings(home: Path, **values: str) -> Settings:
    return Settings(home=home, **values)  # type: ignore[arg-type]


def _assert_silent(error: EscherError) -> None:
    """Neither the error nor what a traceback prints of its causes holds the key."""
    told = "".join(traceback.format_exception_only(error))
    for cause in (error.__cause__, None if error.__suppress_context__ else error.__context__):
        told += repr(cause)
    assert "CANARY" not in told
    assert KEY_TEXT not in told


def _first_key(home: str, barrier: object, results: object) -> None:
    barrier.wait(20)  # type: ignore[attr-defined]
    results.put(load_master_key(_settings(Path(home))).key)  # type: ignore[attr-defined]


class TestKeyFile:
    def test_is_made_once_and_only_for_its_owner(self, tmp_path: Path) -> None:
        settings = _settings(tmp_path / "home")
        key = load_master_key(settings)
        assert load_master_key(settings, create=False) == key
        assert settings.key_path.stat().st_mode & 0o777 == 0o600
        assert settings.key_path.parent.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in settings.key_path.parent.iterdir()] == ["master.key"]

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
    def test_is_refused_when_others_can_read_it(self, mode: int, tmp_path: Path) -> None:
        settings = _settings(tmp_path)
        load_master_key(settings)
        settings.key_path.chmod(mode)
        with pytest.raises(KeyUnavailable, match="read by others") as refused:
            load_master_key(settings)
        assert refused.value.remedy == f"chmod 600 {settings.key_path}"

    def test_is_not_made_anew_where_sealed_content_needs_the_old_one(self, tmp_path: Path) -> None:
        settings = _settings(tmp_path)
        with pytest.raises(KeyUnavailable, match="not there"):
            load_master_key(settings, create=False)
        assert not settings.key_path.exists()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff",
            b"CANARY",
            b"[]",
            b"7",
            b"{}",
            b'{"version": 1, "key": "CANARY?"}',
            b'{"version": 1, "key": "Q0FOQVJZ"}',
            b'{"version": 1, "key": 7}',
            b'{"version": 1, "key": null}',
        ],
    )
    def test_that_is_damaged_is_never_overwritten(self, content: bytes, tmp_path: Path) -> None:
        settings = _settings(tmp_path)
        load_master_key(settings)
        settings.key_path.write_bytes(content)
        with pytest.raises(KeyUnavailable) as refused:
            load_master_key(settings)
        _assert_silent(refused.value)
        assert settings.key_path.read_bytes() == content

    def test_processes_that_make_the_first_one_agree(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("fork")
        barrier, results = context.Barrier(6), context.Queue()
        processes = [
            context.Process(target=_first_key, args=(str(tmp_path), barrier, results))
            for _ in range(6)
        ]
        for process in processes:
            process.start()
        keys = {results.get(timeout=20) for _ in processes}
        for process in processes:
            process.join(20)
        assert keys == {load_master_key(_settings(tmp_path), create=False).key}


@pytest.fixture
def keyring(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str]:
    """The package keyring with a dictionary behind it."""
    stored: dict[tuple[str, str], str] = {}

    def get_password(service: str, name: str) -> str | None:
        return stored.get((service, name))

    def set_password(service: str, name: str, value: str) -> None:
        stored[service, name] = value

    module, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
    vars(errors).update(KeyringError=type("KeyringError", (Exception,), {}))
    vars(module).update(get_password=get_password, set_password=set_password, errors=errors)
    monkeypatch.setitem(sys.modules, "keyring", module)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    return stored


class TestOtherSources:
    def test_the_environment(self, tmp_path: Path) -> None:
        settings = _settings(tmp_path, encryption_key_source="env", encryption_key=f"{KEY_TEXT}\n")
        assert load_master_key(settings) == KEY
        assert not settings.key_path.exists()

    @pytest.mark.parametrize("value", [None, "CANARY, not base64", KEY_TEXT[:-8]])
    def test_an_environment_without_a_key(self, value: str | None, tmp_path: Path) -> None:
        values = {} if value is None else {"encryption_key": value}
        with pytest.raises(KeyUnavailable) as refused:
            load_master_key(_settings(tmp_path, encryption_key_source="env", **values))
        _assert_silent(refused.value)
        assert "base64" in refused.value.remedy

    def test_a_command(self, tmp_path: Path) -> None:
        command = f"{sys.executable} -c \"print('{KEY_TEXT}')\""
        settings = _settings(
            tmp_path, encryption_key_source="command", encryption_key_command=command
        )
        assert load_master_key(settings) == KEY

    @pytest.mark.parametrize(
        "command",
        [
            "",
            "/no/such/program CANARY",
            f"sh -c 'echo {KEY_TEXT}; echo CANARY >&2; exit 3'",
            "sh -c 'echo CANARY'",
            f"echo '{KEY_TEXT}",
            "printf '\\377CANARY'",
        ],
        ids=["none", "not there", "fails", "not base64", "unbalanced quote", "not UTF-8"],
    )
    def test_a_command_that_gives_no_key(self, command: str, tmp_path: Path) -> None:
        settings = _settings(
            tmp_path, encryption_key_source="command", encryption_key_command=command
        )
        with pytest.raises(KeyUnavailable) as refused:
            load_master_key(settings)
        _assert_silent(refused.value)

    def test_the_keyring(self, tmp_path: Path, keyring: dict[tuple[str, str], str]) -> None:
        settings = _settings(tmp_path, encryption_key_source="keyring")
        with pytest.raises(KeyUnavailable, match="holds no key"):
            load_master_key(settings, create=False)
        key = load_master_key(settings)
        assert load_master_key(settings, create=False) == key
        assert list(keyring) == [("escher-playbook-service", str(tmp_path))]
        other = _settings(tmp_path / "other", encryption_key_source="keyring")
        assert load_master_key(other) != key, "every home has its own"

    def test_a_locked_keyring(
        self, tmp_path: Path, keyring: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def locked(*_: str) -> str:
            raise sys.modules["keyring.errors"].KeyringError("CANARY")

        monkeypatch.setattr(sys.modules["keyring"], "get_password", locked)
        with pytest.raises(KeyUnavailable, match="KeyringError") as refused:
            load_master_key(_settings(tmp_path, encryption_key_source="keyring"))
        assert "CANARY" not in str(refused.value)

    def test_no_keyring_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "keyring", None)
        with pytest.raises(KeyUnavailable, match="not installed"):
            load_master_key(_settings(tmp_path, encryption_key_source="keyring"))
