"""Known branches and entries of tables in place of tests and look-ups."""

import ast
import copy
from collections.abc import Mapping
from typing import Any

from lopt.export.constants import (
    Constants,
    Replaced,
    constants,
    is_known,
    known_in,
    read_in,
    value_of,
)
from lopt.export.linking import Program


def branches(program: Program) -> None:
    """Takes known branches, and leaves out checks of what is known."""
    fixed = constants(program)
    for definition in program.definitions:
        known = known_in(definition.node, fixed)
        definition.node = _Branches(known).visit(definition.node)


class _Branches(ast.NodeTransformer):
    """Takes known branches, and leaves out what no one reaches or waits for."""

    def __init__(self, known: Constants):
        self.known = known

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
            if ":" in call.func.id and all(is_known(x, self.known) for x in given):
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
            whole = isinstance(end.value, ast.Name) and end.value.id == name
            elsewhere = any(name in read_in(x) for x in [*body[:-2], value])
            if not elsewhere and (whole or isinstance(value, ast.Name)):
                return [*body[:-2], Replaced({name: value}).visit(end)]
    return body


def tables(program: Program) -> None:
    """Writes entries of global tables where they are looked up by what is known."""
    tables = {
        d.names[0]: d.node.value
        for d in program.definitions
        if isinstance(d.node, ast.Assign | ast.AnnAssign)
        and isinstance(d.node.value, ast.Dict)
    }
    fixed = constants(program)
    for definition in program.definitions:
        known = known_in(definition.node, fixed)
        definition.node = _Tables(known, tables).visit(definition.node)


class _Tables(ast.NodeTransformer):
    """Entries in place of look-ups, also of `tuple(TABLE[x] … for x in known)`."""

    def __init__(self, known: Constants, tables: Mapping[str, ast.Dict]):
        self.known, self.tables = known, tables

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        self.generic_visit(node)
        table = self.tables.get(getattr(node.value, "id", ""))
        if table is None or not is_known(node.slice, self.known):
            return node
        key = value_of(node.slice, self.known)
        entries = zip(table.keys, table.values, strict=True)
        return next(v for k, v in entries if k is not None and value_of(k, {}) == key)

    def visit_Call(self, node: ast.Call) -> Any:
        match node:
            case ast.Call(
                func=ast.Name(id="tuple"),
                args=[ast.GeneratorExp(elt=item, generators=[each])],
            ) if self._looks_up(item, each) and is_known(each.iter, self.known):
                values = value_of(each.iter, self.known)
                items = [self._at(item, each.target, v) for v in values]
                return ast.Tuple(items, ast.Load())
            case ast.Call(func=ast.Name(id="tuple"), args=[ast.Tuple() as whole]):
                return whole
        return self.generic_visit(node)

    def _looks_up(self, item: ast.expr, each: ast.comprehension) -> bool:
        found = (n for n in ast.walk(item) if isinstance(n, ast.Subscript))
        return not each.ifs and any(
            getattr(n.value, "id", "") in self.tables
            and getattr(n.slice, "id", "") == getattr(each.target, "id", None)
            for n in found
        )

    def _at(self, item: ast.expr, target: ast.expr, value: Any) -> ast.expr:
        known = {**self.known, getattr(target, "id", ""): value}
        return _Tables(known, self.tables).visit(copy.deepcopy(item))
