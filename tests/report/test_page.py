"""The page is one file that nothing in a run can change the meaning of, and mistakes are told before it is written."""

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_folders import HOSTILE, make_run, metrics_of, rollout

from nouscoder_jax.report.contents import Contents
from nouscoder_jax.report.page import write_page
from nouscoder_jax.report.read import open_runs

ROOT = Path(__file__).resolve().parents[2]


def page_of(folder, out, name="run"):
    contents = Contents(open_runs([str(folder)]), text_chars=0)
    contents.update()
    write_page(contents, [name], out)
    return out.read_text(encoding="utf-8")


def report(*arguments, cwd, code=None):
    """Runs the script, or `code` before it in the same process."""
    command = [sys.executable, str(ROOT / "scripts/report.py"), *map(str, arguments)]
    if code:
        run_it = f"import runpy; runpy.run_path({command[1]!r}, run_name='__main__')"
        command = [sys.executable, "-c", f"{code}\nsys.argv = {command[1:]!r}\n{run_it}"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_nothing_of_a_rollout_or_of_a_name_is_html(tmp_path):
    folder = make_run(tmp_path / "run", {1: [rollout(1, text=HOSTILE, problem_id=HOSTILE)]}, metrics=[metrics_of(1)])
    text = page_of(folder, tmp_path / "page.html", name=HOSTILE)
    own = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)  # scripts and data
    assert "onerror" not in own.replace("onerror=&#x27;", "") and "<img" not in own and "<svg" not in own
    assert "&lt;img src=x onerror=&#x27;" in own


def test_the_policy_lets_the_pages_own_scripts_run_and_nothing_else(tmp_path):
    text = page_of(make_run(tmp_path / "run"), tmp_path / "page.html")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts = re.findall(r'<script(?: type="text/plain" id="plotly")?>(.*?)</script>', text, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts]
    assert sorted(allowed["script-src"].split()) == sorted(hashes) and len(hashes) == 2
    assert (allowed["default-src"], allowed["connect-src"], allowed["base-uri"]) == ("'none'",) * 3


def test_the_page_names_no_other_file(tmp_path):
    text = page_of(make_run(tmp_path / "run"), tmp_path / "page.html")
    own = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!#|data:,)', own) and "@import" not in own and "url(" not in own


def test_a_page_is_written_by_the_script_and_not_over_another_one(tmp_path):
    folder = make_run(tmp_path / "run", {1: [rollout(1)]}, metrics=[metrics_of(1)])
    done = report(folder, "--out", "page.html", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "1 rollouts" in done.stdout
    before = (tmp_path / "page.html").stat().st_mtime_ns
    done = report(folder, "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 2 and "exists; expected a new file: choose another one, or add --replace" in done.stderr
    assert (tmp_path / "page.html").stat().st_mtime_ns == before
    assert report(folder, "--out", "page.html", "--replace", cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run", "run-problems.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none"], "is not there; give the folder that a run has written"),
        ([], "the following arguments are required: RUN_DIR"),
        (["run", "--out", "no/page.html"], "expected a file in a folder that exists: make no first"),
        (["run", "--out", "."], "a folder; expected a file"),
        (["run", "run"], "two runs are named 'run'"),
        (["run", "--text-chars", "-1"], "--text-chars got -1; expected a number of at least 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, arguments, says):
    make_run(tmp_path / "run")
    done = report(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_without_plotly_the_extra_is_named(tmp_path):
    make_run(tmp_path / "run")
    done = report("run", cwd=tmp_path, code="import sys; sys.modules['plotly'] = None")
    assert done.returncode == 2
    assert done.stderr.startswith("error: plotly is not installed; the extra report brings it: pip install")
