"""How the source stands: rooms, circles, arrows up, duplicates, functions and types, here and in older commits.

    python -m bench.house COMMIT…

Nothing is timed. Each commit's tracked files are read from git, the working tree's from the disk.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.report import report

ROOT = Path(__file__).parents[1]
PARTS = ("convscope", "service", "workers")
BEFORE = "25b31f3"
SHORT = 6
"""Lines up to which functions may be alike by chance."""
GENERATED = re.compile(r"/(_sync|__pycache__)/|/schemas\.py$")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Trees = Mapping[str, ast.Module]
"""By the module's dotted name."""


def main() -> None:
    """Measure the commits named, or the one before the house was rebuilt, and what lies here."""
    commits = sys.argv[1:] or [BEFORE]
    rows: list[dict[str, Any]] = []
    for commit in commits:
        with tempfile.TemporaryDirectory() as folder:
            command = ["git", "archive", commit, *PARTS]
            packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder, filter="data")
            rows.append({"build": commit, **measured(Path(folder))})
    rows.append({"build": "here", **measured(ROOT)})
    report("house", rows)


def measured(root: Path) -> dict[str, object]:
    """All figures of one tree."""
    files = [path for part in PARTS for path in sorted((root / part).rglob("*.py")) if not GENERATED.search(str(path))]
    trees = {_name(path, root): ast.parse(path.read_text()) for path in files}
    rooms = Counter(str(path.parent.relative_to(root)) for path in files if path.stem != "__init__")
    largest, count = rooms.most_common(1)[0]
    arrows = {name: set(_imported(name, tree, trees)) for name, tree in trees.items()}
    lengths = [length for tree in trees.values() for length in _lengths(tree)]
    return {
        "files": len(files),
        "lines": sum(len(path.read_text().splitlines()) for path in files),
        "largest room": f"{largest} ({count})",
        "rooms above 15": sum(files_in > 15 for files_in in rooms.values()),
        "modules in import circles": len(_in_circles(arrows)),
        "rooms in import circles": len(_in_circles(_between_rooms(arrows, root))),
        "arrows up": _arrows_up(trees),
        "function median, lines": statistics.median(lengths),
        "functions above 60 lines": sum(length > 60 for length in lengths),
        "parameters": sum(1 for tree in trees.values() for _ in _parameters(tree)),
        "parameters of Any": sum(_is_any(one) for tree in trees.values() for one in _parameters(tree)),
        "requests of Any": sum(
            one.arg == "request" and _is_any(one) for tree in trees.values() for one in _parameters(tree)
        ),
        "class names of several things": _shared_names(trees),
        "pairs of functions alike": _twins(trees),
    }


def _name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imported(name: str, tree: ast.Module, known: Trees) -> Iterator[str]:
    """Modules of ours that a module imports when it is imported itself: not in functions, nor for the type checker."""
    for node in _at_import(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known and alias.name != name)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found = whole if whole in known else node.module
                if found in known and found != name:
                    yield found


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        typed = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typed and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _at_import(node)


def _in_circles(arrows: Mapping[str, set[str]]) -> set[str]:
    """Those that reach themselves by way of another."""
    found: set[str] = set()
    for name in arrows:
        seen: set[str] = set()
        todo = [other for other in arrows[name] if other != name]
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo.extend(arrows.get(one, ()))
        if name in seen:
            found.add(name)
    return found


def _between_rooms(arrows: Mapping[str, set[str]], root: Path) -> dict[str, set[str]]:
    """The same between folders: a file beside rooms is a room of its own, as what stands in no folder."""

    def room(name: str) -> str:
        whole = root.joinpath(*name.split("."))
        return name if whole.is_dir() or name.count(".") < 2 else name.rpartition(".")[0]

    found: dict[str, set[str]] = {}
    for name, others in arrows.items():
        found.setdefault(room(name), set()).update(room(other) for other in others if room(other) != room(name))
    return found


def _arrows_up(trees: Trees) -> int:
    """Imports of a part from one that stands above it, wherever they stand: the workers and the service are no part's.

    What a person runs, `convscope.cli`, stands above the rest of `convscope`.
    """
    count = 0
    for name, tree in trees.items():
        part = name.partition(".")[0]
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for module in modules:
                other = module.partition(".")[0]
                up = other in ("service", "workers") and other != part
                count += up or (module.startswith("convscope.cli") and not name.startswith("convscope.cli"))
    return count


def _functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _lengths(tree: ast.AST) -> Iterator[int]:
    """Lines of each function, with its docstring."""
    return ((node.end_lineno or node.lineno) - node.lineno + 1 for node in _functions(tree))


def _parameters(tree: ast.AST) -> Iterator[ast.arg]:
    for node in _functions(tree):
        yield from (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)


def _is_any(one: ast.arg) -> bool:
    return one.annotation is not None and ast.unparse(one.annotation) == "Any"


def _shared_names(trees: Trees) -> int:
    names = Counter(node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return sum(count > 1 for count in names.values())


def _twins(trees: Trees) -> int:
    """Pairs of functions of six lines or more that are the same but for names and values."""
    shapes = Counter(_shape(node) for tree in trees.values() for node in _functions(tree) if _is_long(node))
    return sum(count * (count - 1) // 2 for count in shapes.values())


def _is_long(function: Function) -> bool:
    return len(ast.unparse(function).split("\n")) > SHORT


def _shape(function: Function) -> str:
    """The kinds of the nodes of a function, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return " ".join(type(node).__name__ for statement in body for node in ast.walk(statement))


if __name__ == "__main__":
    main()
