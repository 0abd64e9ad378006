"""Which Jinja source is accepted: an allow-list over its tokens, then over its syntax tree.

Nothing here compiles or evaluates. Jinja folds constants while compiling, so `{{ 'x' * 10**9 }}` must be
refused before that; and its parser is recursive, so 3,000 parentheses must be refused before *that*.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream

from streams.domain.template_errors import SourceProblem

#: Compiling costs 10 to 20 µs per token, and it happens inside the event loop. A variable takes three to five.
MAX_TOKENS = 2_000
MAX_TOKENS_PER_TAG = 250
MAX_NUMBER = 1e30
MAX_BRACKETS = 20
MAX_BLOCKS = 10
MAX_DEPTH = 50
MAX_NODES = 2_000
MAX_LOOPS = 3
MAX_BRANCHES = 40
MAX_LINES = 20_000
MAX_COMMENTS = 1_000
MAX_NAME = 100

TAGS = frozenset({"if", "elif", "else", "endif", "for", "endfor", "set", "with", "endwith"})
_OPENERS = frozenset({"if", "for", "with"})
_BRACKETS = {"lparen": 1, "lbracket": 1, "lbrace": 1, "rparen": -1, "rbracket": -1, "rbrace": -1}

#: Names with a meaning of their own inside compiled templates.
RESERVED_NAMES = frozenset({"self", "super", "caller", "varargs", "kwargs"})
LOOP_ATTRIBUTES = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "previtem", "nextitem"}
)
#: Calls of methods that templates in the wild use: the filter each one means here, and how many arguments it takes.
#: No Python method is called.
METHODS = {
    "items": ("items", 0, 0),
    "keys": ("keys", 0, 0),
    "values": ("values", 0, 0),
    "get": ("get", 1, 2),
    "upper": ("upper", 0, 0),
    "lower": ("lower", 0, 0),
    "title": ("title", 0, 0),
    "capitalize": ("capitalize", 0, 0),
    "strip": ("trim", 0, 1),
    "split": ("split", 0, 1),
    "replace": ("replace", 2, 3),
    "join": ("join", 1, 1),
    "startswith": ("startswith", 1, 1),
    "endswith": ("endswith", 1, 1),
}

_SAFE_NODES: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.For,
    nodes.Assign,
    nodes.With,
    nodes.Name,
    nodes.Const,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Pos,
    nodes.Add,
    nodes.Sub,
    nodes.Mul,
    nodes.Div,
    nodes.FloorDiv,
    nodes.Mod,
    nodes.Concat,
    nodes.Filter,
    nodes.Test,
    nodes.Call,
    nodes.Keyword,
    nodes.List,
    nodes.Tuple,
    nodes.Dict,
    nodes.Pair,
)

_UNSAFE_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
#: What Jinja's parser may quote in a message; anything else might be a piece of someone's text.
_QUOTABLE = frozenset({*TAGS, "in", "is", "end of print statement", "end of statement block", "end of template"})


def parse(environment: Environment, source: str, *, max_chars: int, html: bool) -> nodes.Template:
    """The syntax tree of an acceptable source; raises SourceProblem."""
    if len(source) > max_chars:
        raise SourceProblem(f"longer than {max_chars} characters")
    if _UNSAFE_CHARACTERS.search(source):
        raise SourceProblem("a control character or a lone surrogate")
    if source.count("\n") > MAX_LINES or source.count("{#") > MAX_COMMENTS:
        raise SourceProblem("too many lines or comments")
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise SourceProblem(f"line {error.lineno}: {_harmless(error.message or 'syntax error')}") from None
    except RecursionError:
        raise SourceProblem("nested too deeply") from None
    except (ValueError, OverflowError):
        raise SourceProblem("a literal that can't be read") from None
    check_tree(environment, tree, html=html)
    return tree


def _harmless(message: str) -> str:
    """Jinja's message without the pieces of source that it quotes."""
    return _QUOTED.sub(lambda m: m[0] if m[0][1:-1] in _QUOTABLE else "'…'", message)[:200]


# -- tokens: checked on their way from the lexer, which is iterative, to the parser, which is not


class TokenRules(Extension):
    """Lets the parser see no more nesting and no more tokens than it can handle quickly."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        """Jinja's hook between lexer and parser."""
        total = in_tag = brackets = blocks = 0
        after_block_begin = False
        for token in stream:
            kind = token.type
            yield token
            if kind == "data":
                continue
            total += 1
            in_tag += 1
            if kind in ("variable_begin", "block_begin"):
                in_tag = 0
            elif kind in _BRACKETS:
                brackets += _BRACKETS[kind]
            elif after_block_begin:
                blocks += _block_change(kind, str(token.value))
            elif kind in ("integer", "float") and not abs(float(token.value)) < MAX_NUMBER:
                raise SourceProblem("a number that is too large")
            after_block_begin = kind == "block_begin"
            if in_tag > MAX_TOKENS_PER_TAG:
                raise SourceProblem("an expression that is too long")
            if brackets > MAX_BRACKETS or blocks > MAX_BLOCKS:
                raise SourceProblem("nested too deeply")
            if total > MAX_TOKENS:
                raise SourceProblem("too many expressions")


def _block_change(kind: str, value: str) -> int:
    if kind != "name" or value not in TAGS:
        raise SourceProblem(f"the tag {_short(value)} is not allowed")
    if value in _OPENERS:
        return 1
    return -1 if value.startswith("end") else 0


# -- the tree


def _walk(tree: nodes.Node) -> Iterator[tuple[nodes.Node, int, int]]:
    """Every node with its depth and the number of loops around it."""
    stack: list[tuple[nodes.Node, int, int]] = [(tree, 0, 0)]
    while stack:
        node, depth, loops = stack.pop()
        yield node, depth, loops
        inner = loops + isinstance(node, nodes.For)
        stack.extend((child, depth + 1, inner) for child in node.iter_child_nodes())


def check_tree(environment: Environment, tree: nodes.Template, *, html: bool) -> None:
    """The allow-list; raises SourceProblem. Parsing asks it, and so does whoever changes a tree afterwards."""
    callees: set[int] = set()
    attribute_owners: set[int] = set()
    for count, (node, depth, loops) in enumerate(_walk(tree)):
        if count > MAX_NODES:
            raise SourceProblem("too many expressions")
        if depth > MAX_DEPTH:
            raise SourceProblem("nested too deeply")
        if not isinstance(node, _SAFE_NODES):
            raise SourceProblem(f"{_kind(node)} is not allowed")
        if isinstance(node, nodes.Call):
            _check_call(node)
            callees.add(id(node.node))
            if isinstance(node.node, nodes.Getattr):
                attribute_owners.add(id(node.node.node))
        elif isinstance(node, nodes.Getattr):
            _check_attribute(node, called=id(node) in callees)
            attribute_owners.add(id(node.node))
        elif isinstance(node, nodes.Name):
            _check_name(node, called=id(node) in callees, owner=id(node) in attribute_owners)
        elif isinstance(node, nodes.For):
            if node.recursive or loops >= MAX_LOOPS:
                raise SourceProblem(f"loops may be nested {MAX_LOOPS} deep, and not be recursive")
        elif isinstance(node, (nodes.Filter, nodes.Test)):
            _check_filter_or_test(environment, node, html=html)
        else:
            _check_rest(node)


def _check_rest(node: nodes.Node) -> None:
    if isinstance(node, nodes.If) and len(node.elif_) > MAX_BRANCHES:
        raise SourceProblem(f"more than {MAX_BRANCHES} elif branches")
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        check_key(node.arg.value)
    elif isinstance(node, (nodes.Mul, nodes.Mod)):
        _check_arithmetic(node)
    elif isinstance(node, nodes.Const) and isinstance(node.value, str) and _UNSAFE_CHARACTERS.search(node.value):
        raise SourceProblem("a control character or a lone surrogate in a literal")


def _check_call(node: nodes.Call) -> None:
    """Nothing is callable, except what compiles to one of our own filters."""
    if node.kwargs or node.dyn_args is not None or node.dyn_kwargs is not None:
        raise SourceProblem("calls take plain arguments only")
    target = node.node
    if isinstance(target, nodes.Name) and target.name == "range":
        allowed = 1 <= len(node.args) <= 3
    elif isinstance(target, nodes.Getattr) and isinstance(target.node, nodes.Name) and target.node.name == "loop":
        allowed = target.attr == "cycle" and bool(node.args)
    elif isinstance(target, nodes.Getattr):
        _filter, least, most = METHODS.get(target.attr, ("", 1, 0))
        allowed = least <= len(node.args) <= most
    else:
        allowed = False
    if not allowed:
        raise SourceProblem("functions and methods can't be called")


def _check_attribute(node: nodes.Getattr, *, called: bool) -> None:
    check_key(node.attr)
    if (
        isinstance(node.node, nodes.Name)
        and node.node.name == "loop"
        and not called
        and node.attr not in LOOP_ATTRIBUTES
    ):
        raise SourceProblem(f"loop has no attribute {_short(node.attr)} here")


def _check_name(node: nodes.Name, *, called: bool, owner: bool) -> None:
    name = node.name
    odd = name.startswith("_") or len(name) > MAX_NAME or unicodedata.normalize("NFKC", name) != name
    if odd or name in RESERVED_NAMES:
        raise SourceProblem(f"the name {_short(name)} is not allowed")
    if name == "loop" and not owner:
        raise SourceProblem("loop can only be asked for its attributes")
    if node.ctx == "store" and name == "range":
        raise SourceProblem("the name range can't be set")


def _check_filter_or_test(environment: Environment, node: nodes.Filter | nodes.Test, *, html: bool) -> None:
    known = environment.filters if isinstance(node, nodes.Filter) else environment.tests
    kind = "filter" if isinstance(node, nodes.Filter) else "test"
    if node.name not in known or node.name.startswith("_"):
        raise SourceProblem(f"the {kind} {_short(node.name)} is not allowed")
    if html and node.name == "safe":
        raise SourceProblem("the filter safe is not allowed: values in html are always escaped")
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise SourceProblem("star arguments are not allowed")
    if isinstance(node, nodes.Filter) and node.name in ("map", "selectattr", "rejectattr", "sort", "groupby"):
        for argument in (*node.args, *(keyword.value for keyword in node.kwargs)):
            if isinstance(argument, nodes.Const):
                check_key(argument.value)


def _check_arithmetic(node: nodes.Mul | nodes.Mod) -> None:
    """Text is never multiplied; `'%.2f' % x` is the format filter in another dress."""
    if isinstance(node, nodes.Mul):
        for side in (node.left, node.right):
            if isinstance(side, (nodes.List, nodes.Tuple)) or (
                isinstance(side, nodes.Const) and isinstance(side.value, str)
            ):
                raise SourceProblem("only numbers can be multiplied")


def check_key(key: object) -> None:
    """Keys with a leading underscore are Python's inner life in every known sandbox escape."""
    if isinstance(key, str) and len(key) > MAX_NAME:
        raise SourceProblem("a name that is too long")
    if isinstance(key, str) and any(part.strip().startswith("_") for part in re.split(r"[.,]", key)):
        raise SourceProblem("names that begin with an underscore are not allowed")


def _kind(node: nodes.Node) -> str:
    return {"Pow": "the operator **", "NSRef": "setting an attribute"}.get(type(node).__name__, type(node).__name__)


def _short(name: str) -> str:
    """A name as it may be shown: an identifier of sane length."""
    return repr(name) if name.isidentifier() and len(name) <= 40 else "used here"
