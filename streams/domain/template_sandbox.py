"""The Jinja environment that templates are compiled for and run in.

An accepted tree (template_rules) is rewritten before it is compiled, so that what runs is bounded and strict:
printed values go through `_show`, loops through `_loop`, `~` through `_concat`, comparisons are weighed, calls
become our filters, `a.b` and `a['b']` become `lookup`, which knows JSON only. No Python attribute or callable is
reachable from a template; the immutable sandbox below is the second wall.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, cast

from jinja2 import Template, Undefined, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from streams.domain.template_errors import SourceProblem, WorkProblem
from streams.domain.template_filters import FILTERS, range_
from streams.domain.template_rules import METHODS, TokenRules
from streams.domain.template_tests import TESTS, contains
from streams.domain.template_text import escaped, format_
from streams.domain.template_urls import safe_css, safe_css_url, safe_url, safe_url_rest
from streams.domain.template_work import Meter, MissingValue, lookup, missing, number

#: Filters that say something about a missing or null value instead of printing it.
_LENIENT = frozenset({"default", "d", "tojson", "list"})

_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f]")
_ODD_BREAKS = re.compile("[\x0b\x0c\x1c-\x1e]+")
_SURROGATES = re.compile("[\ud800-\udfff]")


class MeteredContext(Context):
    """Jinja's context, and what the rendering may still spend."""

    meter: Meter


RootFunction = Callable[[MeteredContext], Iterator[str]]


# -- what rewritten templates call


def _show(context: MeteredContext, value: Any, label: str) -> str:
    """A value as it is printed: text without control characters; null is as missing as missing."""
    if value is None:
        raise missing(label)
    text: str = value if isinstance(value, str) else context.meter.text(value)
    if text.isprintable():
        return text
    context.meter.charge(len(text))
    if _SURROGATES.search(text):
        raise WorkProblem(f"the variable {label!r} holds a lone surrogate")
    return _ODD_BREAKS.sub(" ", _CONTROLS.sub("", text))


def _need(_context: MeteredContext, value: Any, label: str) -> Any:
    if value is None:
        raise missing(label)
    return value


def _loop(context: MeteredContext, value: Any, cost: int, label: str) -> Sequence[Any]:
    """What a loop runs over, after paying for all its turns."""
    if isinstance(value, (list, tuple, str, dict)):
        context.meter.charge(len(value) * cost)
        return list(value) if isinstance(value, (dict, str)) else value
    if value is None:
        raise missing(label)
    if isinstance(value, Undefined):
        str(value)
    raise WorkProblem(f"{label!r} is not a list")


def _concat(context: MeteredContext, *values: Any) -> str:
    return context.meter.join([context.meter.text(value) for value in values])


def _weigh(context: MeteredContext, value: Any) -> Any:
    context.meter.weigh(value)
    return value


def _cycle(_context: MeteredContext, index0: int, *values: Any) -> Any:
    return values[index0 % len(values)]


_INTERNAL: Mapping[str, Callable[..., Any]] = {
    "_show": _show,
    "_need": _need,
    "_loop": _loop,
    "_concat": _concat,
    "_weigh": _weigh,
    "_cycle": _cycle,
    "_in": lambda context, value, holder: contains(context.meter, value, holder),
    "_range": lambda context, *values: range_(context.meter, *map(number, values)),
    "_format": lambda context, value, *values: format_(context.meter, value, *values),
    "_url": lambda _context, value, image: safe_url(value, image=image),
    "_url_rest": lambda _context, value: safe_url_rest(value),
    "_css": lambda _context, value: safe_css(value),
    "_css_url": lambda _context, value: safe_css_url(value),
}


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test of ours, as Jinja calls it."""

    @pass_context
    def call(context: MeteredContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        return function(context.meter, value, *args, **kwargs)

    return call


class _Code(CodeGenerator):
    """Compiles `a.b`, `a['b']` and `a[1:2]` to our own lookups, which know the name to report."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        # What is printed has been through `_show`: it is text.
        self.write("environment.escaped(" if frame.eval_ctx.autoescape else "(")

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:  # noqa: N802 (Jinja's names)
        self.write("environment.lookup(")
        self.visit(node.node, frame)
        self.write(f", {node.attr!r}, {path_of(node)!r})")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            self._cut(node.node, node.arg, frame)
            return
        self.write("environment.lookup(")
        self.visit(node.node, frame)
        self.write(", ")
        self.visit(node.arg, frame)
        self.write(f", {path_of(node)!r})")

    def _cut(self, owner: nodes.Expr, piece: nodes.Slice, frame: Frame) -> None:
        self.write("environment.cut(context, ")
        self.visit(owner, frame)
        for bound in (piece.start, piece.stop, piece.step):
            self.write(", ")
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """One environment per format: `html` escapes every printed value, text none.

    `as_html` is for text that was written as html: its filters mean the same there.
    """

    code_generator_class = _Code
    context_class = MeteredContext
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})
    lookup = staticmethod(lookup)
    escaped = staticmethod(escaped)

    def __init__(self, *, html: bool, as_html: bool = False) -> None:
        super().__init__(
            undefined=MissingValue, autoescape=html, optimized=False, cache_size=0, extensions=[TokenRules]
        )
        self.globals.clear()
        filters = dict(FILTERS)
        if html or as_html:
            filters |= {"e": filters["string"], "escape": filters["string"]}
        self.filters = {name: _metered(function) for name, function in filters.items()}
        self.filters |= {name: pass_context(function) for name, function in _INTERNAL.items()}
        self.tests = {name: _metered(function) for name, function in TESTS.items()}
        self.html = html

    def cut(self, context: MeteredContext, owner: Any, start: Any, stop: Any, step: Any) -> Any:
        """`owner[start:stop:step]` of a text or list."""
        if not isinstance(owner, (str, list, tuple)):
            raise missing("value") if owner is None else WorkProblem("only texts and lists have slices")
        context.meter.charge(1 + (len(owner) >> (4 if isinstance(owner, str) else 0)))
        return owner[start:stop:step]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on numbers; `+` also joins two texts or two lists."""
        meter = cast(MeteredContext, context).meter
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return meter.join([left, right])
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            meter.charge(len(left) + len(right))
            return left + right
        return number(self.binop_table[operator](number(left), number(right)))

    def call_unop(self, _context: Context, operator: str, arg: Any) -> Any:
        """The sign of a number."""
        return self.unop_table[operator](number(arg))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """JSON only."""
        return lookup(obj, attribute, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """JSON only."""
        return lookup(obj, argument, "value")

    def call(__self, *_args: Any, **_kwargs: Any) -> NoReturn:  # noqa: N805 (Jinja's signature)
        """Nothing can be called."""
        raise SecurityError("calls are not allowed")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """No attribute is."""
        return False

    def compile_tree(self, tree: nodes.Template, places: Mapping[int, str]) -> RootFunction:
        """The render function of a checked tree. `places` says where in the markup each expression stands."""
        _Rewriter(places).body(tree.body)
        code = self.compile(tree)
        return cast(RootFunction, Template.from_code(self, code, {}).root_render_func)


def path_of(node: nodes.Node) -> str:
    """The name to report for a variable: `order.lines[0].sku`."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{path_of(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem):
        key = node.arg.value if isinstance(node.arg, nodes.Const) else None
        if isinstance(key, str) and key.isidentifier():
            return f"{path_of(node.node)}.{key}"
        return f"{path_of(node.node)}[{key if isinstance(key, int) else '…'}]"
    return "value"


def _label_of(node: nodes.Node) -> str:
    """The first variable of an expression, outermost access first."""
    stack = [node]
    while stack:
        candidate = stack.pop()
        if isinstance(candidate, (nodes.Name, nodes.Getattr, nodes.Getitem)):
            return path_of(candidate)
        stack.extend(reversed(list(candidate.iter_child_nodes())))
    return "value"


def _call(name: str, first: nodes.Expr, *args: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(first, name, list(args), [], None, None, lineno=first.lineno)


class _Rewriter:
    """Rewrites a tree in place. `printed` is whether null here would end up in the text."""

    def __init__(self, places: Mapping[int, str]) -> None:
        self._places = places

    def body(self, statements: Sequence[nodes.Node]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.Output):
            node.nodes = [self._output(child) for child in node.nodes]
        elif isinstance(node, nodes.If):
            node.test = self.expression(node.test)
            for part in (node.body, node.elif_, node.else_):
                self.body(part)
        elif isinstance(node, nodes.For):
            self._for(node)
        elif isinstance(node, nodes.Assign):
            node.node = self.expression(node.node)
        elif isinstance(node, nodes.With):
            node.values = [self.expression(value) for value in node.values]
            self.body(node.body)

    def _output(self, node: nodes.Expr) -> nodes.Expr:
        if isinstance(node, nodes.TemplateData):
            return node
        place = self._places.get(id(node), "")
        shown = _call("_show", self.expression(node, isinstance(node, nodes.CondExpr)), nodes.Const(_label_of(node)))
        if place.startswith("url:"):
            return _call("_url", shown, nodes.Const(place == "url:image"))
        return _call(f"_{place}", shown) if place else shown

    def _for(self, node: nodes.For) -> None:
        label = _label_of(node.iter)
        self.body(node.body)
        self.body(node.else_)
        if node.test is not None:
            node.test = self.expression(node.test)
        cost = 2 + sum(map(_cost, node.body)) + (_cost(node.test) if node.test else 0)
        node.iter = _call("_loop", self.expression(node.iter), nodes.Const(cost), nodes.Const(label))

    def expression(self, node: nodes.Node, printed: bool = False) -> nodes.Expr:
        match node:
            case nodes.Name() | nodes.Getattr() | nodes.Getitem():
                done = self._variable(node, printed)
            case nodes.Filter():
                done = self._filter(node)
            case nodes.CondExpr():
                done = self._condition(node, printed)
            case nodes.Compare():
                done = self._compare(node)
            case nodes.Call():
                done = self._method(node)
            case nodes.Concat():
                pieces = [self.expression(piece, True) for piece in node.nodes]
                done = _call("_concat", pieces[0], *pieces[1:])
            case nodes.Mod(left=nodes.Const(value=str())):
                values = node.right.items if isinstance(node.right, nodes.Tuple) else [node.right]
                done = _call("_format", node.left, *(self.expression(value, True) for value in values))
            case _:
                done = self._operands(cast(nodes.Expr, node))
        return done

    def _condition(self, node: nodes.CondExpr, printed: bool) -> nodes.Expr:
        node.test = self.expression(node.test)
        node.expr1 = self._branch(node.expr1, printed)
        node.expr2 = self._branch(node.expr2, printed) if node.expr2 else nodes.Const("")
        return node

    def _branch(self, node: nodes.Expr, printed: bool) -> nodes.Expr:
        label = _label_of(node)
        done = self.expression(node, printed)
        return _call("_need", done, nodes.Const(label)) if printed and not isinstance(node, nodes.Const) else done

    def _operands(self, node: nodes.Expr) -> nodes.Expr:
        """Anything else: the same node over rewritten children."""
        printed = isinstance(node, (nodes.BinExpr, nodes.UnaryExpr)) and not isinstance(
            node, (nodes.And, nodes.Or, nodes.Not)
        )
        for field, value in list(node.iter_fields()):
            if isinstance(value, nodes.Expr):
                setattr(node, field, self.expression(value, printed))
            elif isinstance(value, list):
                setattr(node, field, [self._child(child) for child in value])
        return node

    def _child(self, node: Any) -> Any:
        if isinstance(node, (nodes.Keyword, nodes.Pair)):
            node.value = self.expression(node.value)
        return self.expression(node) if isinstance(node, nodes.Expr) else node

    def _variable(self, node: nodes.Name | nodes.Getattr | nodes.Getitem, printed: bool) -> nodes.Expr:
        label = path_of(node)
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            node.node = self.expression(node.node)
        if isinstance(node, nodes.Getitem):
            node.arg = self.expression(node.arg)
        return _call("_need", node, nodes.Const(label)) if printed else node

    def _filter(self, node: nodes.Filter) -> nodes.Expr:
        strict = node.name not in _LENIENT
        node.node = self.expression(cast(nodes.Expr, node.node), strict)
        node.args = [self.expression(value, strict and node.name != "get") for value in node.args]
        node.kwargs = [self._child(keyword) for keyword in node.kwargs]
        return node

    def _method(self, node: nodes.Call) -> nodes.Expr:
        values = [self.expression(value) for value in node.args]
        target = node.node
        if isinstance(target, nodes.Name):
            return _call("_range", values[0], *values[1:])
        owner = cast(nodes.Getattr, target)
        if owner.attr == "cycle":
            return _call("_cycle", nodes.Getattr(owner.node, "index0", "load"), *values)
        subject = self.expression(owner.node, True)
        if owner.attr == "join":
            return _call("join", values[0], subject)
        return _call(METHODS[owner.attr][0], subject, *values)

    def _compare(self, node: nodes.Compare) -> nodes.Expr:
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        kinds = {operand.op for operand in node.ops}
        first, *rest = [self.expression(side) for side in sides]
        if kinds & {"in", "notin"}:
            if len(rest) > 1:
                raise SourceProblem("comparisons with in can't be chained")
            found = _call("_in", first, rest[0])
            return nodes.Not(found) if "notin" in kinds else found
        if not any(isinstance(side, nodes.Const) for side in sides) or len(rest) > 1:
            first, *rest = [_call("_weigh", side) for side in (first, *rest)]
        node.expr = first
        for operand, side in zip(node.ops, rest, strict=True):
            operand.expr = side
        return node


def _cost(node: nodes.Node) -> int:
    """Steps of one run through a rewritten node; a loop inside pays for its own turns."""
    total, stack = 0, [node]
    while stack:
        item = stack.pop()
        total += 1
        children = [item.iter, *item.else_] if isinstance(item, nodes.For) else item.iter_child_nodes()
        stack.extend(children)
    return total
