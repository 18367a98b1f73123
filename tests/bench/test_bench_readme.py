"""A generated block of a Markdown file is replaced, and nothing else."""

import pytest

from nouscoder_jax.bench.readme import replace_block, write_block
from nouscoder_jax.config import UserError

BEGIN = "<!-- table: begin (python scripts/bench.py table --readme README.md writes this) -->"
END = "<!-- table: end -->"
TEXT = f"# Title\n\n{BEGIN}\n\n| old |\n\n{END}\n\nThe rest.\n"


def test_what_stands_between_the_markers_is_replaced_and_nothing_else():
    assert replace_block(TEXT, "table", "| new |\n") == TEXT.replace("old", "new")


def test_markers_without_anything_between_take_a_block():
    assert replace_block(f"{BEGIN}\n{END}\n", "table", "| new |") == f"{BEGIN}\n\n| new |\n\n{END}\n"


def test_writing_the_same_block_twice_changes_nothing():
    once = replace_block(TEXT, "table", "| a |\n|---|")
    assert replace_block(once, "table", "| a |\n|---|") == once


def test_a_backslash_in_a_block_is_a_backslash():
    assert r"\1 \n" in replace_block(TEXT, "table", r"\1 \n")


def test_another_block_with_a_longer_name_is_left_alone():
    other = TEXT.replace("table:", "table-2:")
    assert replace_block(other + TEXT, "table", "| new |") == other + TEXT.replace("old", "new")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# Title\n", "begin .* is there 0 times"),
        (f"{BEGIN}\n", "end --> is there 0 times"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n", "begin .* is there 2 times"),
        (f"{BEGIN}\n{END}\n{END}\n", "end --> is there 2 times"),
        (f"{END}\n{BEGIN}\n", "stands before"),
        (f"text {BEGIN}\n{END}\n", "begin .* is there 0 times"),
    ],
)
def test_markers_that_are_missing_double_or_in_the_wrong_order_are_told(text, told):
    with pytest.raises(UserError, match=told):
        replace_block(text, "table", "| new |")


def test_a_file_is_written_in_place_with_its_permissions_and_nothing_left_beside_it(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    path.chmod(0o640)
    write_block(path, "table", "| new |")
    assert path.read_text() == TEXT.replace("old", "new")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["README.md"]


def test_a_file_without_markers_stays_as_it_is_and_is_named(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Title\n")
    with pytest.raises(UserError, match=r"README\.md: .*0 times"):
        write_block(path, "table", "| new |")
    assert path.read_text() == "# Title\n"


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        write_block(tmp_path / "none.md", "table", "| new |")
