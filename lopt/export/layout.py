"""A program as text: short names, comments beside what they are of, filled lines.

It is written as densely as it can be read: a blank line and a title for each module that
code is from, the first words of a docstring as a comment, no line of over 90 characters
but those of long strings.
"""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterable

from lopt.export import sources
from lopt.export.linking import Definition, Program

WIDTH = 90


def code(program: Program) -> Iterable[str]:
    """The definitions, module by module, under what each module says it is."""
    names = _names(program)
    owner = None
    for definition in program.definitions:
        module = definition.names[0].partition(":")[0]
        if module != owner:
            owner = module
            yield ""
            yield textwrap.shorten(f"# {_title(module)}", WIDTH, placeholder=" …")
        yield _definition(definition, names)


def _title(module: str) -> str:
    """Of the code of a module."""
    if not module:
        return "What is called from outside."
    return f"{module}: {sources.module(module).doc.partition('.')[0].partition(':')[0]}"


def _names(program: Program) -> dict[str, str]:
    """Short names for the global ones: `name`, or `module_name` where that is taken."""
    wanted: dict[str, set[str]] = {}
    for definition in program.definitions:
        for full in definition.names:
            wanted.setdefault(full.partition(":")[2], set()).add(full)
    hidden = _Hidden()
    for definition in program.definitions:
        hidden.visit(definition.node)
    found = {}
    for short, fulls in wanted.items():
        for full in fulls:
            module = full.partition(":")[0].rpartition(".")[2]
            is_taken = full in hidden.found or (len(fulls) > 1 and module)
            private = "_" if short.startswith("_") else ""
            longer = f"{private}{module}_{short.lstrip('_')}"
            found[full] = longer if is_taken else short
    assert len({*found.values()}) == len(found), found
    return found


class _Hidden(ast.NodeVisitor):
    """Global names whose short form means something else where they are read."""

    def __init__(self):
        self.scopes: list[set[str]] = []
        self.found: set[str] = set()

    def visit(self, node: ast.AST) -> None:
        names = sources.scope_of(node)
        self.scopes.append(names or set())
        super().visit(node)
        self.scopes.pop()

    def visit_Name(self, node: ast.Name) -> None:
        short = node.id.partition(":")[2]
        if any(short in names for names in self.scopes):
            self.found.add(node.id)


def _definition(definition: Definition, names: dict[str, str]) -> str:
    node = definition.node
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            part.id = names.get(part.id, part.id)
        elif isinstance(part, ast.FunctionDef | ast.ClassDef):
            _shorten_doc(part)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.name = names[definition.names[0]]
    text = ast.unparse(ast.fix_missing_locations(node)) + "\n"
    text = "".join(map(_without_parentheses, text.splitlines(keepends=True)))
    for part in ast.walk(node):
        if comment := getattr(part, sources.COMMENT, ""):
            line = f"    {ast.unparse(part)}\n"
            text = text.replace(line, f"{line[:-1]}  {comment}\n")
    lines = _beside(text.replace("\n\n", "\n")).splitlines()
    if definition.doc and len(lines) == 1:
        comment = f"{lines[0]}  # {_short(definition.doc)}"
        lines = [comment] if len(comment) <= WIDTH else lines
    return "\n".join(map(filled, lines))


def _without_parentheses(line: str) -> str:
    """A line without those that say nothing, which Python's own writer sets."""
    wanted = _tree(line)
    if wanted is None:
        return line
    start = line.find("(")
    while start >= 0:
        ends = [i for i, c in enumerate(line) if c == ")" and i > start]
        for end in ends:
            shorter = line[:start] + line[start + 1 : end] + line[end + 1 :]
            if _tree(shorter) == wanted:
                line = shorter
                break
        start = line.find("(", start + 1)
    return line


def _tree(line: str) -> str | None:
    """What a line of code says; None: it is not one of itself."""
    statement = re.sub(r"^el(if .*)", r"\1", line.strip())
    statement += " pass" if statement.endswith(":") else ""
    try:
        return ast.dump(ast.parse(statement))
    except SyntaxError:
        return None


def _short(doc: str) -> str:
    """The first sentence."""
    paragraph = inspect.cleandoc(doc).partition("\n\n")[0]
    return " ".join(paragraph.partition(". ")[0].rstrip(".").split())


def _shorten_doc(node: ast.FunctionDef | ast.ClassDef) -> None:
    doc = ast.get_docstring(node)
    if doc is not None:
        node.body[0] = ast.Expr(ast.Constant(_short(doc)))
        node.body += [] if node.body[1:] else [ast.Pass()]


def _beside(text: str) -> str:
    """The code, docstrings as comments beside what they are of, as far as they fit."""

    def beside(found: re.Match[str]) -> str:
        code, room = found[1], WIDTH - len(found[1]) - len("  # ")
        clauses = re.split(r"(?=[;:] |, | \()", found[2])
        starts = ["".join(clauses[:i]) for i in range(len(clauses), 0, -1)]
        fit = [x for x in starts if len(x) <= room and x.count("[") == x.count("]")]
        if fit and len(fit[0]) > 9:
            return f"{code}  # {fit[0]}\n"
        if room < 10:
            return f"{code}\n"
        short = textwrap.shorten(found[2], room, placeholder=" …")
        return f"{code}  # {short}\n"

    return re.sub(r"^(.*:)\n *\"\"\"(.*)\"\"\"\n", beside, text, flags=re.M)


def filled(line: str) -> str:
    """A line of code as lines of at most `WIDTH`, broken where the fewest brackets are.

    What has none gets some; what cannot be broken, a string, stays as long as it is.
    """
    plain = _broken(line)
    parts = re.match(r"( *(?:return|if|elif|while|[\w., ]+ =) )(.*?)(:?)$", line)
    if max(map(len, plain.splitlines()), default=0) <= WIDTH or not parts:
        return plain
    return _broken(f"{parts[1]}({parts[2]}){parts[3]}")


def _broken(line: str) -> str:
    body = line.strip()
    indent = margin = len(line) - len(line.lstrip())
    lines, start, places = [], 0, _places(body) if len(line) > WIDTH else []
    while indent + len(body) - start > WIDTH:
        room = WIDTH - indent
        fit = [(badness, -i) for i, badness in places if 0 < i - start <= room]
        if not fit:
            break
        at = -min([(b, i) for b, i in fit if -i - start > room / 2] or fit)[1]
        lines.append(" " * indent + body[start:at])
        start, indent = at + 1, margin + (8 if body.endswith(":") else 4)
    return "\n".join([*lines, " " * indent + body[start:]])


def _places(line: str) -> list[tuple[int, int]]:
    """Spaces between words of a line that lie in brackets, and how bad a break is there.

    The more brackets, the worse; inside of what has no comma, worse by one.
    """
    found, depth, quoted, before = [], 0, 0, ""
    for token in tokenize.generate_tokens(io.StringIO(line).readline):
        kind, text = tokenize.tok_name[token.type], token.string
        if depth and not quoted and line[token.start[1] - 1 : token.start[1]] == " ":
            is_end = before == "," or text in ("for", "if", "else")
            found.append((token.start[1] - 1, 2 * depth + (not is_end)))
        if kind == "OP":
            depth += (text in "([{") - (text in ")]}")
        quoted += (kind == "FSTRING_START") - (kind == "FSTRING_END")
        before = text
    return found
