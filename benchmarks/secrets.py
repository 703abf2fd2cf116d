"""How much of what is secret the scanner finds, how much of what is harmless it flags, how fast it is.

    python benchmarks/secrets.py generated [--seeds 20] [--first 0]
    python benchmarks/secrets.py lines FOLDER…      # true/ and false/: a secret a line of main.sh, or a file
    python benchmarks/secrets.py folder FOLDER [--show]
    python benchmarks/secrets.py corpus ARCHIVE [--show]

``generated`` draws the forms of `tests/support/secret_forms.py`: a true one is found when a certain finding stands at
its line; a harmless one is flagged by any finding in its file. ``lines`` reads folders as
`make_secrets.py` of the shared cases writes them. ``folder`` and ``corpus`` count findings in real
playbooks, by degree and kind; a playbook is a folder below ``playbooks/``, else each folder with files.
``--show`` names the places; the values stand in the files alone. CPU time is that of `scan_content`.
"""

from __future__ import annotations

import sys
import sysconfig
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if __name__ != "__main__":
    # The folder of a benchmark is the first on its path, so whoever imports the standard library's
    # `secrets` there comes here.
    _spec = spec_from_file_location("secrets", Path(sysconfig.get_path("stdlib")) / "secrets.py")
    assert _spec
    assert _spec.loader
    sys.modules[__name__] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
else:
    ROOT = Path(__file__).resolve().parent.parent
    sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

    import argparse
    import json
    import tarfile
    import time
    from collections import Counter
    from collections.abc import Iterable, Iterator
    from dataclasses import dataclass, field

    from support.secret_forms import Case, harmless_cases, true_cases

    from core.secrets import Degree, Spot
    from core.secrets.scanner import scan_content, scanner_version

    @dataclass
    class Timed:
        """Scans, and counts bytes and processor time."""

        size: int = 0
        seconds: float = 0.0
        slowest: float = 0.0

        def scan(self, path: str, content: bytes) -> list[Spot]:
            started = time.process_time()
            spots = scan_content(path, content)
            took = time.process_time() - started
            self.size += len(content)
            self.seconds += took
            self.slowest = max(self.slowest, took)
            return spots

        def as_json(self) -> dict[str, float]:
            megabytes = self.size / 1e6
            return {
                "megabytes": round(megabytes, 3),
                "cpu_seconds": round(self.seconds, 3),
                "cpu_seconds_per_megabyte": round(self.seconds / max(megabytes, 1e-9), 3),
                "slowest_file_seconds": round(self.slowest, 3),
            }

    def generated(first: int, seeds: int) -> dict[str, object]:
        timed = Timed()
        total: Counter[str] = Counter()
        wrong: Counter[str] = Counter()
        for seed in range(first, first + seeds):
            for case in true_cases(seed):
                total["true"] += 1
                if not _is_found(case, timed.scan(case.path, case.content)):
                    wrong[f"missed: {case.form}"] += 1
            for case in harmless_cases(seed):
                total["harmless"] += 1
                if timed.scan(case.path, case.content):
                    wrong[f"flagged: {case.form}"] += 1
        return _rates(total, wrong) | timed.as_json()

    def _is_found(case: Case, spots: list[Spot]) -> bool:
        return any(s.line == case.line and s.degree is Degree.CERTAIN for s in spots)

    def lines(folders: Iterable[Path]) -> dict[str, object]:
        timed = Timed()
        total: Counter[str] = Counter()
        wrong: Counter[str] = Counter()
        for folder in folders:
            for path in sorted((folder / "true").iterdir()):
                spots = timed.scan(path.name, path.read_bytes())
                certain = {spot.line for spot in spots if spot.degree is Degree.CERTAIN}
                if path.name != "main.sh":
                    total["true"] += 1
                    wrong[f"missed: {path.name}"] += not certain
                    continue
                for number in range(2, path.read_bytes().count(b"\n") + 1):
                    total["true"] += 1
                    wrong[f"missed: line {number}"] += number not in certain
            for path in sorted((folder / "false").iterdir()):
                total["harmless"] += path.read_bytes().count(b"\n") - 1
                for line in {spot.line for spot in timed.scan(path.name, path.read_bytes())}:
                    wrong[f"flagged: line {line}"] += 1
        return _rates(total, wrong) | timed.as_json()

    def _rates(total: Counter[str], wrong: Counter[str]) -> dict[str, object]:
        missed = sum(count for form, count in wrong.items() if form.startswith("missed"))
        flagged = sum(count for form, count in wrong.items() if form.startswith("flagged"))
        return {
            "true": total["true"],
            "found": total["true"] - missed,
            "found_share": round(1 - missed / max(total["true"], 1), 4),
            "harmless": total["harmless"],
            "flagged": flagged,
            "flagged_share": round(flagged / max(total["harmless"], 1), 4),
            "wrong": {form: count for form, count in sorted(wrong.items()) if count},
        }

    @dataclass
    class Counted:
        """Findings by degree and kind, and the playbooks that have some."""

        files: int = 0
        playbooks: set[str] = field(default_factory=set)
        having: dict[str, set[str]] = field(default_factory=dict)
        kinds: Counter[str] = field(default_factory=Counter)

    def real(contents: Iterable[tuple[str, bytes]], *, show: bool) -> dict[str, object]:
        timed, counted = Timed(), Counted()
        for path, content in contents:
            counted.files += 1
            playbook = _playbook(path)
            counted.playbooks.add(playbook)
            for spot in timed.scan(path, content):
                counted.kinds[f"{spot.degree}: {spot.kind}"] += 1
                counted.having.setdefault(spot.degree.value, set()).add(playbook)
                if show:
                    print(f"{path}:{spot.line}: {spot.kind} ({spot.degree})", file=sys.stderr)
        found: dict[str, object] = {
            "files": counted.files,
            "playbooks": len(counted.playbooks),
            "playbooks_with": {degree: len(names) for degree, names in counted.having.items()},
            "findings": dict(counted.kinds.most_common()),
        }
        return found | timed.as_json()

    def _playbook(path: str) -> str:
        parts = Path(path).parts
        if "playbooks" in parts[:-1]:
            return parts[parts.index("playbooks") + 1]
        return str(Path(path).parent)

    def in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not path.is_symlink() and ".git" not in inside.parts:
                yield str(inside), path.read_bytes()

    def in_archive(archive: Path) -> Iterator[tuple[str, bytes]]:
        with tarfile.open(archive) as opened:
            for member in opened:
                content = opened.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name, content.read()

    def main() -> None:
        parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
        modes = parser.add_subparsers(dest="mode", required=True)
        drawn = modes.add_parser("generated")
        drawn.add_argument("--seeds", type=int, default=20)
        drawn.add_argument("--first", type=int, default=0)
        modes.add_parser("lines").add_argument("folders", type=Path, nargs="+")
        for name in ("folder", "corpus"):
            mode = modes.add_parser(name)
            mode.add_argument("path", type=Path)
            mode.add_argument("--show", action="store_true")
        asked = parser.parse_args()
        if asked.mode == "generated":
            found = generated(asked.first, asked.seeds)
        elif asked.mode == "lines":
            found = lines(asked.folders)
        else:
            contents = in_folder if asked.mode == "folder" else in_archive
            found = real(contents(asked.path), show=asked.show)
        print(json.dumps({"scanner": scanner_version()} | found, indent=2))

    main()
