"""Known branches and entries of tables in place of tests and look-ups."""

import ast
from collections import Counter
from typing import Any

from lopt.export.constants import (
    Constants,
    Replaced,
    constants,
    functions,
    is_known,
    known_in,
    read_in,
    value_of,
    without_doc,
)
from lopt.export.linking import Program
from lopt.export.sources import scope_of


def branches(program: Program) -> None:
    """Takes known branches, and leaves out checks of what is known."""
    fixed = constants(program)
    defined = functions(program).items()
    empty = {name for name, node in defined if _is_empty(without_doc(node.body))}
    for definition in program.definitions:
        known = known_in(definition.node, fixed)
        definition.node = _Branches(known, empty).visit(definition.node)


def _is_empty(body: list[ast.stmt]) -> bool:
    return all(isinstance(statement, ast.Pass) for statement in body)


class _Branches(ast.NodeTransformer):
    """Takes known branches, and leaves out what no one reaches or waits for."""

    def __init__(self, known: Constants, empty: set[str]):
        self.known, self.empty = known, empty

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if not is_known(node.test, self.known):
            return node if node.body or node.orelse else None
        return node.body if value_of(node.test, self.known) else node.orelse

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        self.generic_visit(node)
        if not is_known(node.test, self.known):
            return node
        return node.body if value_of(node.test, self.known) else node.orelse

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        """Without what says nothing: true sides of `and`, false ones of `or`."""
        self.generic_visit(node)
        says_nothing = isinstance(node.op, ast.And)
        node.values = [
            v
            for v in node.values[:-1]
            if not is_known(v, self.known)
            or bool(value_of(v, self.known)) != says_nothing
        ] + node.values[-1:]
        return node if len(node.values) > 1 else node.values[0]

    def visit_For(self, node: ast.For) -> Any:
        self.generic_visit(node)
        return node if node.body else None

    def visit_Expr(self, node: ast.Expr) -> Any:
        """A function of the package that is called for nothing is a check."""
        call = node.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            is_check = all(is_known(x, self.known) for x in given)
            if call.func.id in self.empty or (is_check and ":" in call.func.id):
                return None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self.generic_visit(node)
        ends = [i for i, s in enumerate(node.body) if isinstance(s, ast.Return)]
        body = node.body[: ends[0] + 1] if ends else node.body
        node.body = _without_alias(body) or [ast.Pass()]
        return node


def _without_alias(body: list[ast.stmt]) -> list[ast.stmt]:
    """A body that returns at its end what it would name first, or names a name."""
    match body[-2:]:
        case [ast.Assign(targets=[ast.Name(id=name)], value=value), ast.Return() as end]:
            elsewhere = any(name in read_in(x) for x in [*body[:-2], value])
            is_name = isinstance(value, ast.Name)
            if not elsewhere and (is_name or _reads_first(end, name)):
                return [*body[:-2], Replaced({name: value}).visit(end)]
    return body


def _reads_first(end: ast.Return, name: str) -> bool:
    """Whether nothing is called before the name is read, once, and not in a loop."""
    parts = list(ast.walk(end))
    num_reads = sum(isinstance(x, ast.Name) and x.id == name for x in parts)
    calls = [x for x in parts if isinstance(x, ast.Call)]
    is_first = not calls or (len(calls) == 1 and name in read_in(calls[0]))
    return num_reads == 1 and is_first and all(scope_of(x) is None for x in parts)


def tables(program: Program) -> None:
    """Leaves out entries of tables of functions whose names no one writes elsewhere."""
    parts = [part for d in program.definitions for part in ast.walk(d.node)]
    written = Counter(repr(p.value) for p in parts if isinstance(p, ast.Constant))
    for definition in program.definitions:
        match definition.node:
            case ast.Assign(value=ast.Dict(keys=keys, values=values) as table):
                if all(isinstance(value, ast.Name) for value in values):
                    pairs = zip(keys, values, strict=True)
                    kept = [p for p in pairs if written[repr(_text_of(p[0]))] > 1]
                    table.keys, table.values = [k for k, _ in kept], [v for _, v in kept]


def _text_of(key: ast.expr | None) -> Any:
    return key.value if isinstance(key, ast.Constant) else None
