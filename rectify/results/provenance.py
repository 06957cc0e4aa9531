"""Where a result comes from: code digest, commit, package versions, device.

The digest of a module covers the module and every ``rectify`` module that it imports,
directly or not, as syntax trees without docstrings: a comment, a docstring or a ``touch``
changes nothing, an edited statement does. Imports under ``TYPE_CHECKING`` do not count; of a
package whose folder is looked through (``pkgutil.iter_modules(package.__path__)``) all modules
do. Rules put the digest into their ``params``, so that Snakemake runs again exactly what an edit
can have changed.
"""

import ast
import functools
import hashlib
import importlib.util
import json
import pkgutil
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from rectify.results.remembered import answer

PACKAGE = Path(__file__).resolve().parents[1]
DISTRIBUTION = "rectify-vit"
HOLDERS = ("body", "orelse", "finalbody", "handlers", "cases")  # of statements, in a syntax tree
PACKAGES = ("torch", "timm", "transformers", "numpy", "pandas", "snakemake")


def provenance(seed: int | None = None, /, *modules: str, **facts: Any) -> dict[str, Any]:
    """Return what is known about a result that is being written, ready for JSON.

    Args:
        seed: Training seed, where there is one.
        modules: Modules whose digest identifies the code that computed the result.
        facts: Anything else a reader needs; stands under ``facts``.
    """
    return {
        "seed": seed,
        "commit": commit(),
        "code": source_digest(*modules) if modules else None,
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": _device(),
        "facts": facts,
    }


def source_digest(*modules: str) -> str:
    """Return 16 hexadecimal digits that change when code of the modules or their imports does.

    Args:
        modules: Dotted modules, of the package or one that Python finds; or data files of the
            package, e.g. ``rectify/language/sizes.yaml``, of which every byte counts.

    Raises:
        ValueError: If there is no such module or file.
    """
    combined = hashlib.sha256()
    for name in sorted(closure(*(name for name in modules if "/" not in name))):
        combined.update(f"{name}:{_read(name)[0]}\n".encode())
    for name in sorted(name for name in modules if "/" in name):
        content = hashlib.sha256((PACKAGE.parent / name).read_bytes()).hexdigest()
        combined.update(f"{name}:{content}\n".encode())
    return combined.hexdigest()[:16]


def closure(*modules: str) -> set[str]:
    """Return the modules and all of the package's modules that they import, directly or not."""
    waiting, reached = list(modules), set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(_read(name)[1])
    return reached


@functools.cache
def commit() -> str:
    """Return the commit of the package, or ``unknown``.

    That of its working tree has ``+`` after it if files were changed. A repository that does not
    track the package is another project's, around an environment with it: then pip may know.
    """
    if not _git("ls-files", f"{PACKAGE.name}/__init__.py"):
        return _installed()
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "-uno") else "") if head else "unknown"


def _installed() -> str:
    """Return the commit from which pip installed the package."""
    try:
        noted = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        noted = None
    return json.loads(noted or "{}").get("vcs_info", {}).get("commit_id", "unknown")[:12]


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no git on this machine
        return ""
    return answer.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return _processor() or platform.processor() or platform.machine()


def _processor() -> str:
    """Return the name of the processor as Linux tells it, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # another system
        return ""
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""


class _Parsed(NamedTuple):
    """What a module's source alone says.

    Attributes:
        digest: Of its syntax tree.
        imported: What it imports and what may be a name in there, of any package.
        looked_through: Names whose ``__path__`` it uses.
    """

    digest: str
    imported: list[str]
    looked_through: list[str]


@functools.cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """Return a module's digest, and the modules of the package that it imports."""
    source = _source(module)
    kept = answer("code", (*_parser(), source), lambda: json.dumps(_parsed(source)))
    digest, imported, looked_through = _Parsed(*json.loads(kept))
    names = {*imported, *(name.rpartition(".")[0] for name in (*imported, module))}
    for package in sorted(names):
        if package.rpartition(".")[2] in looked_through and (path := _path(package)):
            inside = pkgutil.iter_modules([str(path.parent)])
            names.update(f"{package}.{found.name}" for found in inside)
    return digest, tuple(name for name in names if name.startswith("rectify.") and _path(name))


@functools.cache
def _parser() -> tuple[str, str]:
    """Return what decides how a source is parsed: Python, whose trees differ, and this file."""
    return platform.python_version(), Path(__file__).read_text(encoding="utf-8")


def _parsed(source: str) -> _Parsed:
    tree = ast.parse(source)
    names: set[str] = set()
    for node in _statements(tree, only_executed=True):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    used = _looked_through(tree) if "__path__" in source else set()
    digest = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()
    return _Parsed(digest, sorted(names), sorted(used))


def _statements(tree: ast.Module, only_executed: bool) -> Iterator[ast.AST]:
    """Give a tree's statements and what holds some, not their expressions: ten times as many.

    Args:
        tree: Of a module.
        only_executed: Whether to leave out what only a type checker reads.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        only_types = isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
        for field in ("orelse",) if only_types and only_executed else HOLDERS:
            waiting.extend(getattr(node, field, ()))


def _looked_through(tree: ast.Module) -> set[str]:
    """Return the names whose ``__path__`` is used."""
    return {
        node.value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "__path__"
        and isinstance(node.value, ast.Name)
    }


def _source(module: str) -> str:
    path = _path(module)
    if path is None:
        raise ValueError(
            f"source_digest: a module that Python finds must be named, got {module!r}. Check the "
            "rule, or the task's name in the config."
        )
    return path.read_text(encoding="utf-8")


def _path(module: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    if module.partition(".")[0] == "rectify":
        return None
    spec = importlib.util.find_spec(module)  # a task from outside the package
    return Path(spec.origin) if spec and spec.origin else None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in _statements(tree, only_executed=False):
        body = getattr(node, "body", None)
        if body and _is_docstring(body[0]):
            del body[0]
    return tree


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
