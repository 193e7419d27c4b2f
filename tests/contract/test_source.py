"""Rules of our source that no ready-made linter has: each rule with cases that it must and must not match."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.trees import CLIENT, PACKAGES, ROOT

MOST_LINES = 400
PICKLES = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
COMPARISONS = frozenset({"allclose", "array_equal", "isclose", "equal", "array_equiv", "is_close"})
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "XX" + "X")

STAND_INS = ROOT / "workers" / "networks" / "weights" / "stand_ins.py"
"""The one reader of pickles; it imports and calls nothing that a file names (tests/workers/networks/weights)."""

Rule = Callable[[ast.AST], Iterator[str]]


def swallowed_errors(tree: ast.AST) -> Iterator[str]:
    """`except Exception` (or wider) whose body does nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            wide = any(kind is None or getattr(kind, "id", "") in {"Exception", "BaseException"} for kind in kinds)
            idle = all(
                isinstance(one, ast.Pass | ast.Continue)
                or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
                for one in node.body
            )
            if wide and idle:
                yield f"{node.lineno}: an error is swallowed"


def pickles(tree: ast.AST) -> Iterator[str]:
    """Imports of modules that run what they read; torch.load without weights_only=True or the reader of stand-ins."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # The error that torch.load raises may be caught by its name.
            harmless = node.module == "pickle" and {alias.name for alias in node.names} == {"UnpicklingError"}
            names = [] if harmless else [node.module]
        for name in names:
            if name.partition(".")[0] in PICKLES:
                yield f"{node.lineno}: imports {name}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {key.arg: ast.unparse(key.value) for key in node.keywords}
            if given.get("weights_only") != "True" and given.get("pickle_module") != "stand_ins":
                yield f"{node.lineno}: torch.load without weights_only=True"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"{node.value.lineno}: allow_pickle"


def suspended_modes(tree: ast.AST) -> Iterator[str]:
    """Generators that yield inside a mode of torch, which then holds for whoever computes meanwhile.

    What a context manager is for is just that: whoever enters it wants the mode.
    """
    managers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator).endswith("contextmanager") for decorator in node.decorator_list)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in managers:
            continue
        if not isinstance(node, ast.With) or "torch." not in ast.unparse(node.items[0].context_expr):
            continue
        if any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)):
            yield f"{node.lineno}: yields inside {ast.unparse(node.items[0].context_expr)}"


def unused_comparisons(tree: ast.AST) -> Iterator[str]:
    """A comparison of arrays whose answer is thrown away: a check that cannot fail."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            value = node.value
            call = value if isinstance(value, ast.Call) else None
            if isinstance(value, ast.Compare):
                yield f"{node.lineno}: a comparison is thrown away"
            elif call is not None and isinstance(call.func, ast.Attribute | ast.Name):
                name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
                if name in COMPARISONS:
                    yield f"{node.lineno}: the answer of {name} is thrown away"


def missing_docstring(tree: ast.AST) -> Iterator[str]:
    """A module without a docstring that says what it is."""
    if isinstance(tree, ast.Module) and tree.body and not ast.get_docstring(tree):
        yield "1: the module has no docstring"


def untyped_requests(tree: ast.AST) -> Iterator[str]:
    """A request, or its images' preprocessing, that may be of any type: each operation has its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        else:
            continue
        if name in {"request", "preprocess"} and annotation is not None and ast.unparse(annotation) == "Any":
            yield f"{node.lineno}: {name} may be of any type"


SOURCE_RULES: tuple[Rule, ...] = (
    swallowed_errors,
    pickles,
    unused_comparisons,
    suspended_modes,
    missing_docstring,
    untyped_requests,
)
TEST_RULES: tuple[Rule, ...] = (swallowed_errors, unused_comparisons)

CASES: list[tuple[Rule, str, int]] = [
    (swallowed_errors, "try:\n  f()\nexcept Exception:\n  pass", 1),
    (swallowed_errors, "try:\n  f()\nexcept:\n  ...", 1),
    (swallowed_errors, "try:\n  f()\nexcept (ValueError, BaseException):\n  'why not'", 1),
    (swallowed_errors, "for x in y:\n  try:\n    f()\n  except Exception as e:\n    continue", 1),
    (swallowed_errors, "try:\n  f()\nexcept ValueError:\n  pass", 0),
    (swallowed_errors, "try:\n  f()\nexcept Exception:\n  log()\n  raise", 0),
    (pickles, "import pickle", 1),
    (pickles, "from cloudpickle import dumps", 1),
    (pickles, "import joblib.parallel as p", 1),
    (pickles, "torch.load(path)", 1),
    (pickles, "torch.load(path, weights_only=False)", 1),
    (pickles, "torch.load(path, weights_only=False, pickle_module=stand_ins)", 0),
    (pickles, "torch.load(path, weights_only=False, pickle_module=dill)", 1),
    (pickles, "numpy.load(path, allow_pickle=True)", 1),
    (pickles, "torch.load(path, weights_only=True)", 0),
    (pickles, "numpy.load(path, allow_pickle=False)", 0),
    (pickles, "import pickletools_of_ours", 0),
    (pickles, "from pickle import UnpicklingError", 0),
    (pickles, "from pickle import UnpicklingError, loads", 1),
    (suspended_modes, "with torch.no_grad():\n  for x in y:\n    yield x", 1),
    (suspended_modes, "@contextmanager\ndef f():\n  with torch.no_grad():\n    yield", 0),
    (suspended_modes, "for x in y:\n  with torch.no_grad():\n    f(x)\n  yield x", 0),
    (unused_comparisons, "np.allclose(a, b)", 1),
    (unused_comparisons, "torch.equal(a, b)", 1),
    (unused_comparisons, "a == b", 1),
    (unused_comparisons, "assert np.allclose(a, b)", 0),
    (unused_comparisons, "torch.testing.assert_close(a, b)", 0),
    (unused_comparisons, "same = a == b", 0),
    (missing_docstring, "x = 1", 1),
    (missing_docstring, '"""What it is."""\nx = 1', 0),
    (missing_docstring, "", 0),
    (untyped_requests, "def f(request: Any): ...", 1),
    (untyped_requests, "class A:\n  request: Any", 1),
    (untyped_requests, "def f(request: CamRequest, facts: Any): ...", 0),
]


@pytest.mark.parametrize(("rule", "source", "found"), CASES)
def test_a_rule_matches_what_it_should(rule: Rule, source: str, found: int) -> None:
    assert len(list(rule(ast.parse(source)))) == found


def tracked(*suffixes: str) -> list[Path]:
    """Our files of those kinds: what is tracked, and what is new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name.endswith(suffixes)]
    return sorted(path for path in paths if path.is_file())


def below(path: Path, *folders: str) -> bool:
    return path.relative_to(ROOT).parts[0] in folders


def test_the_rules_hold_everywhere() -> None:
    broken = []
    for path in tracked(".py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        rules = SOURCE_RULES if below(path, *PACKAGES, CLIENT, "bench") else TEST_RULES
        rules = tuple(rule for rule in rules if not (rule is pickles and path == STAND_INS))
        broken += [f"{path.relative_to(ROOT)}:{found}" for rule in rules for found in rule(tree)]
    assert broken == []


def test_no_file_is_long() -> None:
    sources = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in tracked(".py", ".lua")}
    # What a program wrote from the OpenAPI document, tests/client/test_generated.py compares with what it writes now.
    lengths = {
        name: len(text.splitlines()) for name, text in sources.items() if "\nWritten by client/generate.py" not in text
    }
    too_long = {str(name): lines for name, lines in lengths.items() if lines > MOST_LINES and name.parts[0] != "tests"}
    assert too_long == {}


def test_nothing_is_left_unfinished() -> None:
    found = []
    for path in tracked(".py", ".lua", ".md", ".toml", "Makefile", "Dockerfile", ".yml"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if any(word in line for word in (*UNFINISHED, "raise NotImplementedError")):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    found = [line for line in found if not line.startswith("tests/contract/test_source.py")]
    assert found == []


def test_no_test_is_skipped_without_a_condition() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in tracked(".py")
        if below(path, "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in {"skip", "xfail"}
        and ast.unparse(node.value).endswith("mark")
    ]
    assert found == []


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in tracked(".py") if below(path, "tests")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_what_is_compiled_ahead_is_compiled_again_when_any_of_its_sources_changes() -> None:
    """The Makefile names them; numba itself would look at the file of the loop alone, not at what it takes in."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (named,) = (line for line in makefile.splitlines() if line.startswith("LOOPS := "))
    sources = [
        path.name
        for path in tracked(".py")
        if below(path, "workers") and "numba" in {name.partition(".")[0] for name in imported(path)}
    ]
    using = [
        path.name
        for path in tracked(".py")
        if below(path, "workers") and any(name.startswith("workers.compiled.jit") for name in imported(path))
    ]
    assert sorted(named.partition(",")[2].rstrip(")").split()) == sorted({*sources, *using})


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return whole | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


MIRRORED = frozenset({"Event", "ProblemError"})
"""What a client knows of a service by the same name; its schemas mirror the rest and are generated."""


def test_a_class_name_means_one_thing() -> None:
    found: dict[str, list[str]] = {}
    client = ROOT / CLIENT / "convscope_client"
    for path in (path for room in (*(ROOT / one for one in PACKAGES), client) for path in sorted(room.rglob("*.py"))):
        if path == client / "schemas.py" or path.is_relative_to(client / "_sync"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name not in MIRRORED:
                found.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
