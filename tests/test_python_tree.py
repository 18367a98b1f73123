"""Source that anybody may have written becomes a tree or None, whatever it does to the parser."""

import ast
import warnings

import pytest

from nouscoder_jax.python_tree import parse


def test_source_becomes_its_tree():
    assert ast.dump(parse("x = 1")) == ast.dump(ast.parse("x = 1"))


@pytest.mark.parametrize(
    "source", ["def f(:", "x = 1\0", "(" * 5000, "-" * 100_000 + "1", "x = '\ud800'"],
    ids=["no grammar", "a NUL", "parentheses", "signs", "half a character"],
)  # fmt: skip
def test_what_the_parser_cannot_take_is_none(source):
    assert parse(source) is None


def test_no_warning_is_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse("'\\d' is 1") is not None
