from __future__ import annotations

import pytest

from core.errors import HomeMismatch, StorageError
from core.journal import Journal

URL, TENANT = "https://escher.example", "acme"


def test_a_home_has_an_id_of_its_own_for_good(journal_url, journal, new_journal_url):
    again = Journal(journal_url)
    assert again.home_id == journal.home_id
    again.close()
    other = Journal(new_journal_url())
    assert other.home_id != journal.home_id
    other.close()


def test_a_home_belongs_to_the_first_server_and_tenant(journal_url, journal):
    journal.bind(URL, TENANT)
    journal.bind(URL, TENANT)
    again = Journal(journal_url)
    for server, tenant, named in (("https://other.example", TENANT, "server_url"),
                                  (URL, "other", "tenant_id")):  # fmt: skip
        with pytest.raises(HomeMismatch, match=named) as refused:
            again.bind(server, tenant)
        assert "ESCHER_HOME" in refused.value.remedy
    again.bind(URL, TENANT)
    again.close()


def test_a_journal_of_another_format_is_left_alone(journal_url, journal):
    journal.facts.set("format_version", "999")
    with pytest.raises(StorageError, match="999"):
        Journal(journal_url)
    assert journal.facts.get("format_version") == "999"


def test_facts(journal):
    facts = journal.facts
    assert facts.get("x") is None
    assert facts.set_once("x", "1") == "1"
    assert facts.set_once("x", "2") == "1"
    facts.set("x", "3")
    assert facts.get("x") == "3"
    facts.remove("x")
    facts.remove("x")
    assert facts.get("x") is None
