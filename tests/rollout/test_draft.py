"""A completion made of pieces."""

from real_servers import PROMPT, sampling

from nouscoder_jax.rollout.draft import Draft
from nouscoder_jax.rollout.sglang_calls import NamedSpan, Piece
from nouscoder_jax.types import VersionSpan

VERSIONS = {"1@a": 1, "2@b": 2}


def piece(*names, finish="abort"):
    """One token of each of these versions."""
    return Piece(
        token_ids=tuple(range(len(names))),
        behavior_logprobs=(-1.0,) * len(names),
        finish=finish,
        spans=tuple(NamedSpan(name, i, i + 1) for i, name in enumerate(names)),
    )


def draft(*pieces, **changes):
    made = Draft(prompt=PROMPT, sampling=sampling(**({"max_completion_tokens": 4} | changes)))
    for one in pieces:
        made.add(one, VERSIONS)
    return made


def test_pieces_of_several_versions_are_one_completion_with_its_spans():
    completion = draft(piece("1@a", "1@a"), piece(), piece("1@a", "2@b", finish="stop")).completion()
    assert completion.token_ids == (0, 1, 0, 1)
    assert completion.spans == (VersionSpan(1, 0, 3), VersionSpan(2, 3, 4))
    assert completion.token_versions == (1, 1, 1, 2)
    assert (completion.policy_version, completion.finish_reason) == (1, "stop")


def test_pieces_of_one_version_have_no_spans():
    completion = draft(piece("2@b"), piece("2@b", finish="length")).completion()
    assert (completion.policy_version, completion.spans) == (2, ())


def test_a_piece_that_is_aborted_is_to_be_continued_with_what_is_left():
    unfinished = draft(piece("1@a", "1@a", "1@a"))
    assert (unfinished.finish, unfinished.num_left) == ("abort", 1)


def test_a_piece_that_is_aborted_at_the_last_token_is_cut_by_the_limit():
    assert draft(piece("1@a", "1@a", "1@a", "1@a")).finish == "length"
