"""House limits that no linter knows: 400 lines a file, 60 a function, 9 parameters.

python tools/check_sizes.py
"""

import ast
import sys
from pathlib import Path

MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 400, 60, 9
Function = ast.FunctionDef | ast.AsyncFunctionDef


def findings(path: Path) -> list[str]:
    """Return what a file has too much of, one line each."""
    text = path.read_text(encoding="utf-8")
    found = []
    lines = text.count("\n")
    if lines > MAX_FILE:
        found.append(f"{path}: {lines} lines, {MAX_FILE} allowed")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, Function):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        names = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if length > MAX_FUNCTION:
            found.append(
                f"{path}:{node.lineno} {node.name}: {length} lines, {MAX_FUNCTION} allowed"
            )
        if count > MAX_PARAMETERS:
            found.append(
                f"{path}:{node.lineno} {node.name}: {count} parameters, {MAX_PARAMETERS} allowed"
            )
    return found


def main() -> None:
    root = Path(__file__).parents[1]
    folders = ("src", "benchmarks", "examples", "tools")
    files = [file for folder in folders for file in sorted((root / folder).rglob("*.py"))]
    found = [line for file in files for line in findings(file)]
    sys.exit("\n".join(found) or None)


if __name__ == "__main__":
    main()
