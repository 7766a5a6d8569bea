"""What the documents say is true: the table of papers, the code, the commands."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_papers_is_the_one_of_catalog_and_evidence():
    assert script("tools/readme.py").updated(README) == README, "run `make readme`"


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", README))))
def test_the_code_of_the_readme_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    exec(compile(code.replace("100 steps", "3 steps"), "README.md", "exec"), {})


def test_the_commands_of_the_readme_exist():
    from anabranch import catalog, cli, data

    commands = {command.name for command in cli.app.registered_commands}
    for command, argument in re.findall(r"^anabranch (\w+) ?([\w.-]*)", README, re.MULTILINE):
        assert command in commands
        if command in ("show", "verify"):
            assert argument in catalog.papers()
        if command == "compare" and "." not in argument:
            assert argument in data.builtin()
    listed = re.search(r"built-in task \((.*?)\)", README, re.DOTALL)
    assert listed is not None and set(re.findall(r"`(.*?)`", listed[1])) == set(data.builtin())


def test_the_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:src|tests)/[\w/.]+\.py)`", text):
        assert (ROOT / path).is_file(), path


def test_the_site_has_a_page_for_every_paper(tmp_path, monkeypatch):
    from anabranch import catalog

    build = script("docs/build.py")
    monkeypatch.setattr(build, "SITE", tmp_path / "site")
    build.build()
    home = (tmp_path / "site" / "index.html").read_text()
    for slug, paper in catalog.papers().items():
        assert f"papers/{slug}.html" in home
        page = (tmp_path / "site" / "papers" / f"{slug}.html").read_text()
        assert paper.title.split(":")[0].split("<")[0] in page and "<h2>Example</h2>" in page
