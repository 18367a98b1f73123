"""From problems to the token ids that an engine continues, and from sampled ids back to text.

In: Problem, a tokenizer with a chat template, the data section of the config. Out: Prompt; texts of completions.

How a template becomes a user message, in one pass (braces inside a statement stay as they are):

    {statement} {fn_name} {starter_code}   replaced by the problem's own
    {function}                             replaced by the function asked for and its parameters, in words
    a paragraph with {starter_code}        left out where the problem has no starter code
    a paragraph with {function}            left out where it has

A paragraph is text between blank lines of the template. The starter code's rule is the published NousCoder format
(NousResearch/atropos coding_server.py lines 26-62), whose starter-code passage stands only where there is such code.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nouscoder_jax.config import DataConfig, UserError
from nouscoder_jax.hub import find_model
from nouscoder_jax.types import Problem, Prompt

NO_TOKEN = "\N{REPLACEMENT CHARACTER}"

_ASCII = bytes(range(128))
_KEPT = 1024
"""Prompts: those of a step and of an evaluation."""
_PLACEHOLDER = re.compile(r"\{(statement|fn_name|starter_code|function)\}")


def user_message(problem: Problem, *, stdin_prompt: str, function_prompt: str) -> str:
    """The problem's user message by the rules above."""
    template = stdin_prompt if problem.fn_name is None else function_prompt
    unwanted = "{function}" if problem.starter_code else "{starter_code}"
    template = "\n\n".join(part for part in template.split("\n\n") if unwanted not in part)
    values = {
        "statement": problem.statement,
        "fn_name": problem.fn_name or "",
        "starter_code": problem.starter_code,
        "function": _in_words(problem),
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _in_words(problem: Problem) -> str:
    owner, dot, name = (problem.fn_name or "").rpartition(".")
    if dot:
        return f"a class `{owner}` with the method `{name}({', '.join(['self', *problem.parameters])})`"
    return f"the function `{name}({', '.join(problem.parameters)})`"


class Prompts(Mapping[str, Prompt]):
    """Prompts by problem id, each made when it is asked for; the last ones are kept."""

    def __init__(self, problems: Mapping[str, Problem], make: Callable[[Problem], Prompt]) -> None:
        self._problems = problems
        self._make = functools.lru_cache(maxsize=_KEPT)(lambda problem_id: make(problems[problem_id]))

    def __getitem__(self, problem_id: str) -> Prompt:
        return self._make(problem_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._problems)

    def __len__(self) -> int:
        return len(self._problems)


class PromptMaker:
    """Prompts and texts with one tokenizer."""

    eos_token_ids: tuple[int, ...]
    """Ids that end a completion: those of generation_config.json, else the tokenizer's own."""
    think_token_ids: tuple[int, int] | None
    """Ids of `<think>` and `</think>`; None where the tokenizer has no such tokens."""

    def __init__(self, tokenizer_dir: str, data: DataConfig) -> None:
        """`tokenizer_dir`: a folder, which needs no network, or a hub id. Raises UserError where there is no tokenizer,
        no chat template or no end token."""
        # Its advice is to install PyTorch for its models; here it reads tokenizers.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import AutoTokenizer  # here, not above: importing it takes seconds

        folder = find_model(tokenizer_dir, weights=False)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"no tokenizer in model.path {tokenizer_dir!r} ({reason}); give a tokenizer folder or a hub id"
            ) from error
        if self._tokenizer.chat_template is None:
            raise UserError(
                f"the tokenizer of {tokenizer_dir} has no chat template; add chat_template.jinja, "
                "or chat_template to tokenizer_config.json"
            )
        self._data = data
        self.eos_token_ids = _eos_token_ids(folder, self._tokenizer.eos_token_id)
        if not self.eos_token_ids:
            raise UserError(f"{tokenizer_dir} names no end token; set eos_token_id in its generation_config.json")
        added = self._tokenizer.get_added_vocab()
        names = sorted((token for token in added if len(token.strip()) > 1), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, names))) if names else None
        ids = added.get("<think>"), added.get("</think>")
        self.think_token_ids = None if None in ids else ids
        mark = "\N{LATIN SMALL LETTER THORN}mark"
        around = self._chat(mark)
        self._times = max(1, around.count(mark))
        self._around = _most_bytes(around)
        """Of a prompt, without the user's message: the most tokens."""

    def text(self, problem: Problem) -> str:
        """The whole prompt as text, special tokens included: system and user message in the chat template."""
        data = self._data
        return self._chat(user_message(problem, stdin_prompt=data.stdin_prompt, function_prompt=data.function_prompt))

    def _chat(self, user: str) -> str:
        data = self._data
        messages = [{"role": "user", "content": user}]
        if data.system_prompt:
            messages.insert(0, {"role": "system", "content": data.system_prompt})
        return self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=data.enable_thinking
        )

    def make(self, problem: Problem) -> Prompt:
        """The problem's prompt, whatever its length. Control tokens are the template's only: a statement that spells
        one is text."""
        texts = {name: getattr(problem, name) or "" for name in ("statement", "fn_name", "starter_code")}
        written = "".join(texts.values())
        whole = self.text(problem)
        if self._control is None or not self._control.search(written):
            return Prompt(problem_id=problem.problem_id, token_ids=self.encode(whole), text=whole)
        mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in written)  # of private use
        broken = {
            name: self._control.sub(lambda found: found[0][0] + mark + found[0][1:], text)
            for name, text in texts.items()
            if text
        }
        parts = self.text(dataclasses.replace(problem, **broken)).split(mark)
        token_ids = tuple(token_id for part in parts for token_id in self.encode(part))
        return Prompt(problem_id=problem.problem_id, token_ids=token_ids, text=whole)

    def make_all(self, problems: Iterable[Problem]) -> tuple[Prompts, dict[str, int]]:
        """Prompts by problem id, and the token counts of those left out for being longer than data.max_prompt_tokens.

        Only what may be too long is encoded here. Raises UserError when no prompt is left.
        """
        longest = self._data.max_prompt_tokens
        kept: dict[str, Problem] = {}
        left_out: dict[str, int] = {}
        for problem in problems:
            if self._most_tokens(problem) <= longest or (length := len(self.make(problem).token_ids)) <= longest:
                kept[problem.problem_id] = problem
            else:
                left_out[problem.problem_id] = length
        if not kept and not left_out:
            raise UserError("got no problems; a problem file holds at least one")
        if not kept:
            counts = left_out.values()
            raise UserError(
                f"no prompt fits data.max_prompt_tokens={longest}: the {len(left_out)} prompts have {min(counts)} to "
                f"{max(counts)} tokens; raise it to {min(counts)} or more"
            )
        return Prompts(kept, self.make), left_out

    def _most_tokens(self, problem: Problem) -> int:
        """A number of tokens that the prompt does not exceed: a token is a byte or more of the text. (Normalising, as
        tokenizers do, lengthens no ASCII, and other text to at most three times its bytes.)"""
        data = self._data
        user = user_message(problem, stdin_prompt=data.stdin_prompt, function_prompt=data.function_prompt)
        return self._around + self._times * _most_bytes(user)

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a text, special tokens recognised, none added."""
        return tuple(int(i) for i in self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of sampled ids, special tokens left out, blanks as they were sampled. An id that is no token's (a
        vocabulary is padded, that of Qwen3 from 151,669 to 151,936) is U+FFFD: it was sampled, and a program with it in
        it is not the program without it."""
        num_tokens = len(self._tokenizer)
        runs = itertools.groupby(token_ids, key=lambda token_id: token_id < num_tokens)
        return "".join(
            self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if known
            else NO_TOKEN * len(list(ids))
            for known, ids in runs
        )


def _most_bytes(text: str) -> int:
    encoded = text.encode()
    return len(encoded) + 2 * len(encoded.translate(None, _ASCII))


def _eos_token_ids(folder: Path, fallback: int | None) -> tuple[int, ...]:
    path = folder / "generation_config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
    if named is None:
        named = fallback
    if named is None:
        return ()
    return tuple(named) if isinstance(named, list) else (int(named),)
