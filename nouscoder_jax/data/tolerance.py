"""What a problem's statement grants: a tolerance, letters in any case.

In: a statement. Out: the largest absolute or relative error that it allows and whether the case of letters matters,
each with the words that say so. Sets that keep no checker with their problems (LiveCodeBench, LeetCode) say it only in
the statement, and their expected outputs have more digits than a float.
"""

from __future__ import annotations

import html
import itertools
import re
from typing import NamedTuple

_READ_CHARS = 8_000
"""Of a statement's begin and of its end: nothing is granted in the middle of a very long one."""
_MOST_NUMBERS, _MOST_LOOKED_AT = 200, 12
"""Numbers of a statement, and those of them beside words that may grant something."""
_WORDS = (
    "error",
    "within",
    "differ",
    "deviat",
    "precis",
    "accura",
    "toleranc",
    " off ",
    "correct",
    "accepted",
    "exact",
)
_CASE_WORDS = (
    *(f"{which} {what}" for which in ("any", "either", "arbitrary", "whatever") for what in ("case", "letter case")),
    *(f"{which}{blank}case" for which in ("upper", "lower") for blank in ("", " ", "-")),
    *(f"of {what}" for what in ("letters", "each", "every", "any", "your", "all")),
    *(f"of the {what}" for what in ("letter", "char", "answer", "output")),
    *("register", "sensitiv", "regardless", "letter case", "ignor", "matter", "choose the case", "capitali"),
)
_SMALL_PERHAPS = re.compile(r"1 ?/ ?10|10[^\n]{0,12}[-−–⁻]|1[.0]* ?e ?-|\.\d|10[^\n]{0,16}(?:sup|minus)", re.IGNORECASE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−–", "0123456789---")
_RAISED = re.compile(r"<sup>\s{0,3}([^<>]{0,12}?)\s{0,3}</sup>|([⁻⁰¹²³⁴-⁹]+)", re.IGNORECASE)
_MARKUP = re.compile(r"<[^<>]{0,80}>|\\(?:[,!;:]|left|right|text|mathrm|mathbf|displaystyle)|[${}()*_]")
_LARGEST, _MOST_DECIMALS = 0.1, 15

# A power of ten below one, in the ways that contests write it: 10^-5, 10 - 5, 1e-5, 0.00001.
_SMALL = re.compile(
    r"(?<![\w.^-])(?:(?:(?P<times>\d(?:\.\d+)?)\s?(?:x|×|·|\\times|\\cdot)\s?)?10\s?\^?\s?-\s?(?P<power>\d{1,2})|1(?:\.0+)?\s?e\s?-\s?(?P<e>\d{1,2})"
    r"|1\s?/\s?(?P<ratio>10{2,9})|(?P<decimal>0?\.0*[1-9]\d?))(?![\w^]|\.\d)",
    re.IGNORECASE,
)
_BOUND = (
    r"(?:at most|at least|exceed\w*|less|lower|smaller|greater|larger|bigger|more|below|under|above|beyond|within|up to"
    r"|not over|bounded by|limit\w*|maxim\w+|<=?|≤|\\leq?(?:slant)?\b|\\lt\b|of)"
)
_BEFORE = [
    re.compile(pattern + r"\s*$", re.IGNORECASE)
    for pattern in (
        # "... error ... at most 10^-5"; what stands between the bound and the number is short.
        rf"\berrors?\b(?P<whose>.{{0,120}}?)\b{_BOUND}\W{{0,3}}"
        r"(?:or equal to|than|or equals?|to|by|the|an?|\W)?.{0,20}",
        r"\berrors?\b(?P<whose>.{0,120}?)(?:<=?|≤|\\leq?(?:slant)?)\s*",
        r"\b(?:absolute|relative)\b.{0,40}\berror (?:is|be)?\s*",
        r"\b(?:allowed|permitted|permissible|tolerated|acceptable|maximum|maximal)\b.{0,30}\berror(?: is| of|:)?\s*",
        r"\b(?:allowed|permitted|permissible|tolerated|acceptable)\b.{0,20}\b(?:deviation|difference)(?: is| of|:)?\s*",
        r"\b(?:answer|output|solution|value|result)s?\b.{0,60}\boff\b.{0,20}\b(?:by|most|than)\b.{0,16}",
        r"\bdiffer\w*\b.{0,100}?\b(?:answer|output|solution|result|one|jury|judge|(?:correct|expected|actual|true|real|exact|right"
        r"|reference|your) value)s?\b.{0,40}\b(?:by|exceed\w*|than|most|within)\b.{0,24}",
        r"\b(?:answer|output|solution|value|result)s?\b.{0,60}\bdiffer\w*\b.{0,60}\b(?:by|exceed\w*|than|most|within)\b.{0,24}",
        r"\b(?:precision|accuracy|tolerance)\b(?P<of_what>.{0,30}?)\b(?:of\W{0,3}$|(?:is|be|to|within|least|most"
        r"|up to|less|more|worse|better|lower|of (?:at|up|no|about|the order|your|an?))\b.{0,16})",
        r"\b(?:answer|output|solution|result)s?\b.{0,40}\berrors?\b(?: of)?\s*",
        r"\b(?:ignor|tolerat|allow|accept|permit)\w*\b.{0,20}\bdifferences?\b.{0,24}",
        r"\b(?:accurate|correct|precise|exact)\b.{0,12}\b(?:to|up to|within)\b.{0,12}",
        r"\b(?:correct|accepted)\b.{0,80}\|.{0,80}(?:<=?|≤|\\leq?(?:slant)?)\s*",
    )
]
_WITHIN = re.compile(r"\b(?P<answers>answers?|outputs?|values?|results?)?.{0,60}\bwithin\b.{0,24}$", re.IGNORECASE)
_RIGHT = r"(?:correct|expected|actual|true|real|exact|optimal|reference|jury|judge)(?:'s)?"
_OF_ANSWER = re.compile(
    r"\s*(?:absolute|relative|or|error|\W)*\s*(?:of|from|to)\b.{0,50}?"
    rf"\b(?:answer|result|solution|output|one(?! another)|judge|jury|{_RIGHT}\b.{{0,20}}\b(?:one|values?))"
    r"s?(?!\s(?:point|cell|node|city|place|position)s?\b)\b",
    re.IGNORECASE,
)
# Whose error: the answer's. "The absolute error of the sensor is at most 0.1" is part of the story.
_OTHERS_ERROR = re.compile(
    r"\s*(?:of|in|for)\s+(?!at\b|no\b|less\b|up\b|more\b|within\b)(?:the|each|every|an?|any|its|this|that|these|all|his|her|their)?+\s*+"
    r"(?:(?!answer|output|value|result|solution|number|your|print|correct|contestant|participant|coordinate|probabilit"
    r"|expect|real|float|sum|area|distance|length|ratio|submi)\w+)",
    re.IGNORECASE,
)
_STORY = re.compile(
    r"\b(?:given|probability|iterat\w*|until|stops?|guaranteed|whose|how many|converg\w*|sensors?|machines?|scales?"
    r"|thermometers?|measure\w*|devices?|gauges?|instruments?|clocks?)\b",
    re.IGNORECASE,
)
_ANSWER = re.compile(
    r"\b(?:answers?|outputs?|print\w*|display\w*|accepted|considered|judge\w*|jury\w*|solutions?)\b", re.IGNORECASE
)
_JUDGED = re.compile(r"\b(?:accept\w*|correct|considered|judged?|jury)\b", re.IGNORECASE)
_TELLS_APART = re.compile(
    r"\bdiffer\w*\b.{0,80}\b(?:at least|more than|greater than|larger than|exceeds?)\W*$", re.IGNORECASE
)
_DENIES = re.compile(r"\b(?:not|no|never|cannot|incorrect|wrong|rejected|fail\w*)\b|n't\b|n’t\b", re.IGNORECASE)
_UNIT = re.compile(
    r"\s?(?:%|[<≤]|\\leq?\b|°|percent|m?V|k?m|cm|mm|k?g|ms?|s|A|Hz|K|C|volts?|amp\w*|met(?:er|re)s?|grams?|inch(?:es)?|feet|miles?|pounds?|dollars?|cents?|seconds?|minutes?|hours?|degrees?)(?![\w^])"
)
_HINT = re.compile(
    r"error|within|differ|deviat|precision|accuracy|tolerance|accurate|correct|precise|exact|accepted|\boff\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\[]|$)|\n\s*\n|(?<=[.!?])\n")

_IN_ANY_CASE = re.compile(
    r"\bin (?:an? )?(?:any|either|arbitrary|whatever) (?:letter )?(?:case|register)\b"
    r"(?!\W*\s(?:where|when|that|in which|if)\b)",
    re.IGNORECASE,
)
_UPPER_OR_LOWER = re.compile(
    r"\bin (?:either )?(?:upper|lower)(?:[ -]?case|-)? or (?:in )?(?:upper|lower)[ -]?case\b", re.IGNORECASE
)
_NO_MATTER = re.compile(
    r"(?<!this )(?<!that )\b(?:case|capitali[sz]ation)\b(?P<of>(?:\s+of\b[^.,\n]{0,60}?|\s+(?:letter|character)s?)?)\s+"
    r"(?:(?:is|are|be|will|would|should|does|do)\s*)*(?:(?:not|n't|n’t) (?:matter|important|significant|relevant"
    r"|checked|considered)\b|\bignored\b|\birrelevant\b)",
    re.IGNORECASE,
)
_INSENSITIVE = re.compile(
    r"\bcase[ -]?insensitiv|\b(?:not|n't|n’t) case[ -]?sensitiv|\bregardless of (?:letter )?case\b", re.IGNORECASE
)
_IGNORES = re.compile(r"\bignor\w+ (?:the )?(?:letter )?case\b", re.IGNORECASE)
_CHOOSE = re.compile(r"\bchoose the (?:letter )?case\b", re.IGNORECASE)
_LETTERS = re.compile(
    r"\b(?:(?:each|every|any) (?:letter|character|symbol)|letters|characters|symbols)\b|[\"'“”`]|\b(?:yes|no)\b",
    re.IGNORECASE,
)
_MAY = re.compile(r"\b(?:can|may|could|might|allowed|free)\b", re.IGNORECASE)
_PRINTING = re.compile(r"\b(?:print|output|writ|display|answer|verdict|checker|judge|grader)\w*", re.IGNORECASE)
_OF_INPUT = re.compile(r"\b(?:input|given|search|name|word|text)s?\b", re.IGNORECASE)
_MOST_LOOKS = 20


class Granted(NamedTuple):
    """What a statement grants, and where it says so.

    Example:
        Granted(tolerance=1e-05, tolerance_words="Answers within 10^-5 ...", any_case=False, any_case_words="")
    """

    tolerance: float | None
    """Absolute or relative; None: it speaks of none."""
    tolerance_words: str
    any_case: bool
    """The case of printed letters does not matter."""
    any_case_words: str


def granted(statement: str) -> Granted:
    """What the statement grants."""
    text = _ends(statement)
    tolerance, words = _tolerance(text)
    case_words = _case_words(text)
    return Granted(tolerance, words, bool(case_words), case_words)


def stated_tolerance(statement: str) -> float | None:
    """The absolute or relative error that the statement allows; None where it speaks of none.

    Example:
        stated_tolerance("The relative or absolute error must be at most 10^{-6}.")  # 1e-06
    """
    return _tolerance(_ends(statement))[0]


def _ends(statement: str) -> str:
    if len(statement) <= 2 * _READ_CHARS:
        return statement
    return statement[:_READ_CHARS] + "\n\n" + statement[-_READ_CHARS:]


def _tolerance(text: str) -> tuple[float | None, str]:
    lower = text.lower()
    if not any(word in lower for word in _WORDS) or not _SMALL_PERHAPS.search(text):
        return None, ""
    plain = _plain(text)
    looked_at = 0
    for found in itertools.islice(_SMALL.finditer(plain), _MOST_NUMBERS):
        value = _value(found)
        begin = plain.rfind("\n", 0, found.start()) + 1
        if value is None or not _HINT.search(plain, max(begin, found.start() - 220), found.start()):
            continue
        if _grants(plain, found):
            return value, _around(plain, *found.span())
        looked_at += 1
        if looked_at == _MOST_LOOKED_AT:
            break
    return None, ""


def _plain(text: str) -> str:
    """The text without markup: powers behind a `^`, blanks single, sentences on lines of their own."""
    text = html.unescape(text).replace("**", "^")
    text = _RAISED.sub(lambda found: "^" + (found[1] or found[2]), text).translate(_SUPERSCRIPTS)
    text = _MARKUP.sub(" ", text)
    text = "\n".join(" ".join(sentence.split()) for sentence in _SENTENCE_END.split(text))
    return re.sub(r"\^ ?\^?", "^", text)


def _value(found: re.Match[str]) -> float | None:
    exponent = found["power"] or found["e"]
    if exponent:
        return float(found["times"] or 1) * 10.0 ** -int(exponent) if 1 <= int(exponent) <= _MOST_DECIMALS else None
    value = float(found["decimal"] or 1 / float(found["ratio"]))
    return value if value <= _LARGEST else None


def _grants(plain: str, number: re.Match[str]) -> bool:
    """Whether the sentence around the number grants it as an error of the answer."""
    begin = plain.rfind("\n", 0, number.start()) + 1
    end = plain.find("\n", number.end())
    before, after = plain[begin : number.start()][-220:], plain[number.end() : end if end >= 0 else None][:120]
    if _UNIT.match(after):
        return False
    if _STORY.search(before + after) and not (_ANSWER.search(before) or _JUDGED.search(after)):
        return False
    if re.search(r"\bwhose errors?\b", before) and not re.search(r"\b(?:answer|output|solution)s?,? whose\b", before):
        return False
    if _TELLS_APART.search(before) and not _DENIES.search(before):
        return False
    if re.search(r"\bwithin an?\s*$", before) and re.match(r"\s*(?:absolute |relative )?(?:tolerance|error)\b", after):
        return True
    within = _WITHIN.search(before)
    if within is not None and (_OF_ANSWER.match(after) or (within["answers"] and re.search("accept|correct", after))):
        return True
    for pattern in _BEFORE:
        found = pattern.search(before)
        groups = found.groupdict() if found is not None else {}
        if found is not None and not any(
            map(_OTHERS_ERROR.match, (groups.get("whose") or "", groups.get("of_what") or ""))
        ):
            return True
    return False


def _case_words(text: str) -> str:
    """The words that let letters be printed in any case; empty where there are none."""
    lower = text.lower()
    if ("case" not in lower and "register" not in lower and "capitali" not in lower) or not any(
        word in lower for word in _CASE_WORDS
    ):
        return ""
    for anchor, grants in (
        (
            _IN_ANY_CASE,
            lambda before, of: _LETTERS.search(before) or (_MAY.search(before) and _PRINTING.search(before)),
        ),
        (_UPPER_OR_LOWER, lambda before, of: _MAY.search(before) and _PRINTING.search(before)),
        (_NO_MATTER, lambda before, of: not _OF_INPUT.search(of) or _PRINTING.search(of)),
        (_INSENSITIVE, lambda before, of: _PRINTING.search(before)),
        (_IGNORES, lambda before, of: _PRINTING.search(before)),
        (_CHOOSE, lambda before, of: _MAY.search(before)),
    ):
        for found in itertools.islice(anchor.finditer(text), _MOST_LOOKS):
            before = re.split(r"[.\n]", text[max(0, found.start() - 100) : found.start()])[-1]
            if grants(before, found.groupdict().get("of") or ""):
                return _around(text, *found.span())
    return ""


def _around(text: str, start: int, end: int) -> str:
    """The sentence around a place, in one line."""
    stops = (text.rfind("\n", 0, start) + 1, text.rfind(". ", 0, start) + 2 if ". " in text[:start] else 0)
    begin = max(*stops, start - 200)
    stop = min((place for place in (text.find("\n", end), text.find(". ", end) + 1) if place > 0), default=len(text))
    return " ".join(text[begin : min(stop, end + 200)].split())
