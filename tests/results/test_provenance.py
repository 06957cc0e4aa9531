import ast
import json
import os
import platform
import shutil
import subprocess
import textwrap
from types import SimpleNamespace

import pytest

from rectify.results import provenance as module
from rectify.results.provenance import _processor, provenance, source_digest

SOURCES = {
    "__init__": '"""A package."""\n',
    "top": "from rectify.middle import middle\n\n\ndef top():\n    return middle() + 1\n",
    "middle": "def middle():\n    from rectify import bottom\n\n    return bottom.value\n",
    "bottom": '"""Values."""\n\nimport math\n\nvalue = math.pi\n',
    "other": "value = 3\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package named rectify with an import chain top -> middle -> bottom."""
    folder = tmp_path / "rectify"
    folder.mkdir()
    for name, source in SOURCES.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setattr(module, "PACKAGE", folder)
    yield folder
    forget()


def forget():
    """Forget cached sources, as a new process would."""
    module._read.cache_clear()


def digest(*names):
    forget()
    return source_digest(*names)


def closure(name):
    forget()
    return module.closure(name)


def test_comments_docstrings_layout_and_touch_change_nothing(package):
    before = digest("rectify.top")
    bottom = package / "bottom.py"
    bottom.write_text('"""Other words."""\n# a comment\n\nimport math\n\nvalue = math.pi  # pi\n')
    top = (package / "top.py").read_text()
    (package / "top.py").write_text(
        top.replace("def top():\n", 'def top():\n    """Return it."""\n').replace("+ 1", "+  1")
    )
    os.utime(package / "middle.py", (0, 0))
    assert digest("rectify.top") == before


def test_imports_that_only_a_type_checker_reads_do_not_count(package):
    (package / "other.py").write_text(
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from rectify import middle\n"
        "else:\n    from rectify import bottom\n"
    )
    before = digest("rectify.other")
    (package / "middle.py").write_text("def middle():\n    return 7\n")
    assert digest("rectify.other") == before
    (package / "bottom.py").write_text("value = 5\n")
    assert digest("rectify.other") != before


@pytest.mark.parametrize("name", ["top", "middle", "bottom"])
def test_a_statement_here_or_in_an_imported_module_changes_the_digest(package, name):
    before = digest("rectify.top")
    file = package / f"{name}.py"
    file.write_text(file.read_text() + "added = 1\n")
    assert digest("rectify.top") != before


def test_a_source_is_parsed_once_and_what_is_kept_of_it_is_what_it_says(
    package, tmp_path, monkeypatch
):
    parsed, parse = [], module._parsed
    monkeypatch.setattr(module, "_parsed", lambda source: parsed.append(source) or parse(source))
    cold = []
    for place in ("cache", "cache", "file"):  # the last one cannot be written
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path / place}")
        cold.append((digest("rectify.top"), len(parsed)))
    assert cold == [(cold[0][0], 3), (cold[0][0], 3), (cold[0][0], 6)]
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path / 'cache'}")
    (package / "middle.py").write_text(SOURCES["middle"] + "further = 4\n")
    assert digest("rectify.top") != cold[0][0]
    assert len(parsed) == 7


def test_a_module_that_is_not_imported_changes_nothing(package):
    before = digest("rectify.top")
    (package / "other.py").write_text("value = 4\n")
    assert digest("rectify.top") == before
    assert digest("rectify.top", "rectify.other") != before


def test_a_string_that_is_no_docstring_counts(package):
    before = digest("rectify.other")
    (package / "other.py").write_text('value = 3\nname = "three"\n')
    assert digest("rectify.other") != before


def test_the_order_of_modules_does_not_matter(package):
    assert digest("rectify.top", "rectify.other") == digest("rectify.other", "rectify.top")


def test_all_modules_of_a_package_that_is_looked_through_count(package):
    (package / "kinds").mkdir()
    for name in ("__init__", "one"):
        (package / "kinds" / f"{name}.py").write_text("value = 1\n")
    (package / "other.py").write_text("from rectify import kinds\n")
    assert closure("rectify.other") == {"rectify.other", "rectify.kinds"}
    source = "import pkgutil\n\nfrom rectify import kinds\n\npkgutil.iter_modules(kinds.__path__)\n"
    (package / "other.py").write_text(source)
    assert closure("rectify.other") == {"rectify.other", "rectify.kinds", "rectify.kinds.one"}
    before = digest("rectify.other")
    (package / "kinds" / "two.py").write_text("value = 2\n")
    assert digest("rectify.other") != before


def test_every_layer_that_gsnr_measures_is_in_its_digest():
    names = {path.stem for path in (module.PACKAGE / "gsnr" / "layers").glob("[a-z]*.py")}
    assert {"linear", "layer_norm", "vit_embedding"} <= names
    assert {f"rectify.gsnr.layers.{name}" for name in names} <= closure("rectify.gsnr.observer")


NESTED = """
try:
    {}
except ValueError:
    {}
else:
    {}
finally:
    {}
while value:
    with value:
        {}
else:
    {}
match value:
    case 1:
        {}
class Class:
    async def method(self):
        for item in value:
            {}
        else:
            {}
"""


def test_an_import_counts_wherever_it_is(package):
    for place in range(NESTED.count("{}")):
        words = ["pass"] * NESTED.count("{}")
        words[place] = "from rectify import bottom"
        (package / "other.py").write_text(NESTED.format(*words))
        assert closure("rectify.other") == {"rectify.other", "rectify.bottom"}


@pytest.mark.slow
def test_the_statements_of_a_module_are_those_of_a_walk_through_its_whole_tree():
    for path in module.PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        walked = {id(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)}
        found = module._statements(tree, only_executed=False)
        assert {id(node) for node in found if isinstance(node, ast.stmt)} == walked


def test_circular_imports_end(package):
    (package / "bottom.py").write_text("import rectify.top\n\nvalue = 3\n")
    assert closure("rectify.top") == {"rectify.top", "rectify.middle", "rectify.bottom"}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["rectify.absent", "absent"])
def test_a_module_that_is_nowhere_is_an_error(name):
    with pytest.raises(ValueError, match=f"a module that Python finds must be named, got '{name}'"):
        digest(name)


def test_a_task_from_elsewhere_and_a_data_file_of_the_package_count(package, tmp_path, monkeypatch):
    (tmp_path / "elsewhere_task.py").write_text("value = 1\n")
    (package / "sizes.yaml").write_text("width: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = digest("elsewhere_task"), digest("rectify/sizes.yaml", "rectify.bottom")
    (tmp_path / "elsewhere_task.py").write_text("value = 2\n")
    assert digest("elsewhere_task") != before[0]
    (package / "sizes.yaml").write_text("width: 2\n")
    assert digest("rectify/sizes.yaml", "rectify.bottom") != before[1]


def test_training_does_not_depend_on_similarity_analysis_or_records():
    found = closure("rectify.training.loop")
    assert {"rectify.training.loop", "rectify.training.recipes", "rectify.rectified"} <= found
    assert {"rectify.trunks.vit", "rectify.runtime"} <= found
    assert "rectify.similarity.scores" not in found
    assert "rectify.results.tables" not in found
    assert not {name for name in found if name.startswith(("rectify.analysis", "rectify.commands"))}


def test_tables_do_not_depend_on_training():
    reached = closure("rectify.targets.table3")
    assert "rectify.analysis.cells" in reached
    assert not {name for name in reached if name.startswith(("rectify.training", "rectify.gsnr"))}


def test_docstrings_are_found_where_python_finds_them():
    source = textwrap.dedent(
        '''
        """module"""
        class A:
            """class"""
            x = "kept"
            async def f(self):
                """function"""
                return """kept too"""
        '''
    )
    dumped = ast.dump(module._without_docstrings(ast.parse(source)))
    assert "kept" in dumped
    assert "kept too" in dumped
    assert not [word for word in ("module", "class", "function") if f"value='{word}'" in dumped]


def test_the_note_of_a_result_is_json_and_names_code_seed_and_versions():
    note = provenance(3, "rectify.training.loop", run="glyphs_vit-s_vanilla")
    assert json.loads(json.dumps(note)) == note
    assert (note["seed"], note["facts"]) == (3, {"run": "glyphs_vit-s_vanilla"})
    assert note["code"] == source_digest("rectify.training.loop")
    assert set(note["code"]) <= set("0123456789abcdef")
    assert len(note["code"]) == 16
    assert note["versions"]["torch"] != "absent"


def test_without_modules_and_without_git_the_note_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    module.commit.cache_clear()
    note = provenance()
    module.commit.cache_clear()
    assert (note["seed"], note["code"], note["commit"]) == (None, None, "unknown")


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        ({"vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}, "0123456789ab"),
        ({"dir_info": {"editable": True}}, "unknown"),
        (None, "unknown"),  # from a package index
    ],
)
def test_the_commit_of_a_project_around_an_installed_package_is_not_its_own(
    package, monkeypatch, noted, expected
):
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("commit", "-qm", "Theirs", "--allow-empty")):
        subprocess.run([*git, *words], cwd=package.parent, check=True)
    text = noted and json.dumps(noted)
    installed = SimpleNamespace(read_text={"direct_url.json": text}.get)
    monkeypatch.setattr(module.metadata, "distribution", {"rectify-vit": installed}.get)
    module.commit.cache_clear()
    assert module.commit() == expected
    for words in (("add", "rectify"), ("commit", "-qm", "Copied")):
        subprocess.run([*git, *words], cwd=package.parent, check=True)
    for change in ("", "+"):
        module.commit.cache_clear()
        head = subprocess.check_output([*git, "rev-parse", "HEAD"], cwd=package.parent, text=True)
        assert module.commit() == head[:12] + change
        (package / "top.py").write_text("changed = 1\n")
    module.commit.cache_clear()


def test_a_package_that_is_not_installed_is_absent():
    assert module._version("no-such-package-anywhere") == "absent"


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("lscpu"), reason="needs lscpu on x86_64"
)
def test_the_processor_is_named_as_lscpu_names_it() -> None:
    said = subprocess.run(
        ["lscpu"], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    (line,) = (line for line in said.splitlines() if line.startswith("Model name:"))
    assert _processor() == line.removeprefix("Model name:").strip() != ""
