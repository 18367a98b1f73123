"""The language of the tiny problems: a source, two steps and an output, each with its English, its Python and its slips.

`DOMAINS` are tables of components. A problem is one component of each kind; its reference program is their Python one
after another. A slip is Python that a beginner might write for the same English: the warm start imitates programs with
slips in them, and reinforcement learning has to find out which way passes the hidden tests.

`{k}` stands for a number from 2 to 9 and `{c}` for a letter, the same in English and in Python.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One part of a problem.

    Example:
        Component(name="even", phrases=("Keep only the even ones.",), code="a = [x for x in a if x % 2 == 0]",
                  slips=("a = [x for x in a if x % 2 == 1]",))
    """

    name: str
    phrases: tuple[str, ...]
    """English wordings of the same meaning."""
    code: str
    """Right Python; empty for a step that does nothing."""
    slips: tuple[str, ...]
    """Wrong or fragile Python for the same English."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Components that fit together: every source with every filter, map and output."""

    name: str
    sources: tuple[Component, ...]
    filters: tuple[Component, ...]
    maps: tuple[Component, ...]
    outputs: tuple[Component, ...]
    make_input: Callable[[str, random.Random], str]
    """From a source's name and a random state to one stdin text."""


def component(name: str, phrases: str, code: str, *slips: str) -> Component:
    """A Component from `|`-separated phrases."""
    return Component(name=name, phrases=tuple(p.strip() for p in phrases.split("|")), code=code, slips=slips)


NOTHING = Component(name="none", phrases=("",), code="", slips=())

LETTERS = "abcdefgh"
WORD_LETTERS = "abcdefghilmnorst"


def _numbers_input(source: str, rng: random.Random) -> str:
    count = rng.randint(1, 8)
    numbers = [rng.choice((rng.randint(-9, 9), rng.randint(-30, 30), 0)) for _ in range(count)]
    if count > 2 and rng.random() < 0.5:
        numbers[rng.randrange(count)] = numbers[0]
    line = " ".join(map(str, numbers))
    return {
        "counted_line": f"{count}\n{line}\n",
        "line": f"{line}\n",
        "counted_lines": f"{count}\n" + "".join(f"{x}\n" for x in numbers),
        "range": f"{rng.randint(1, 12)}\n",
        "divisors": f"{rng.choice((6, 7, 12, 16, 18, 20, 24, 30, 36, 1, 9, 28))}\n",
        "digits": f"{rng.randint(1, 10 ** rng.randint(1, 7))}\n",
    }[source]


def _words_input(source: str, rng: random.Random) -> str:
    count = rng.randint(1, 6)
    words = ["".join(rng.choice(WORD_LETTERS) for _ in range(rng.randint(1, 10))) for _ in range(count)]
    if count > 1 and rng.random() < 0.5:
        words[-1] = words[0]
    words = [w.capitalize() if rng.random() < 0.2 else w for w in words]
    return {
        "words_line": " ".join(words) + "\n",
        "words_lines": f"{count}\n" + "".join(f"{w}\n" for w in words),
        "words_commas": ",".join(words) + "\n",
    }[source]


def _text_input(source: str, rng: random.Random) -> str:
    letters = WORD_LETTERS + WORD_LETTERS.upper() + "0123456789"
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.3:
        half = words[0]
        words = [half + half[::-1]]
    return {
        "text": " ".join(words) + "\n",
        "text_second": f"{rng.choice(words)}\n{' '.join(words)}\n",
        "text_joined": f"{words[0]}\n{words[-1]}\n",
    }[source]


# fmt: off
NUMBERS = Domain(
    name="numbers",
    make_input=_numbers_input,
    sources=(
        component(
            "counted_line",
            "Read n, then n integers on the next line. | The first line has n, the second line has n integers.",
            "n = int(input())\na = list(map(int, input().split()))",
            "a = list(map(int, input().split()))",
            "n = int(input())\na = input().split()",
        ),
        component(
            "line",
            "Read a line of integers. | One line holds several integers.",
            "a = list(map(int, input().split()))",
            "n = int(input())\na = list(map(int, input().split()))",
            "a = input().split()",
        ),
        component(
            "counted_lines",
            "Read n, then n integers, one on each line. | The first line has n, and n lines with one integer each follow.",
            "n = int(input())\na = [int(input()) for _ in range(n)]",
            "n = int(input())\na = [int(input()) for _ in range(n - 1)]",
            "n = int(input())\na = list(map(int, input().split()))",
        ),
        component(
            "range",
            "Read n and take the numbers from 1 to n. | Given n, list the numbers from 1 up to n.",
            "n = int(input())\na = list(range(1, n + 1))",
            "n = int(input())\na = list(range(n))",
            "n = int(input())\na = list(range(1, n))",
        ),
        component(
            "divisors",
            "Read n and take its divisors in rising order. | Given n, list all divisors of n from small to large.",
            "n = int(input())\na = [d for d in range(1, n + 1) if n % d == 0]",
            "n = int(input())\na = [d for d in range(1, n) if n % d == 0]",
            "n = int(input())\na = [d for d in range(n) if n % d == 0]",
        ),
        component(
            "digits",
            "Read a number and take its digits. | Given a number, list its digits from left to right.",
            "a = [int(d) for d in input()]",
            "a = [d for d in input()]",
            "a = list(map(int, input().split()))",
        ),
    ),
    filters=(
        NOTHING,
        component("even", "Keep only the even ones.", "a = [x for x in a if x % 2 == 0]", "a = [x for x in a if x % 2 == 1]"),
        component("odd", "Keep only the odd ones.", "a = [x for x in a if x % 2 == 1]", "a = [x for x in a if x % 2 == 0]"),
        component("positive", "Keep only the positive ones.", "a = [x for x in a if x > 0]", "a = [x for x in a if x >= 0]", "a = [x for x in a if x < 0]"),
        component("no_zeros", "Remove all zeros.", "a = [x for x in a if x != 0]", "a = [x for x in a if x == 0]"),
        component("greater", "Keep only those greater than {k}.", "a = [x for x in a if x > {k}]", "a = [x for x in a if x >= {k}]", "a = [x for x in a if x < {k}]"),
        component("less", "Keep only those less than {k}.", "a = [x for x in a if x < {k}]", "a = [x for x in a if x <= {k}]", "a = [x for x in a if x > {k}]"),
        component("multiple", "Keep only the multiples of {k}.", "a = [x for x in a if x % {k} == 0]", "a = [x for x in a if x // {k} == 0]", "a = [x for x in a if x % {k} != 0]"),
        component("not_divided", "Remove those that {k} divides.", "a = [x for x in a if x % {k} != 0]", "a = [x for x in a if x % {k} == 0]"),
        component("drop_first", "Drop the first one.", "a = a[1:]", "a = a[:1]", "a = a[:-1]"),
        component("drop_last", "Drop the last one.", "a = a[:-1]", "a = a[-1:]", "a = a[1:]"),
        component("front", "Use at most {k} of them from the front.", "a = a[:{k}]", "a = a[{k}:]", "a = a[:{k} - 1]"),
        component("every_second", "Keep every second one, beginning with the first.", "a = a[::2]", "a = a[1::2]", "a = a[:2]"),
    ),
    maps=(
        NOTHING,
        component("square", "Square each one.", "a = [x * x for x in a]", "a = [x * 2 for x in a]"),
        component("cube", "Cube each one.", "a = [x ** 3 for x in a]", "a = [x * 3 for x in a]"),
        component("double", "Double each one.", "a = [x * 2 for x in a]", "a = [x * x for x in a]"),
        component("absolute", "Take the absolute value of each one.", "a = [abs(x) for x in a]", "a = [-x for x in a]"),
        component("negate", "Negate each one.", "a = [-x for x in a]", "a = [abs(x) for x in a]"),
        component("add", "Add {k} to each one.", "a = [x + {k} for x in a]", "a = [x - {k} for x in a]", "a = [x * {k} for x in a]"),
        component("subtract", "Subtract {k} from each one.", "a = [x - {k} for x in a]", "a = [x + {k} for x in a]", "a = [{k} - x for x in a]"),
        component("multiply", "Multiply each one by {k}.", "a = [x * {k} for x in a]", "a = [x + {k} for x in a]", "a = [x ** {k} for x in a]"),
        component("modulo", "Take each one modulo {k}.", "a = [x % {k} for x in a]", "a = [x // {k} for x in a]", "a = [x / {k} for x in a]"),
        component("divide", "Divide each one by {k} and round down.", "a = [x // {k} for x in a]", "a = [x / {k} for x in a]", "a = [x % {k} for x in a]"),
    ),
    outputs=(
        component("sum", "Print the sum. | Print their total.", "print(sum(a))", "print(len(a))", "print(a)"),
        component("count", "Print how many there are. | Print their count.", "print(len(a))", "print(sum(a))", "print(a)"),
        component("max", "Print the largest, or 0 if there is none. | Print the maximum, 0 without any.", "print(max(a, default=0))", "print(max(a))", "print(min(a, default=0))"),
        component("min", "Print the smallest, or 0 if there is none. | Print the minimum, 0 without any.", "print(min(a, default=0))", "print(min(a))", "print(max(a, default=0))"),
        component("spread", "Print the largest minus the smallest, or 0 if there is none. | Print the difference of maximum and minimum, 0 without any.", "print(max(a, default=0) - min(a, default=0))", "print(max(a) - min(a))", "print(min(a, default=0) - max(a, default=0))"),
        component("sorted", "Print them in rising order. | Print them sorted from small to large.", "print(*sorted(a))", "print(sorted(a))", "print(*sorted(a, reverse=True))"),
        component("sorted_down", "Print them in falling order. | Print them sorted from large to small.", "print(*sorted(a, reverse=True))", "print(sorted(a, reverse=True))", "print(*sorted(a))"),
        component("reversed", "Print them in reverse. | Print them from last to first.", "print(*a[::-1])", "print(a[::-1])", "print(*sorted(a, reverse=True))"),
        component("print_all", "Print them with blanks between. | Print all of them on one line.", "print(*a)", "print(a)", "print(*sorted(a))"),
        component("commas", "Print them with commas between. | Print them joined by commas.", "print(','.join(map(str, a)))", "print(','.join(a))", "print(*a)"),
        component("distinct", "Print how many different values there are. | Print the number of distinct ones.", "print(len(set(a)))", "print(len(a))", "print(set(a))"),
        component("product", "Print the product, 1 without any. | Multiply all and print the result, 1 without any.", "p = 1\nfor x in a:\n    p *= x\nprint(p)", "p = 0\nfor x in a:\n    p *= x\nprint(p)", "p = 1\nfor x in a:\n    p += x\nprint(p)"),
        component("running", "Print the running sums, one on each line. | After each one print the sum so far.", "s = 0\nfor x in a:\n    s += x\n    print(s)", "s = 0\nfor x in a:\n    s += x\nprint(s)", "s = 0\nfor x in a:\n    print(s)\n    s += x"),
        component("any", "Print yes if any are left, else no. | Print yes if there is at least one, else no.", "print('yes' if a else 'no')", "print('no' if a else 'yes')", "print('yes' if a[0] else 'no')"),
        component("indices", "Print each with its position from 1, one on each line. | Number them from 1 and print number and value on each line.", "for i, x in enumerate(a, 1):\n    print(i, x)", "for i, x in enumerate(a):\n    print(i, x)", "for i, x in enumerate(a, 1):\n    print(x, i)"),
    ),
)

WORDS = Domain(
    name="words",
    make_input=_words_input,
    sources=(
        component("words_line", "Read a line of words. | One line holds several words.", "w = input().split()", "w = input()", "w = input().split(',')"),
        component("words_lines", "Read n, then n words, one on each line. | The first line has n, and n lines with one word each follow.", "n = int(input())\nw = [input() for _ in range(n)]", "n = int(input())\nw = [input() for _ in range(n - 1)]", "n = int(input())\nw = input().split()"),
        component("words_commas", "Read words with commas between them. | One line holds words separated by commas.", "w = input().split(',')", "w = input().split()", "w = input()"),
    ),
    filters=(
        NOTHING,
        component("longer", "Keep only words longer than {k} letters.", "w = [x for x in w if len(x) > {k}]", "w = [x for x in w if len(x) >= {k}]", "w = [x for x in w if len(x) < {k}]"),
        component("shorter", "Keep only words shorter than {k} letters.", "w = [x for x in w if len(x) < {k}]", "w = [x for x in w if len(x) <= {k}]", "w = [x for x in w if len(x) > {k}]"),
        component("with_letter", "Keep only words with the letter {c}.", "w = [x for x in w if '{c}' in x]", "w = [x for x in w if '{c}' not in x]", "w = [x for x in w if x == '{c}']"),
        component("have_not", "Remove words that have the letter {c}.", "w = [x for x in w if '{c}' not in x]", "w = [x for x in w if '{c}' in x]", "w = [x for x in w if x != '{c}']"),
        component("start", "Keep only words that start with {c}.", "w = [x for x in w if x.startswith('{c}')]", "w = [x for x in w if x.endswith('{c}')]", "w = [x for x in w if '{c}' in x]"),
        component("drop_first_word", "Drop the first word.", "w = w[1:]", "w = w[:1]", "w = w[:-1]"),
    ),
    maps=(
        NOTHING,
        component("upper", "Write each in upper case.", "w = [x.upper() for x in w]", "w = [x.lower() for x in w]", "w = w.upper()"),
        component("lower", "Write each in lower case.", "w = [x.lower() for x in w]", "w = [x.upper() for x in w]", "w = w.lower()"),
        component("around", "Turn each word around.", "w = [x[::-1] for x in w]", "w = w[::-1]", "w = [x[:-1] for x in w]"),
        component("initial", "Take the initial of each.", "w = [x[0] for x in w]", "w = [x[-1] for x in w]", "w = w[0]"),
        component("final", "Take the final letter of each.", "w = [x[-1] for x in w]", "w = [x[0] for x in w]", "w = w[-1]"),
        component("cut", "Cut each to at most {k} letters.", "w = [x[:{k}] for x in w]", "w = [x[{k}:] for x in w]", "w = w[:{k}]"),
        component("twice", "Write each twice, as in abab.", "w = [x * 2 for x in w]", "w = w * 2", "w = [x + ' ' + x for x in w]"),
    ),
    outputs=(
        component("count_words", "Print how many words there are. | Print the count of words.", "print(len(w))", "print(w)", "print(sum(w))"),
        component("letters", "Print the total number of letters. | Print the sum of the lengths.", "print(sum(len(x) for x in w))", "print(len(w))", "print(sum(w))"),
        component("dashes", "Print them with dashes between. | Print them joined by dashes.", "print('-'.join(w))", "print('-' + w)", "print(*w)"),
        component("glue", "Print them without any space between. | Print them glued together.", "print(''.join(w))", "print(*w)", "print(w)"),
        component("sorted_words", "Print them in alphabetical order. | Print them sorted.", "print(*sorted(w))", "print(sorted(w))", "print(w.sort())"),
        component("reversed_words", "Print them in reverse order. | Print them from last to first.", "print(*w[::-1])", "print(w[::-1])", "print(*w)"),
        component("longest", "Print the greatest length, or 0 if there is none. | Print the length of the longest, 0 without any.", "print(max((len(x) for x in w), default=0))", "print(max(len(x) for x in w))", "print(min((len(x) for x in w), default=0))"),
        component("lengths", "Print their lengths. | Print the length of each on one line.", "print(*[len(x) for x in w])", "print([len(x) for x in w])", "print(len(w))"),
        component("distinct_words", "Print how many different words there are. | Print the number of distinct words.", "print(len(set(w)))", "print(len(w))", "print(set(w))"),
        component("each_line", "Print one on each line with its length. | On each line print a word and its length.", "for x in w:\n    print(x, len(x))", "for x in w:\n    print(len(x), x)", "print(w, len(w))"),
    ),
)

TEXT = Domain(
    name="text",
    make_input=_text_input,
    sources=(
        component("text", "Read a line of text. | The input is one line of text.", "s = input()", "s = input().split()", "s = int(input())"),
        component("text_second", "Read two lines and use only the second. | Skip the first line and read the second.", "input()\ns = input()", "s = input()", "s = input() + input()"),
        component("text_joined", "Read two lines and join them. | Read two lines and put the second right after the first.", "s = input() + input()", "s = input()", "input()\ns = input()"),
    ),
    filters=(
        NOTHING,
        component("no_vowels", "Remove the vowels.", "s = ''.join(c for c in s if c.lower() not in 'aeiou')", "s = ''.join(c for c in s if c.lower() in 'aeiou')", "s = ''.join(c for c in s if c not in 'aeiou')"),
        component("only_letters", "Keep only the letters.", "s = ''.join(c for c in s if c.isalpha())", "s = ''.join(c for c in s if c.isdigit())", "s = s.isalpha()"),
        component("only_digits", "Keep only the digits.", "s = ''.join(c for c in s if c.isdigit())", "s = ''.join(c for c in s if c.isalpha())", "s = int(s)"),
        component("no_blanks", "Remove the blanks.", "s = s.replace(' ', '')", "s = s.strip()", "s = s.split()"),
        component("no_letter", "Remove each letter {c}.", "s = s.replace('{c}', '')", "s = s.replace('{c}', ' ')", "s = s.strip('{c}')"),
        component("cut_text", "Cut it after {k} characters.", "s = s[:{k}]", "s = s[{k}:]", "s = s[{k}]"),
    ),
    maps=(
        NOTHING,
        component("text_upper", "Turn it into upper case.", "s = s.upper()", "s = s.lower()", "s.upper()"),
        component("text_lower", "Turn it into lower case.", "s = s.lower()", "s = s.upper()", "s.lower()"),
        component("swap_case", "Swap the case of each letter.", "s = s.swapcase()", "s = s.upper()", "s.swapcase()"),
        component("double_chars", "Double each character.", "s = ''.join(c * 2 for c in s)", "s = s * 2", "s = ''.join(c + 2 for c in s)"),
    ),
    outputs=(
        component("length", "Print its length. | Print how many characters it has.", "print(len(s))", "print(s)", "print(len(s.split()))"),
        component("backwards", "Print it backwards. | Print it from back to front.", "print(s[::-1])", "print(s[:-1])", "print(reversed(s))"),
        component("quoted", "Print it in brackets, as in [abc]. | Print it between square brackets.", "print('[' + s + ']')", "print([s])", "print('(' + s + ')')"),
        component("letter_count", "Print how often {c} occurs in it. | Print the number of times {c} occurs.", "print(s.count('{c}'))", "print(s.find('{c}'))", "print('{c}' in s)"),
        component("palindrome", "Print yes if it reads the same backwards, else no. | Print yes for a palindrome, else no.", "print('yes' if s == s[::-1] else 'no')", "print('yes' if s != s[::-1] else 'no')", "print(s == s[::-1])"),
        component("different", "Print how many different characters it has. | Print its number of distinct characters.", "print(len(set(s)))", "print(len(s))", "print(set(s))"),
        component("spaced", "Print its characters with blanks between. | Print the characters apart from each other by blanks.", "print(*s)", "print(s)", "print(list(s))"),
        component("repeat", "Print it {k} times, one on each line. | On {k} lines print it.", "for _ in range({k}):\n    print(s)", "print(s * {k})", "for _ in range({k} - 1):\n    print(s)"),
    ),
)

# fmt: on
DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (NUMBERS, WORDS, TEXT)}
