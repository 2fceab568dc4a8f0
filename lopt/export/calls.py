"""Functions with only those parameters that their calls differ in; small ones inlined."""

import ast
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lopt.export.constants import (
    Constants,
    Replaced,
    constants,
    defaults_of,
    functions,
    has_star,
    is_known,
    known_in,
    read_in,
    rebound,
    value_of,
    without_doc,
)
from lopt.export.linking import Program


def parameters(program: Program) -> None:
    """What all calls of a function give becomes the default, which none of them gives."""
    defined = functions(program)
    calls: dict[str, list[tuple[ast.Call, Constants]]] = {name: [] for name in defined}
    fixed = constants(program)
    for definition in program.definitions:
        known = known_in(definition.node, fixed)
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
        if found and not any(has_star(call) for call, _ in found):
            _specialize(defined[name], found, fixed)


def _specialize(
    node: ast.FunctionDef, calls: Sequence[tuple[ast.Call, Constants]], known: Constants
) -> None:
    args, inner = node.args, rebound(node)
    if args.vararg or args.kwarg or args.posonlyargs:
        return
    defaults = defaults_of(node)
    for arg in [*args.args, *args.kwonlyargs]:
        name = arg.arg
        if name in inner:
            continue
        position = args.args.index(arg) if arg in args.args else None
        values = [_given(call, name, position, defaults.get(name)) for call, _ in calls]
        found = set()
        for given, (_, there) in zip(values, calls, strict=True):
            inside = known if given is defaults.get(name) else there
            if given is None or not is_known(given, inside):
                found.add(None)
            else:
                found.add(repr(value_of(given, inside)))
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


def once(program: Program) -> None:
    """A known parameter that is read once is written there, a field by its name."""
    fields = {
        d.names[0]: [
            ast.unparse(x.target) for x in d.node.body if isinstance(x, ast.AnnAssign)
        ]
        for d in program.definitions
        if isinstance(d.node, ast.ClassDef)
    }

    class Named(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> Any:
            self.generic_visit(node)
            names = fields.get(getattr(node.func, "id", ""), [])
            if names and sum(isinstance(x, ast.Constant) for x in node.args) > 2:
                pairs = zip(names, node.args, strict=False)
                given = [ast.keyword(name, value) for name, value in pairs]
                node.args, node.keywords = [], [*given, *node.keywords]
            return node

    for node in functions(program).values():
        defaults = defaults_of(node)
        for name in getattr(node, "known", set()) & defaults.keys():
            reads = [
                n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name
            ]
            if len(reads) == 1:
                node.body = [Replaced({name: defaults[name]}).visit(x) for x in node.body]
        Named().visit(node)


AS_GIVEN = {
    "lopt.optimizers.mixing:with_same_rms",
    "lopt.sharding:alike",
    *(f"lopt.torch.shards:{name}" for name in ("local", "whole", "added_up")),
    *(f"lopt.torch.shards:{name}" for name in ("cut", "joined")),
    "lopt.torch.bases:_whole",
}
"""Functions that return the first argument as it is, unless it is spread by hand, or
something of the same use, which takes less memory."""


def identities(program: Program) -> None:
    """What a function returns as it is takes the place of its call."""
    same = {name for name, node in functions(program).items() if _is_identity(node)}

    class Inlined(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> Any:
            self.generic_visit(node)
            name = getattr(node.func, "id", "")
            is_same = name in same and len(node.args) == 1
            return node.args[0] if is_same or name in AS_GIVEN else node

    for definition in program.definitions:
        definition.node = Inlined().visit(definition.node)


def _is_identity(node: ast.FunctionDef) -> bool:
    match without_doc(node.body), node.args.args:
        case [ast.Return(value=ast.Name(id=name))], [ast.arg(arg=only)]:
            return name == only and not node.args.kwonlyargs
    return False


def inlined(program: Program) -> None:
    """A function that is one expression, called once, is written there."""
    parts = [part for d in program.definitions for part in ast.walk(d.node)]
    uses = Counter(part.id for part in parts if isinstance(part, ast.Name))
    calls = {
        part.func.id: part
        for part in parts
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)
    }
    for name, node in functions(program).items():
        if uses[name] == 1 and name in calls:
            match without_doc(node.body):
                case [ast.Return(value=ast.expr() as value)]:
                    _inline(program, calls[name], node, value)


def _inline(
    program: Program, call: ast.Call, node: ast.FunctionDef, value: ast.expr
) -> None:
    args = [arg.arg for arg in node.args.args]
    if node.args.kwonlyargs:
        return
    inner = rebound(node)
    if inner & {*args, *read_in(call)}:
        return
    reads = [n.id for n in ast.walk(value) if isinstance(n, ast.Name)]
    if call.keywords or len(call.args) != len(args) or has_star(call):
        return
    for arg, given in zip(args, call.args, strict=True):
        often = reads.count(arg) > 1 or inner  # in a loop of its own
        if often and not isinstance(given, ast.Name | ast.Attribute | ast.Constant):
            return
    value = Replaced(dict(zip(args, call.args, strict=True))).visit(value)
    for definition in program.definitions:
        definition.node = _Swapped(call, value).visit(definition.node)


class _Swapped(ast.NodeTransformer):
    """One expression in place of another."""

    def __init__(self, old: ast.expr, new: ast.expr):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)
