"""Can the checks of scripts be believed? False alarms on real scripts, planted faults, and their cost.

    python -m benchmarks.checks [--corpus FOLDER | --folder FOLDER] [--seed N] [--plant N] [--show]

Without ``--folder`` the scripts are the corpus' (default ``../shared/corpus``), whose table of known faults
says which warnings are right. Of a folder every file is taken that has a format's suffix or a ``#!`` line
of a shell, and every warning has to be read: ``--show`` prints them. ``--plant N`` (default 100) plants each
kind of fault into N sound files, drawn with the seed, and counts those that get a warning. Under a minute.
"""

from __future__ import annotations

import argparse
import csv
import resource
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.planted_faults import FAULTS

from core import sandbox
from core.playbooks.checks import ScriptWarning, check_scripts
from core.playbooks.checks.kinds import kind_of
from core.playbooks.checks.templates import holds_template

FORMATS = ("shell", "cloudformation", "arm", "terraform", "python")
BATCH = 200
SUFFIXES = {
    "shell": (".sh", ".bash", ".ksh", ".zsh"),
    "cloudformation": (".yaml", ".yml", ".template", ".json"),
    "arm": (".json",),
    "terraform": (".tf", ".tofu", ".tfvars", ".tf.json"),
    "python": (".py",),
}

Files = dict[str, bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--folder", type=Path, help="any folder, in place of the corpus")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--plant", type=int, default=100, help="files for each kind of fault; 0: none"
    )
    parser.add_argument("--show", action="store_true", help="print each warning")
    options = parser.parse_args()
    known: set[str] = set()
    if options.folder:
        files = dict(of_folder(options.folder))
    else:
        files = dict(of_corpus(options.corpus))
        known = known_faults(options.corpus)
    warned = judge(files, known, show=options.show)
    if options.plant:
        sound = {path: content for path, content in files.items() if path not in warned}
        plant(sound, options.seed, options.plant)


def of_corpus(corpus: Path) -> Iterator[tuple[str, bytes]]:
    """``format/<id>/<version>/<file>`` and content, of each script."""
    with tarfile.open(corpus / "corpus.tar.gz") as archive:
        for member in archive:
            parts = member.name.split("/", 4)  # playbooks/<id>/v1.0.0/<format>/<file>
            if member.isfile() and len(parts) == 5 and parts[3] in FORMATS:
                content = archive.extractfile(member)
                assert content is not None
                yield f"{parts[3]}/{parts[1]}/{parts[2]}/{parts[4]}", content.read()


def known_faults(corpus: Path) -> set[str]:
    """Files that do not parse; those that are only no strict JSON are sound to Azure."""
    with (corpus / "syntax_issues.tsv").open() as table:
        rows = csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = [row["file"].split("/", 3) for row in rows if row["check"] != "json-strict"]
    return {f"{format_}/{id_}/{version}/{name}" for id_, version, format_, name in names}


def of_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a folder under each format that may judge it."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if ".git" in relative.parts or path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        for format_, suffixes in SUFFIXES.items():
            is_script = format_ == "shell" and not path.suffix and content.startswith(b"#!")
            if is_script or path.name.endswith(suffixes):
                yield f"{format_}/{relative.as_posix()}", content


def warnings_of(files: Files) -> list[ScriptWarning]:
    """As of one playbook after the other."""
    paths = list(files)
    found = []
    for start in range(0, len(paths), BATCH):
        found += check_scripts({path: files[path] for path in paths[start : start + BATCH]})
    return found


def judge(files: Files, known: set[str], *, show: bool) -> set[str]:
    """Print what is said of the files as they are; those that something is said of."""
    began, cpu = time.monotonic(), _cpu()
    found = warnings_of(files)
    sandbox._pool.stop()  # noqa: SLF001 - the time of children counts when they have ended
    seconds, cpu = time.monotonic() - began, _cpu() - cpu
    judged = Counter(path.split("/")[0] for path, body in files.items() if is_judged(path, body))
    alarms, notes, agreed = Counter(), Counter(), 0
    first = {warning.path: warning for warning in reversed(found)}
    for path, warning in first.items():
        format_ = path.split("/")[0]
        if "not checked" in warning.message:
            notes[format_] += 1
        elif path in known:
            agreed += 1
        else:
            alarms[format_] += 1
        if show and path not in known:
            print(warning.as_text())
    print(
        f"{len(files)} files, {seconds:.1f} s, {1000 * cpu / max(len(files), 1):.2f} ms of CPU a file"
    )
    print(f"{'':16}{'judged':>8}{'warned':>8}{'not checked':>13}")
    for format_ in FORMATS:
        print(f"{format_:16}{judged[format_]:8}{alarms[format_]:8}{notes[format_]:13}")
    if known:
        missed = known - first.keys()
        print(f"known faults: {agreed} of {len(known)} found; warned beside them: {alarms.total()}")
        for path in sorted(missed):
            print("  missed", path)
    return set(first)


def is_judged(path: str, content: bytes) -> bool:
    """Whether a parser's word about a file counts: a template, or a script of a language that is read."""
    judge = kind_of(path, content).judge
    if judge == "cloudformation":
        return holds_template(path, content.decode("utf-8-sig", "replace"))
    return b"eploymentTemplate.json" in content if judge == "arm" else judge is not None


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def plant(sound: Files, seed: int, count: int) -> None:
    """Print how many planted faults of each kind are found."""
    print(f"\nplanted faults, seed {seed}{'':12}{'planted':>8}{'found':>8}")
    for format_, kinds in FAULTS.items():
        own = [path for path in sound if path.startswith(f"{format_}/") and _is_sound(path, sound)]
        for name, fault in kinds.items():
            random = Random(f"{seed} {format_} {name}")
            planted: Files = {}
            for path in random.sample(own, len(own)):
                if len(planted) == count:
                    break
                try:
                    broken = fault(sound[path].decode(), random)
                except (UnicodeDecodeError, SyntaxError, ValueError):
                    continue
                if broken is not None:
                    planted[path] = broken.encode()
            said = {w.path for w in warnings_of(planted) if "not checked" not in w.message}
            print(f"  {format_:16}{name:20}{len(planted):8}{len(said):8}")
            for path in list(planted.keys() - said)[:3]:
                print(f"      missed in {path}")


def _is_sound(path: str, files: Files) -> bool:
    kind, content = kind_of(path, files[path]), files[path]
    if kind.judge == "cloudformation":
        return b"AWSTemplateFormatVersion" in content and not path.endswith(".json")
    if kind.judge == "arm":
        return b"deploymentTemplate.json" in content
    return kind.judge not in {None, "json"}


if __name__ == "__main__":
    main()
