"""House limits that no linter knows, for sizes and names.

At most 400 lines a file, 60 a function, 9 parameters and 6 modules at the package root; no public
class shares its name with another of the package or with a class of a library it wraps.

    python tools/check_sizes.py
"""

import ast
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "causalseg"
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_ROOT_MODULES = 400, 60, 9, 6
WRAPPED = ("peft", "timm.models", "transformers")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def check_file(path: Path, text: str) -> Iterator[str]:
    """Yield what is too large in a file, one line each."""
    lines = text.count("\n")
    if lines > MAX_FILE:
        yield f"{path}: {lines} lines, {MAX_FILE} allowed"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, Function):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        names = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        for size, limit, what in (
            (length, MAX_FUNCTION, "lines"),
            (count, MAX_PARAMETERS, "parameters"),
        ):
            if size > limit:
                yield f"{path}:{node.lineno} {node.name}: {size} {what}, {limit} allowed"


def check_package(files: Iterable[Path], wrapped: Iterable[str] = WRAPPED) -> Iterator[str]:
    """Yield public classes of a package whose name is used twice or by a wrapped library."""
    places: dict[str, list[Path]] = {}
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(file)
    libraries = {library: set(dir(importlib.import_module(library))) for library in wrapped}
    for name, paths in places.items():
        if len(paths) > 1:
            yield f"class {name} is in {' and '.join(map(str, paths))}: rename all but one"
        for library, names in libraries.items():
            if name in names:
                yield f"class {name} in {paths[0]} is also a name of {library}: rename it"


def main() -> None:
    folders = ("src", "benchmarks", "examples", "tools")
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    found = [line for file in files for line in check_file(file, file.read_text("utf-8"))]
    at_root = sorted(path.name for path in PACKAGE.glob("*.py"))
    if len(at_root) > MAX_ROOT_MODULES:
        found.append(f"{PACKAGE}: {', '.join(at_root)}: {MAX_ROOT_MODULES} modules allowed")
    found += check_package(sorted(PACKAGE.rglob("*.py")))
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
