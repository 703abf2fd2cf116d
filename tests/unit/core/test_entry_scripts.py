"""The one rule for the entry script, and the forms in which a path may be given."""

from __future__ import annotations

import pytest

from core.entry_scripts import by_rule, entry_script, given_entry, stored_entry

NOTHING = frozenset[str]()


def entry(format_: str, *paths: str, scripts: frozenset[str] = NOTHING) -> str | None:
    """The entry among paths of the format's folder; ``scripts`` begin with ``#!``."""
    whole = {f"{format_}/{path}" for path in scripts}
    found = entry_script(format_, [f"{format_}/{path}" for path in paths], whole.__contains__)
    return None if found.path is None else found.path.removeprefix(f"{format_}/")


@pytest.mark.parametrize(
    ("format_", "paths", "expected"),
    [
        # candidates by format
        ("shell", ["a.txt", "b.sh"], "b.sh"),
        ("shell", ["x.bash", "notes"], "x.bash"),
        ("shell", ["x.ksh", "data.json"], "x.ksh"),
        ("shell", ["x.zsh", "x.py"], "x.zsh"),
        ("cloudformation", ["stack.template", "a.sh"], "stack.template"),
        ("cloudformation", ["stack.yml", "policy.txt"], "stack.yml"),
        ("arm", ["a.yaml", "site.bicep"], "site.bicep"),
        ("python", ["a.pyc", "b.pyi", "tool.py", "main.json"], "tool.py"),
        # none are
        ("shell", [".hidden.sh", "z.sh"], "z.sh"),
        ("shell", ["README.sh", "LICENSE.sh", "z.sh"], "z.sh"),
        ("shell", ["test_a.sh", "a_test.sh", "a.bats", "z.sh"], "z.sh"),
        ("shell", ["test_connection.sh"], None),
        ("shell", ["tests/main.sh"], None),
        ("python", ["__init__.py", "setup.py", "conftest.py", "z.py"], "z.py"),
        ("python", ["__init__.py"], None),
        ("cloudformation", ["a.parameters.json", "params-prod.json", "z.json"], "z.json"),
        ("cloudformation", ["template.params.json", "template.yaml"], "template.yaml"),
        ("arm", ["azuredeploy.parameters.json", "azuredeploy.json"], "azuredeploy.json"),
        (
            "cloudformation",
            ["package-lock.json", "poetry.lock.json", "z.yaml"],
            "package-lock.json",
        ),
        # of the candidates at the top, in this order
        ("shell", ["run.sh", "index.sh", "handler.sh", "main.sh"], "main.sh"),
        ("cloudformation", ["azuredeploy.json", "template.yaml", "a.yaml"], "template.yaml"),
        ("arm", ["handler.json", "azuredeploy.json", "a.json"], "azuredeploy.json"),
        ("python", ["index.py", "handler.py", "a.py"], "handler.py"),
        ("shell", ["run.sh", "index.sh", "a.sh"], "index.sh"),
        ("shell", ["a.sh", "run.sh"], "run.sh"),
        ("shell", ["a.sh", "Main.SH"], "Main.SH"),
        ("shell", ["lib/main.sh", "stop.sh"], "stop.sh"),
        ("shell", ["a/main.sh", "a/b.sh", "notes.txt"], "a/main.sh"),
        ("shell", ["lib/b.sh", "lib/a.sh", "a.txt"], "lib/a.sh"),
        ("shell", ["a/b/main.sh"], None),
        ("shell", [".git/main.sh", "tests/run.sh", "bin/go.sh"], "bin/go.sh"),
        # Terraform runs in its folder
        ("terraform", ["backend/main.tf", "main.tf", "main.auto.tfvars"], "main.tf"),
        ("terraform", ["a.tf", "b.tf", "modules/x/main.tf", "vpc/main.tf"], "a.tf"),
        ("terraform", ["variables.tf", "versions.tf", "network.tf", "outputs.tf"], "network.tf"),
        ("terraform", ["z.tf", "a.tf.json"], "z.tf"),
        ("terraform", ["z.tf", "main.tf.json"], "main.tf.json"),
        ("terraform", ["prod/main.tf", "README.md"], "prod/main.tf"),
        ("terraform", ["run.tf", "a.tf"], "a.tf"),
        ("terraform", [".terraform/modules/vpc/main.tf", "x.tfvars"], None),
        ("shell", [], None),
    ],
)
def test_the_rule(format_: str, paths: list[str], expected: str | None) -> None:
    assert entry(format_, *paths) == expected
    assert entry(format_, *reversed(paths)) == expected


@pytest.mark.parametrize(
    ("paths", "scripts", "expected"),
    [
        (["stop", "notes"], {"stop"}, "stop"),
        (["Makefile"], set(), None),
        (["main.py", "main.sh"], {"main.py"}, "main.sh"),
        (["main.pl", "a.sh"], {"main.pl"}, "main.pl"),
        (["bin/go", "README"], {"bin/go"}, "bin/go"),
        (["main.json", "main.py"], set(), None),
    ],
)
def test_what_begins_with_an_interpreter_is_a_script(
    paths: list[str], scripts: set[str], expected: str | None
) -> None:
    assert entry("shell", *paths, scripts=frozenset(scripts)) == expected


def test_the_interpreter_counts_in_the_shell_folder_alone() -> None:
    assert entry("python", "run", scripts=frozenset({"run"})) is None


@pytest.mark.parametrize(
    ("format_", "paths", "words"),
    [
        ("shell", ["b.sh", "a.sh"], "shell/a.sh is taken"),
        ("shell", ["x/main.sh", "y/main.sh"], "several folders"),
        ("terraform", ["x/main.tf", "y/main.tf"], "several folders"),
        ("shell", ["Makefile"], "no entry script"),
        ("python", ["__init__.py"], "no entry script"),
        ("shell", ["main.sh", "a.sh"], None),
        ("shell", ["only.sh"], None),
        ("terraform", ["a.tf", "b.tf"], None),
        ("shell", [], None),
    ],
)
def test_a_guess_is_said(format_: str, paths: list[str], words: str | None) -> None:
    _, warning = entry_script(format_, [f"{format_}/{path}" for path in paths], lambda _: False)
    assert (words is None) == (warning is None)
    assert words is None or words in str(warning)


class TestGivenPaths:
    PATHS = frozenset(
        {"shell/run.sh", "shell/a:b.sh", "shell/lib/x.sh", "shell/shell/y.sh", "shell/é.sh"}
    )

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("run.sh", "shell/run.sh"),
            ("./run.sh", "shell/run.sh"),
            ("shell/run.sh", "shell/run.sh"),
            ("./shell/run.sh", "shell/run.sh"),
            ("shell\\run.sh", "shell/run.sh"),
            (".\\shell\\run.sh", "shell/run.sh"),
            ("lib\\x.sh", "shell/lib/x.sh"),
            ("shell/./lib/./x.sh", "shell/lib/x.sh"),
            ("a:b.sh", "shell/a:b.sh"),
            ("shell/y.sh", "shell/shell/y.sh"),
            ("e\u0301.sh", "shell/é.sh"),
        ],
    )
    def test_come_in_one_form(self, given: str, expected: str) -> None:
        assert given_entry("shell", given, self.PATHS) == expected

    @pytest.mark.parametrize(
        "given",
        ["", ".", "shell", "gone.sh", "../shell/run.sh", "lib/../run.sh", "/run.sh", "C:\\run.sh",
         "C:run.sh", "run.sh/", "lib//x.sh", "python/run.sh"],
    )  # fmt: skip
    def test_others_are_not_there(self, given: str) -> None:
        assert given_entry("shell", given, self.PATHS) is None


class TestStoredVersions:
    PATHS = ("shell/a.sh", "shell/main.sh")

    @pytest.mark.parametrize(
        "entries", [None, {}, {"shell": None}, {"shell": 3}, [], "x", {"arm": "x"}]
    )
    def test_without_an_entry_the_rule_tells(self, entries: object) -> None:
        assert stored_entry("shell", self.PATHS, entries, lambda _: False) == (
            "shell/main.sh",
            None,
        )

    def test_what_they_say_stands(self) -> None:
        found = stored_entry("shell", self.PATHS, {"shell": "./a.sh"}, lambda _: False)
        assert found == ("shell/a.sh", None)

    def test_of_one_that_is_not_there_the_rule_tells_and_it_is_said(self) -> None:
        path, warning = stored_entry("shell", self.PATHS, {"shell": "gone.sh"}, lambda _: False)
        assert path == "shell/main.sh"
        assert "gone.sh" in str(warning)

    def test_what_the_rule_would_find_may_be_its_work(self) -> None:
        entries = {"shell": "shell/main.sh", "python": "python/b.py", "arm": 3}
        paths = {*self.PATHS, "python/a.py", "python/b.py", "arm/a.json"}
        assert by_rule({"entry_points": entries}, paths) == ("shell",)
        assert by_rule({"entry_points": []}, paths) == by_rule({}, paths) == ()
