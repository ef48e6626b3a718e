"""The shape of the code in figures: `python -m bench.shape [folder or file …]`, or as a script from any tree.

Without arguments the four packages are measured, without migrations and what only development needs (`DEV`). Folders
narrow what is counted; references are looked for in the whole product all the same. What each figure counts:

* lines as `wc -l` does, of .py; SQL, JSON, Lua and HTML under the packages are shown beside them and added;
* modules: files of more than one line, so that a package's empty or one-line `__init__.py` is none;
* functions and methods, nested ones too, from the line of `def` to the last one: docstring in, decorators out;
* private functions: one leading underscore. References are names and attributes that an expression reads, so imports,
  keywords and parameters are none; those to a private function are looked for in its own module, those to a public one
  also in every module that defines none of that name;
* value types: classes with a `dataclass` decorator or, through any number of bases, from one, NamedTuple or TypedDict;
* exception classes: through any number of bases from a built-in or a framework's exception;
* notes: lines that hold a comment or a piece of a string that is a statement (docstrings, texts below constants).
"""

import argparse
import ast
import builtins
import io
import json
import math
import re
import statistics
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGES = ("meshes", "workspaces", "connections", "delivery")
DEV = (
    "meshes/dev/",
    # where the same stood in trees from before that folder
    "meshes/demo/",
    "meshes/binaries.py",
    "meshes/children.py",
    "meshes/die_with_parent.py",
    "meshes/embedded.py",
    "meshes/stack.py",
    "meshes/stack_folder.py",
    "meshes/supervisor.py",
    "meshes/management/commands/demo.py",
    "meshes/management/commands/provision.py",
    "meshes/management/commands/up.py",
    "tests/vendors/",  # the vendors' servers; tests of them count as tests of vendors
)
OTHER_LANGUAGES = ("sql", "json", "lua", "html")
LONG_MODULE, LONG_FUNCTION, LONG_LINE = 500, 40, 120
VALUES = {"NamedTuple", "TypedDict"}
EXCEPTION = re.compile(
    r"(Error|Exception|Warning|Exit|Interrupt)$|^(Http404|PermissionDenied|NotAuthenticated|AuthenticationFailed"
    r"|NotFound|Throttled|MethodNotAllowed|NotAcceptable|UnsupportedMediaType|SuspiciousOperation|Suspicious\w+"
    r"|ObjectDoesNotExist|DoesNotExist|MultipleObjectsReturned|DisallowedHost|Reject|Ignore|Retry)$"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """A function or class: where it is, and its name with those around it."""

    module: "Module"
    node: Function | ast.ClassDef
    qualified: str

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def length(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def place(self) -> str:
        return f"{self.module.path}:{self.node.lineno}  {self.qualified}"


@dataclass(eq=False)
class Module:
    """One file of Python, read once."""

    path: str
    text: str
    functions: list[Definition] = field(default_factory=list)
    classes: list[Definition] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.text, self.path)
        self.name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self._collect(self.tree, "")
        self.references = Counter(_references(self.tree))
        self.defined = {definition.name for definition in self.functions}

    def _collect(self, node: ast.AST, around: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | Function):
                found = Definition(self, child, around + child.name)
                (self.classes if isinstance(child, ast.ClassDef) else self.functions).append(found)
                self._collect(child, f"{around}{child.name}.")
            else:
                self._collect(child, around)

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @cached_property
    def imported(self) -> dict[str, str]:
        """Dotted names by the name that they have in this module."""
        names: dict[str, str] = {}
        package = self.name if self.path.endswith("/__init__.py") else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.asname or alias.name: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                up = package.rsplit(".", node.level - 1)[0] if node.level else ""
                source = ".".join(filter(None, (up, node.module)))
                names |= {alias.asname or alias.name: f"{source}.{alias.name}" for alias in node.names}
        return names

    @cached_property
    def notes(self) -> int:
        """Lines with a comment, or of a string that is a statement."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        lines = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
                lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        return len(lines)

    def long_lines(self) -> Iterator[str]:
        for number, line in enumerate(self.text.splitlines(), 1):
            if len(line) > LONG_LINE:
                yield f"{self.path}:{number}  {len(line)}"


def _references(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr


class Tree:
    """The whole product, and what follows from seeing it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules = [Module(path, (root / path).read_text()) for path in product(root, "py")]
        self.references: Counter[str] = Counter()
        for module in self.modules:
            self.references.update(module.references)
        self._homes: dict[str, list[Module]] = {}
        for module in self.modules:
            for name in module.defined:
                self._homes.setdefault(name, []).append(module)
        self._classes = {
            f"{found.module.name}.{found.qualified}": found for module in self.modules for found in module.classes
        }
        self._by_name = {module.name: module for module in self.modules}

    def references_to(self, function: Definition) -> int:
        name, own = function.name, function.module.references[function.name]
        if is_private(function):
            return own
        return own + self.references[name] - sum(home.references[name] for home in self._homes[name])

    def is_value(self, found: Definition) -> bool:
        return self._descends(found, _is_dataclass, lambda base: base.rpartition(".")[2] in VALUES, set())

    def is_exception(self, found: Definition) -> bool:
        return self._descends(found, lambda node: False, _is_exception, set())

    def _descends(
        self,
        found: Definition,
        is_one: Callable[[ast.ClassDef], bool],
        is_outside: Callable[[str], bool],
        seen: set[Definition],
    ) -> bool:
        """Whether a class is one itself or has a base, here or of a library, that is."""
        if found in seen:
            return False
        seen.add(found)
        assert isinstance(found.node, ast.ClassDef)
        if is_one(found.node):
            return True
        for base in found.node.bases:
            resolved = self._resolve(found.module, _dotted(base))
            if isinstance(resolved, str) and is_outside(resolved):
                return True
            if isinstance(resolved, Definition) and self._descends(resolved, is_one, is_outside, seen):
                return True
        return False

    def _resolve(self, module: Module, name: str, depth: int = 0) -> Definition | str:
        """The class of the product that a name means in a module, or the dotted name of one outside."""
        if local := self._classes.get(f"{module.name}.{name}"):
            return local
        head, _, rest = name.partition(".")
        full = ".".join(filter(None, (module.imported.get(head, head), rest)))
        if found := self._classes.get(full):
            return found
        source, _, last = full.rpartition(".")
        if source in self._by_name and depth < 5 and self._by_name[source] is not module:
            return self._resolve(self._by_name[source], last, depth + 1)
        return full


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(_dotted(decorator).rpartition(".")[2] == "dataclass" for decorator in node.decorator_list)


def _is_exception(name: str) -> bool:
    last = name.rpartition(".")[2]
    built_in = getattr(builtins, last, None)
    return bool(EXCEPTION.search(last)) or (isinstance(built_in, type) and issubclass(built_in, BaseException))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Subscript):
        return _dotted(node.value)
    if isinstance(node, ast.Call):
        return _dotted(node.func)
    return node.id if isinstance(node, ast.Name) else ""


# --- which files


def files(root: Path, under: Iterable[str], suffix: str) -> list[str]:
    """Paths below the root, sorted; caches apart."""
    found = (path for folder in under for path in (root / folder).rglob(f"*.{suffix}"))
    return sorted(path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts)


def product(root: Path, suffix: str) -> list[str]:
    return [path for path in files(root, PACKAGES, suffix) if "/migrations/" not in path and not path.startswith(DEV)]


def dev(root: Path) -> list[str]:
    """Files of Python that only development needs, without tests."""
    found = files(root, (*PACKAGES, "tests/vendors"), "py")
    return [path for path in found if path.startswith(DEV) and not path.rpartition("/")[2].startswith("test_")]


def count_lines(root: Path, paths: Iterable[str]) -> int:
    return sum((root / path).read_bytes().count(b"\n") for path in paths)


# --- figures


def figures(tree: Tree, modules: list[Module]) -> dict[str, float]:
    """Everything that is counted over these modules."""
    functions = [function for module in modules for function in module.functions]
    lengths = sorted(function.length for function in functions) or [0]
    lines = sum(module.lines for module in modules)
    return {
        "lines": lines,
        "modules": sum(module.lines > 1 for module in modules),
        "functions": len(functions),
        "private_functions": sum(map(is_private, functions)),
        "private_once": sum(1 for function in functions if is_private(function) and is_once(tree, function)),
        "public_once": sum(1 for function in functions if is_public(function) and is_once(tree, function)),
        "value_types": len(values(tree, modules)),
        "exceptions": len(errors(tree, modules)),
        "function_median": statistics.median(lengths),
        "function_p90": lengths[math.ceil(0.9 * len(lengths)) - 1],
        "functions_over_40": sum(length > LONG_FUNCTION for length in lengths),
        "notes_per_100_lines": round(100 * sum(module.notes for module in modules) / max(lines, 1), 1),
        "modules_over_500": sum(module.lines > LONG_MODULE for module in modules),
        "lines_over_120": sum(1 for module in modules for _ in module.long_lines()),
    }


def whole(root: Path) -> dict[str, float]:
    """What is not of single modules: other languages, dev, tests, providers, exemptions."""
    others = {f"lines_{suffix}": count_lines(root, product(root, suffix)) for suffix in OTHER_LANGUAGES}
    tests = files(root, ("tests",), "py")
    of_vendors = [path for path in tests if "/vendors/" in path]
    servers = set(dev(root))
    providers = provider_lengths(root, slug=True) or [0]
    with_shared = provider_lengths(root, slug=False) or [0]
    return {
        **others,
        "lines_all_languages": count_lines(root, product(root, "py")) + sum(others.values()),
        "dev_lines": count_lines(root, servers),
        "dev_vendors_lines": count_lines(root, (path for path in servers if "/vendors/" in path)),
        "import_exemptions": len(exemptions(root)),
        "provider_files": len(providers),
        "provider_median": statistics.median(providers),
        "provider_longest": max(providers),
        "with_shared_median": statistics.median(with_shared),
        "with_shared_longest": max(with_shared),
        "tests_lines": count_lines(root, set(tests) - set(of_vendors)),
        "tests_of_vendors_lines": count_lines(root, set(of_vendors) - servers),
        "tests_and_those_lines": count_lines(root, set(tests) - servers),
    }


def is_private(function: Definition) -> bool:
    return function.name.startswith("_") and not function.name.startswith("__")


def is_public(function: Definition) -> bool:
    return not function.name.startswith("_")


def is_once(tree: Tree, function: Definition) -> bool:
    return tree.references_to(function) == 1


def values(tree: Tree, modules: list[Module]) -> list[Definition]:
    return [found for module in modules for found in module.classes if tree.is_value(found)]


def errors(tree: Tree, modules: list[Module]) -> list[Definition]:
    return [found for module in modules for found in module.classes if tree.is_exception(found)]


def provider_lengths(root: Path, *, slug: bool) -> list[int]:
    """Lines of the files under connections/providers: of those that define a slug, or of all but `__init__.py`."""
    defines = re.compile(r"^\s+slug(: [\w\[\]]+)? = \"", re.MULTILINE)
    paths = (path for path in files(root, ("connections/providers",), "py") if not path.endswith("/__init__.py"))
    texts = ((root / path).read_text() for path in paths)
    return [text.count("\n") for text in texts if not slug or defines.search(text)]


def exemptions(root: Path) -> list[str]:
    """Imports that a contract forbids and `ignore_imports` lets pass."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [f"{contract['name']}: {line}" for contract in contracts for line in contract.get("ignore_imports", ())]


# --- the command


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="*", metavar="folder or file", help="default: the four packages")
    parser.add_argument("--by-folder", action="store_true", help="a row for each folder")
    parser.add_argument("--json", action="store_true", help="figures only, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="figures of an earlier --json beside these")
    parser.add_argument("--once", action="store_true", help="list private functions that are referenced once")
    parser.add_argument("--public-once", action="store_true", help="list public functions that are referenced once")
    parser.add_argument("--values", action="store_true", help="list value types")
    parser.add_argument("--errors", action="store_true", help="list exception classes")
    parser.add_argument("--long", action="store_true", help="list modules, functions and lines that are too long")
    options = parser.parse_args(arguments)
    tree = Tree(find_root(Path.cwd()))
    modules = chosen(tree, options.paths)
    found = figures(tree, modules) | ({} if options.paths else whole(tree.root))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    listed = list(listing(tree, modules, options))
    if options.by_folder:
        print_folders(tree, modules)
    elif not listed:
        print_figures(found, json.loads(options.against.read_text()) if options.against else {})
    print("".join(f"{line}\n" for line in listed), end="")


def find_root(start: Path) -> Path:
    """The nearest folder upwards that holds the packages."""
    for folder in (start, *start.parents):
        if (folder / "pyproject.toml").exists() and (folder / "connections").is_dir():
            return folder
    sys.exit("Stand in a tree of the project.")


def chosen(tree: Tree, paths: list[str]) -> list[Module]:
    """The modules at these paths, of the working folder or of the root."""
    if not paths:
        return tree.modules
    places = []
    for path in paths:
        place = Path(path).resolve() if Path(path).exists() else tree.root / path
        if not place.exists():
            sys.exit(f"There is no {path}.")
        places.append(place.relative_to(tree.root).as_posix())
    return [
        module for module in tree.modules if any(module.path == at or module.path.startswith(f"{at}/") for at in places)
    ]


def listing(tree: Tree, modules: list[Module], options: argparse.Namespace) -> Iterator[str]:
    functions = [function for module in modules for function in module.functions if is_once(tree, function)]
    if options.once:
        yield from (function.place for function in functions if is_private(function))
    if options.public_once:
        yield from (function.place for function in functions if is_public(function))
    if options.values:
        yield from (found.place for found in values(tree, modules))
    if options.errors:
        yield from (found.place for found in errors(tree, modules))
    if options.long:
        yield from (f"{module.path}  {module.lines}" for module in modules if module.lines > LONG_MODULE)
        for module in modules:
            yield from (f"{one.place}  {one.length}" for one in module.functions if one.length > LONG_FUNCTION)
            yield from module.long_lines()


def print_figures(found: dict[str, float], before: dict[str, float]) -> None:
    for name, figure in found.items():
        row = f"{name.replace('_', ' '):24}{figure:>10,}"
        print(row + (f"{before.get(name, 0):>12,} before" if before else ""))


def print_folders(tree: Tree, modules: list[Module]) -> None:
    columns = {"lines": "lines", "modules": "modules", "functions": "functions", "private_functions": "private"}
    columns |= {"private_once": "once", "public_once": "public 1×", "value_types": "values", "exceptions": "errors"}
    columns |= {"function_median": "median", "function_p90": "p90", "notes_per_100_lines": "notes %"}
    print(f"{'folder':40}" + "".join(f"{title:>10}" for title in columns.values()))
    for folder in sorted({module.folder for module in modules}):
        row = figures(tree, [module for module in modules if module.folder == folder])
        print(f"{folder:40}" + "".join(f"{row[column]:>10,}" for column in columns))


if __name__ == "__main__":
    main()
