"""Problems whose own right programs fail their tests.

In: verdicts of labelled programs, as scripts/verify.py writes them. Out: by problem, why its tests cannot be trusted:
none of the programs that its set calls right is accepted, or some are and others give a wrong answer, as where several
answers are right.
"""

from __future__ import annotations

import json
from pathlib import Path

from nouscoder_jax.config import UserError

FAILING, DISAGREEING = "no right program is accepted", "right programs disagree"


def doubtful(path: str | Path) -> dict[str, tuple[str, str]]:
    """FAILING or DISAGREEING, and the detail of a verdict, by problem id. Verdicts that the judge failed to give do not
    count. Raises UserError: no such file, or a line that is no verdict."""
    wrong: dict[str, str] = {}
    accepted: set[str] = set()
    differ: set[str] = set()
    seen = 0
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                seen += 1
                problem_id, label, outcome, detail = _verdict(line, f"{path}, line {number}")
                if label != "accepted" or outcome == "judge_error":
                    continue
                if outcome == "accepted":
                    accepted.add(problem_id)
                else:
                    wrong.setdefault(problem_id, f"{outcome}: {detail}")
                    differ |= {problem_id} if outcome == "wrong_answer" else set()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); give the --out of scripts/verify.py") from error
    if not seen:
        raise UserError(f"{path} holds no verdicts; give the --out of scripts/verify.py")
    found = {name: (FAILING, detail) for name, detail in wrong.items() if name not in accepted}
    return found | {name: (DISAGREEING, wrong[name]) for name in differ & accepted}


def _verdict(line: str, place: str) -> tuple[str, str | None, str, str]:
    try:
        fields = json.loads(line)
        return str(fields["problem_id"]), fields["label"], fields["outcome"], str(fields.get("detail") or "")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is no verdict ({error!r}); give the --out of scripts/verify.py") from error
