"""A generated block of a Markdown file is replaced, and nothing else."""

import pytest

from nouscoder_jax.bench.readme import replace_block, write_block
from nouscoder_jax.config import UserError

BEGIN = "<!-- table: begin (python scripts/bench.py table --readme README.md writes this) -->"
END = "<!-- table: end -->"
TEXT = f"# Title\n\n{BEGIN}\n\n| old |\n\n{END}\n\nThe rest.\n"


def test_what_stands_between_the_markers_is_replaced_and_nothing_else(tmp_path):
    (tmp_path / "README.md").write_text(TEXT)
    write_block(tmp_path / "README.md", "table", "| new | \\1\n")
    assert (tmp_path / "README.md").read_text() == TEXT.replace("| old |", "| new | \\1")


def test_writing_the_same_block_twice_changes_nothing():
    once = replace_block(f"{BEGIN}\n{END}\n", "table", "| a |\n|---|")
    assert replace_block(once, "table", "| a |\n|---|") == once


def test_another_block_with_a_longer_name_is_left_alone():
    other = TEXT.replace("table:", "table-2:")
    assert replace_block(other + TEXT, "table", "| new |") == other + TEXT.replace("old", "new")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# Title\n", "begin .* is there 0 times"),
        (f"{BEGIN}\n", "end --> is there 0 times"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n", "begin .* is there 2 times"),
        (f"{END}\n{BEGIN}\n", "swap them"),
    ],
)
def test_a_file_without_its_markers_stays_as_it_is_and_is_named(text, told, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(UserError, match=f"README.md: .*{told}"):
        write_block(path, "table", "| new |")
    assert path.read_text() == text
