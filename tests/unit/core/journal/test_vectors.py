from __future__ import annotations

import struct


def test_a_vector_comes_back_to_the_last_bit(journal):
    vector = [struct.unpack("<f", struct.pack("<f", value))[0] for value in (0.1, -1e-30, 3e38)]
    journal.vectors.put_many({"k": vector})
    journal.vectors.put_many({"k": [0.0], "other": [1.0]})  # the same text, at the same time
    journal.vectors.put_many({})
    assert journal.vectors.get_many(["k", "other", "missing"]) == {"k": vector, "other": [1.0]}
    assert journal.vectors.get_many([]) == {}


def test_more_keys_than_a_statement_takes(journal):
    journal.vectors.put_many({str(number): [float(number)] for number in range(900)})
    found = journal.vectors.get_many([str(number) for number in range(1000)])
    assert len(found) == 900
    assert found["899"] == [899.0]
