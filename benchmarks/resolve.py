"""How fast a script is resolved: from disk, from the cache, and downloaded cold.

    python benchmarks/resolve.py [--versions 30000] [--sample 1000] [--rounds 5] [--cold 1000]

Warm: a home that knows ``--versions`` versions, each with a shell script of 2 KB, and a cache with
``--sample`` entries besides (`resolve_corpus` writes both). ``--sample`` versions are resolved in
random order, by turns with ``pooch.retrieve``, which hashes the file too but is told its name and
digest, and with the cache look-ups of ``huggingface_hub``, which hash nothing, on the same files.
Each round is a new process that has resolved one other script:

- first: it is asked for each script for the first time;
- again: for each once more, in another order, nobody having written to the journal since.

All files are in the page cache. "CPU" is the process' CPU time for one call, the mean of a round,
the median of the rounds: a busy machine changes it less than the time on the clock.

Cold: ``--cold`` published scripts from the reference server by ``download`` and ``verify`` of `ScriptDownloads`, the path
of the workers, each round into a new home; beside it a bare loop of ``requests`` with as many
connections, which asks for the listing, then for the bytes, and writes them to a file.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from resolve_cold import cold
from resolve_corpus import (
    PATH,
    Competitors,
    cached_name,
    fill_cache,
    fill_home,
    link_for_others,
    name,
)

from core.service import PlaybookService
from core.settings import Settings

# by name: microseconds of each call, and the mean CPU microseconds of one
Figures = dict[str, tuple[list[float], float]]
Contestant = tuple[Callable[[str], object], list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=30_000)
    parser.add_argument("--sample", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", type=int, default=1000)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="escher-bench-"))
    try:
        print_load()
        warm(folder, asked.versions, min(asked.sample, asked.versions - 1), asked.rounds)
        print_load()
        if asked.cold:
            cold(folder / "cold", asked.cold, asked.rounds)
            print_load()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def print_load() -> None:
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def settings_of(folder: Path) -> Settings:
    return Settings(home=folder / "home", server_url="http://127.0.0.1:9", cache_max_size_mb=500)


def warm(folder: Path, versions: int, sample: int, rounds: int) -> None:
    chosen = random.Random(1).sample(range(versions), sample + 1)
    with PlaybookService.open(settings_of(folder)) as service:
        fill_home(service, versions)
        fill_cache(service, chosen)
        competitors = link_for_others(folder / "others", service, chosen)
    first: list[Figures] = []
    again: list[Figures] = []
    for number in range(rounds):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            taken = process.submit(one_round, folder, competitors, chosen, number).result()
        first.append(taken[0])
        again.append(taken[1])
    print(f"warm: {sample} of {versions} known versions, {rounds} rounds by turns; microseconds")
    print(
        f"  {'':32}{'first: median':>14}{'p99':>7}{'CPU':>6}{'again: median':>16}{'p99':>7}{'CPU':>6}"
    )
    for title in first[0]:
        (a, b, c), (d, e, f) = (summary(title, taken) for taken in (first, again))
        print(f"  {title:32}{a:14.0f}{b:7.0f}{c:6.0f}{d:16.0f}{e:7.0f}{f:6.0f}")


def summary(title: str, rounds: Sequence[Figures]) -> tuple[float, float, float]:
    """Median and 99th percentile over all rounds, and the median round's CPU."""
    calls = [figure for taken in rounds for figure in taken[title][0]]
    cpu = statistics.median(taken[title][1] for taken in rounds)
    return statistics.median(calls), statistics.quantiles(calls, n=100)[98], cpu


def one_round(
    folder: Path, competitors: Competitors, chosen: Sequence[int], number: int
) -> tuple[Figures, Figures]:
    """First and again, of every contestant; runs in a process of its own."""
    logging.disable(logging.WARNING)
    rng = random.Random(number)
    figures: tuple[Figures, Figures] = ({}, {})
    with PlaybookService.open(settings_of(folder)) as service:
        contestants = all_contestants(service, competitors, chosen)
        order = list(contestants)
        rng.shuffle(order)  # whoever comes first meets another machine than whoever comes last
        for title in order:
            call, (other, *ids) = contestants[title]
            call(other)
            for taken in figures:
                rng.shuffle(ids)
                taken[title] = measure(call, ids)
    first, again = ({title: taken[title] for title in contestants} for taken in figures)
    return first, again


def measure(call: Callable[[str], object], ids: Sequence[str]) -> tuple[list[float], float]:
    taken = []
    cpu = time.process_time_ns()
    for playbook_id in ids:
        began = time.perf_counter_ns()
        call(playbook_id)
        taken.append((time.perf_counter_ns() - began) / 1000)
    return taken, (time.process_time_ns() - cpu) / 1000 / len(ids)


def all_contestants(
    service: PlaybookService, competitors: Competitors, chosen: Sequence[int]
) -> dict[str, Contestant]:
    import huggingface_hub
    import pooch

    pooch.get_logger().disabled = True
    hub, pooch_folder, hashes = competitors.hub, competitors.pooch_folder, competitors.hashes
    ids = [name(number) for number in chosen]
    half = len(ids) // 2  # no version is asked for both ways: each is a first look-up

    def by_version(playbook_id: str) -> object:
        return service.resolve_script(playbook_id, "shell", "1.0.0")

    def latest(playbook_id: str) -> object:
        return service.resolve_script(playbook_id, "shell")

    def retrieve(playbook_id: str) -> object:
        return pooch.retrieve(
            "https://example.invalid/main.sh",
            known_hash=hashes[playbook_id],
            fname=f"{playbook_id}.sh",
            path=pooch_folder,
        )

    def look_up(playbook_id: str) -> object:
        found = huggingface_hub.try_to_load_from_cache(
            f"escher/{playbook_id}", PATH, cache_dir=hub, revision="main"
        )
        assert isinstance(found, str)
        return found

    def local_only(playbook_id: str) -> object:
        return huggingface_hub.hf_hub_download(
            f"escher/{playbook_id}", PATH, cache_dir=hub, local_files_only=True
        )

    return {
        "disk, id and version": (by_version, ids[:half]),
        "disk, latest": (latest, ids[half:]),
        "cache": (by_version, [cached_name(number) for number in chosen]),
        "pooch.retrieve": (retrieve, ids),
        "hf try_to_load_from_cache": (look_up, ids),
        "hf hf_hub_download, local only": (local_only, ids),
    }


if __name__ == "__main__":
    main()
