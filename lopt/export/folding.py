"""A program, simplified by what is known before it runs.

What a parameter is in all calls is known; so is which branch is then taken, which entry
of a table is looked up, which functions, methods and variables are of no use any more,
and that a check of constants has passed. All of it follows from the root function, which
calls a factory with its options. Nothing is computed: expressions stay as lopt has them.
"""

import ast
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lopt.export.linking import Program, bound_names, scope_of

Constants = Mapping[str, Any]


class Unknown(Exception):
    """An expression that is not known before the program runs."""


def folded(program: Program, root: str) -> Program:
    """The program, as much simplified as is known, and what its root needs of it."""
    before = ""
    while before != (now := _text(program)):
        before = now
        for fold in (_parameters, _branches, _tables, _once, _identities, _inlined):
            fold(program)
        _unused(program, root)
        _unreached(program, root)
    return program


def _text(program: Program) -> str:
    return "\n".join(ast.dump(d.node) for d in program.definitions)


def value_of(node: ast.expr, known: Constants) -> Any:
    """The value of an expression of constants.

    Raises:
      Unknown: it is not one.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Tuple(elts=items):
            return tuple(value_of(item, known) for item in items)
        case ast.List(elts=items):
            return [value_of(item, known) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {value_of(k, known): value_of(v, known) for k, v in pairs}
        case ast.Call(func=ast.Name(id="tuple"), args=[items], keywords=[]):
            return tuple(value_of(items, known))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not value_of(operand, known)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value_of(operand, known)
        case ast.BoolOp(op=op, values=values):
            return _logical(op, values, known)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _RULES:
            return _RULES[type(op)](value_of(left, known), value_of(right, known))
    raise Unknown


_RULES: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}


def _logical(op: ast.boolop, values: Sequence[ast.expr], known: Constants) -> Any:
    """`and` is known where one side is false, `or` where one is true."""
    decides = isinstance(op, ast.Or)
    unknown, value = False, not decides
    for node in values:
        try:
            value = value_of(node, known)
        except Unknown:
            unknown = True
            continue
        if bool(value) == decides:
            return value
    if unknown:
        raise Unknown
    return value


def is_known(node: ast.expr, known: Constants) -> bool:
    """Whether it has a value now."""
    try:
        value_of(node, known)
    except Unknown:
        return False
    return True


def _functions(program: Program) -> dict[str, ast.FunctionDef]:
    return {
        d.names[0]: d.node
        for d in program.definitions
        if isinstance(d.node, ast.FunctionDef)
    }


def _constants(program: Program) -> dict[str, Any]:
    """Global names of known values."""
    found: dict[str, Any] = {}
    for definition in program.definitions:
        node = definition.node
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if is_known(node.value, found):
                found[definition.names[0]] = value_of(node.value, found)
    return found


def _known(program: Program, node: ast.stmt) -> dict[str, Any]:
    """What is known in a top-level statement: global constants, and parameters.

    A parameter is known by its default where that is all that it is ever given.
    """
    known = _constants(program)
    if isinstance(node, ast.FunctionDef):
        names = getattr(node, "known", set())
        for arg, default in _defaults(node).items():
            if arg in names:
                known[arg] = value_of(default, known)
    return known


def _defaults(node: ast.FunctionDef) -> dict[str, ast.expr]:
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = node.args.defaults
    pairs = list(
        zip(positional[len(positional) - len(defaults) :], defaults, strict=True)
    )
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {arg.arg: default for arg, default in pairs if default is not None}


def _parameters(program: Program) -> None:
    """What all calls of a function give becomes the default, which none of them gives."""
    functions = _functions(program)
    calls: dict[str, list[tuple[ast.Call, Constants]]] = {name: [] for name in functions}
    for definition in program.definitions:
        known = _known(program, definition.node)
        called = set()
        for node in ast.walk(definition.node):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in calls:
                    calls[node.func.id].append((node, known))
                    called.add(id(node.func))
        for node in ast.walk(definition.node):
            if isinstance(node, ast.Name) and id(node) not in called:
                calls.pop(node.id, None)  # passed on: who calls it is not known
    for name, found in calls.items():
        if found and not any(_has_star(call) for call, _ in found):
            _specialize(functions[name], found, _constants(program))


def _has_star(call: ast.Call) -> bool:
    stars = [a for a in call.args if isinstance(a, ast.Starred)]
    return bool(stars) or any(keyword.arg is None for keyword in call.keywords)


def _specialize(
    node: ast.FunctionDef, calls: Sequence[tuple[ast.Call, Constants]], known: Constants
) -> None:
    args, inner = node.args, _rebound(node)
    if args.vararg or args.kwarg or args.posonlyargs:
        return
    defaults = _defaults(node)
    for arg in [*args.args, *args.kwonlyargs]:
        name = arg.arg
        if name in inner:
            continue
        position = args.args.index(arg) if arg in args.args else None
        values = [_given(call, name, position, defaults.get(name)) for call, _ in calls]
        found = set()
        for given, (_, there) in zip(values, calls, strict=True):
            inside = known if given is defaults.get(name) else there
            has_value = given is not None and is_known(given, inside)
            found.add(repr(value_of(given, inside)) if has_value else None)
        if len(found) != 1 or None in found:
            continue
        (text,) = found
        _fix(node, arg, ast.parse(str(text), mode="eval").body)
        for call, _ in calls:
            if position is not None and position < len(call.args):
                del call.args[position]
            call.keywords = [k for k in call.keywords if k.arg != name]
        if position is not None:
            return  # the places of the others have changed: look again


def _given(
    call: ast.Call, name: str, position: int | None, default: ast.expr | None
) -> ast.expr | None:
    """What a call gives a parameter."""
    if position is not None and position < len(call.args):
        return call.args[position]
    by_name = {keyword.arg: keyword.value for keyword in call.keywords}
    return by_name.get(name, default)


def _fix(node: ast.FunctionDef, arg: ast.arg, value: ast.expr) -> None:
    """Makes a parameter a keyword of this default."""
    args = node.args
    known = {*getattr(node, "known", set()), arg.arg}
    node.known = known  # type: ignore[attr-defined]
    if arg in args.kwonlyargs:
        args.kw_defaults[args.kwonlyargs.index(arg)] = value
        return
    index = args.args.index(arg) - len(args.args)
    if -index <= len(args.defaults):
        del args.defaults[index]
    args.args.remove(arg)
    args.kwonlyargs.append(arg)
    args.kw_defaults.append(value)


def _rebound(node: ast.FunctionDef) -> set[str]:
    """Names that mean something else, too, somewhere in a function."""
    found = bound_names(node.body)
    for part in ast.walk(node):
        if part is not node:
            found |= scope_of(part) or set()
    return found


def _branches(program: Program) -> None:
    for definition in program.definitions:
        known = _known(program, definition.node)
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

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if not is_known(node.test, self.known):
            return node
        return node.body if value_of(node.test, self.known) else node.orelse

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
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

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
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
            if whole or isinstance(value, ast.Name):
                return [*body[:-2], _Replaced({name: value}).visit(end)]
    return body


class _Replaced(ast.NodeTransformer):
    """Expressions in place of names."""

    def __init__(self, values: Mapping[str, ast.expr]):
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node)


def _tables(program: Program) -> None:
    tables = {
        d.names[0]: d.node.value
        for d in program.definitions
        if isinstance(d.node, ast.Assign | ast.AnnAssign)
        and isinstance(d.node.value, ast.Dict)
    }
    for definition in program.definitions:
        known = _known(program, definition.node)
        definition.node = _Tables(known, tables).visit(definition.node)


class _Tables(ast.NodeTransformer):
    """Entries in place of look-ups, also of `tuple(TABLE[x] … for x in known)`."""

    def __init__(self, known: Constants, tables: Mapping[str, ast.Dict]):
        self.known, self.tables = known, tables

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        table = self.tables.get(getattr(node.value, "id", ""))
        if table is None or not is_known(node.slice, self.known):
            return node
        key = value_of(node.slice, self.known)
        entries = zip(table.keys, table.values, strict=True)
        return next(v for k, v in entries if k is not None and value_of(k, {}) == key)

    def visit_Call(self, node: ast.Call) -> ast.expr:
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


def _once(program: Program) -> None:
    """A known parameter that is read once is written there, a field by its name."""
    fields = {
        d.names[0]: [x.target.id for x in d.node.body if isinstance(x, ast.AnnAssign)]
        for d in program.definitions
        if isinstance(d.node, ast.ClassDef)
    }

    class Named(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.expr:
            self.generic_visit(node)
            names = fields.get(getattr(node.func, "id", ""), [])
            if names and sum(isinstance(x, ast.Constant) for x in node.args) > 2:
                pairs = zip(names, node.args, strict=False)
                given = [ast.keyword(name, value) for name, value in pairs]
                node.args, node.keywords = [], [*given, *node.keywords]
            return node

    for node in _functions(program).values():
        defaults = _defaults(node)
        for name in getattr(node, "known", set()) & defaults.keys():
            reads = [
                n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name
            ]
            if len(reads) == 1:
                node.body = [
                    _Replaced({name: defaults[name]}).visit(x) for x in node.body
                ]
        Named().visit(node)


def _identities(program: Program) -> None:
    """What a function returns as it is takes the place of its call."""
    same = {name for name, node in _functions(program).items() if _is_identity(node)}

    class Inlined(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.expr:
            self.generic_visit(node)
            if getattr(node.func, "id", "") in same and len(node.args) == 1:
                return node.args[0]
            return node

    for definition in program.definitions:
        definition.node = Inlined().visit(definition.node)


def _is_identity(node: ast.FunctionDef) -> bool:
    match _without_doc(node.body), node.args.args:
        case [ast.Return(value=ast.Name(id=name))], [ast.arg(arg=only)]:
            return name == only and not node.args.kwonlyargs
    return False


def _without_doc(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    has_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if has_doc else body


def _inlined(program: Program) -> None:
    """A function that is one expression, called once, is written there."""
    for name, node in _functions(program).items():
        match _without_doc(node.body):
            case [ast.Return(value=ast.expr() as value)] if not _rebound(node):
                _inline(program, name, node, value)


def _inline(program: Program, name: str, node: ast.FunctionDef, value: ast.expr) -> None:
    parts = [part for d in program.definitions for part in ast.walk(d.node)]
    names = [n for n in parts if isinstance(n, ast.Name) and n.id == name]
    calls = [n for n in parts if isinstance(n, ast.Call) and n.func in names]
    args = [arg.arg for arg in node.args.args]
    if len(names) != 1 or len(calls) != 1 or node.args.kwonlyargs:
        return
    (call,) = calls
    reads = [n.id for n in ast.walk(value) if isinstance(n, ast.Name)]
    if call.keywords or len(call.args) != len(args) or _has_star(call):
        return
    for arg, given in zip(args, call.args, strict=True):
        if reads.count(arg) > 1 and not isinstance(
            given, ast.Name | ast.Attribute | ast.Constant
        ):
            return
    value = _Replaced(dict(zip(args, call.args, strict=True))).visit(value)
    for definition in program.definitions:
        definition.node = _Swapped(call, value).visit(definition.node)


class _Swapped(ast.NodeTransformer):
    """One expression in place of another."""

    def __init__(self, old: ast.expr, new: ast.expr):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)


def _unused(program: Program, root: str) -> None:
    """Leaves out variables, functions and known parameters that are not read."""
    for name, node in _functions(program).items():
        if name != root:
            _Unused(read(node)).visit(node)
            known = getattr(node, "known", set())
            for arg in [a for a in node.args.kwonlyargs if a.arg in known]:
                if arg.arg not in read(node):
                    index = node.args.kwonlyargs.index(arg)
                    del node.args.kwonlyargs[index], node.args.kw_defaults[index]


def read(node: ast.AST) -> set[str]:
    """The names that are read somewhere in a statement."""
    names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return {n.id for n in names if not isinstance(n.ctx, ast.Store | ast.Del)}


class _Unused(ast.NodeTransformer):
    def __init__(self, read: set[str]):
        self.read, self.depth = read, 0

    def visit_Delete(self, node: ast.Delete) -> None:
        """Of what is not read: a habit of lopt's."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if self.depth and node.name not in self.read:
            return None
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        targets = bound_names(list(node.targets))
        is_plain = all(isinstance(t, ast.Name) for t in node.targets)
        return None if is_plain and not targets & self.read else node


def _unreached(program: Program, root: str) -> None:
    """Keeps what the root reaches, and of classes what someone asks for."""
    definitions = program.by_name()
    attributes = {
        node.attr
        for d in program.definitions
        for node in ast.walk(d.node)
        if isinstance(node, ast.Attribute)
    }
    for definition in program.definitions:
        if isinstance(definition.node, ast.ClassDef):
            definition.node.body = [
                item
                for item in definition.node.body
                if not isinstance(item, ast.FunctionDef)
                or item.name in attributes
                or item.name.startswith("__")
            ]
    reached, todo = set(), [root]
    while todo:
        name = todo.pop()
        if name in definitions and name not in reached:
            reached |= {*definitions[name].names}
            todo += read(definitions[name].node)
    program.definitions = [d for d in program.definitions if reached & {*d.names}]
