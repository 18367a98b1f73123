"""From files of public sets to a prepared folder, and problems out of it."""

import gzip
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from nouscoder_jax.config import UserError
from nouscoder_jax.data import prepare as prepare_module
from nouscoder_jax.data import store
from nouscoder_jax.data.filters import Filters, parse_dates
from nouscoder_jax.data.prepare import prepare
from nouscoder_jax.data.problems import read_problems, read_solutions
from nouscoder_jax.data.references import doubtful
from nouscoder_jax.data.solved import always_solved
from nouscoder_jax.data.sources import Source, find_files, parse_source

ROOT = Path(__file__).resolve().parents[2]


def record(number, **fields):
    tests = {"inputs": [f"{number}\n", "2\n"], "outputs": [f"{2 * number}\n", "4\n"]}
    return {
        "question": f"Print twice the number, {number}.",
        "solutions": json.dumps(["print(2 * int(input()))"]),
        "input_output": json.dumps(tests),
        "source": "codeforces",
        "date": f"2024-08-{number % 28 + 1:02d}",
    } | fields


def write(path, records):
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wt") as file:
        file.writelines((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    return Source(format="taco", path=str(path))


def run(sources, out, *, filters=None, skip_broken=False, shard_bytes=2**20):
    sources = sources if isinstance(sources, list) else [sources]
    return prepare(
        sources, out, filters=filters or Filters(), skip_broken=skip_broken, say=lambda _: None, shard_bytes=shard_bytes
    )


def rejected(out):
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


def statements(out):
    return [problem.statement for problem in read_problems(out)]


@pytest.mark.parametrize("shard_bytes", [1, 300, 2**20])
def test_problems_and_programs_come_back_whole_and_in_order(tmp_path, shard_bytes):
    source = write(tmp_path / "a.jsonl.gz", map(record, range(10)))
    done = run(source, tmp_path / "out", shard_bytes=shard_bytes)
    problems = read_problems(tmp_path / "out")
    assert [problem.statement for problem in problems] == [record(number)["question"] for number in range(10)]
    assert (problems[3].tests[0].input, problems[3].tests[-1].expected, len(problems[3].tests)) == ("3\n", "4\n", 2)
    assert (problems[3].platform, problems[3].comparison.kind) == ("codeforces", "tokens")
    assert replace(problems[3], tests=tuple(problems[3].tests)) == problems[3]
    assert [one.code for one in read_solutions(tmp_path / "out")] == ["print(2 * int(input()))"] * 10
    assert done.num_read == done.num_kept == 10 and rejected(tmp_path / "out") == []
    assert len(list((tmp_path / "out").glob("tests-*"))) == {1: 10, 300: 3, 2**20: 1}[shard_bytes]


@pytest.mark.parametrize("places", [(64, 120), (150, 700), (65536, 66000)])
def test_a_damaged_file_is_named_when_its_tests_are_asked_for(tmp_path, monkeypatch, places):
    monkeypatch.setattr("nouscoder_jax.data.store._KEPT", 0)  # beartype looks at a test of each problem
    run(write(tmp_path / "a.jsonl", map(record, range(3))), tmp_path / "out")
    problems = read_problems(tmp_path / "out")
    (file,) = (tmp_path / "out").glob("tests-*")
    data = bytearray(file.read_bytes())
    data[slice(*places)] = bytes(places[1] - places[0])
    file.write_bytes(data)
    for problem in problems:
        problem.tests._store._readers.clear()
    assert len(problems[0].tests) == 2 and problems[0].statement == record(0)["question"]
    with pytest.raises(UserError, match=r"tests-00000.arrayrecord is damaged at problem \d .*copy the folder again"):
        [list(problem.tests) for problem in problems]


LOADS = """
import resource, sys
from nouscoder_jax.data.problems import read_problems
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problems = read_problems(sys.argv[1])
assert sum(len(problem.tests) for problem in problems) == 400
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000, "of 80 MB of tests"
assert sum(len(test.input) for problem in problems for test in problem.tests) == 80_000_400
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert after - before < 60_000, "those of the last problems only are kept"
assert "jax" not in sys.modules and "grain" not in sys.modules
"""


def test_the_tests_of_a_folder_stay_on_the_disk(tmp_path):
    tests = {"inputs": ["x" * 200_000] * 2, "outputs": ["y"] * 2}
    run(write(tmp_path / "a.jsonl", (record(i, input_output=tests) for i in range(200))), tmp_path / "out")
    subprocess.run([sys.executable, "-c", LOADS, str(tmp_path / "out")], check=True)


def test_a_parquet_file_is_read_as_lines_are(tmp_path):
    pa.parquet.write_table(pa.Table.from_pylist(list(map(record, range(200)))), tmp_path / "a.parquet")
    run(Source(format="taco", path=str(tmp_path / "a.parquet")), tmp_path / "out")
    run(write(tmp_path / "a.jsonl", map(record, range(200))), tmp_path / "lines")
    assert read_problems(tmp_path / "out") == read_problems(tmp_path / "lines")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"b.parquet is no complete Parquet file"):
        run(Source(format="taco", path=str(tmp_path / "b.parquet")), tmp_path / "other")


BROKEN = ["{", "[1]", record(7, question=7), record(8, input_output="{"), "\xff"]


def test_a_broken_record_is_named_and_what_was_done_is_kept(tmp_path):
    out, source = tmp_path / "out", write(tmp_path / "a.jsonl", [record(0), record(1), *BROKEN, record(2)])
    with pytest.raises(UserError, match=r"a.jsonl, line 3: no JSON .*--skip-broken"):
        run(source, out)
    with pytest.raises(UserError, match=r"has no problems.json.*prepare_data.py again"):
        read_problems(out)
    done = run(source, out, skip_broken=True)
    assert statements(out) == [record(number)["question"] for number in range(3)]
    assert done.rejected == {"broken": 5} and done.num_read == 8
    assert [one["place"].rpartition(" ")[2] for one in rejected(out)] == ["3", "4", "5", "6", "7"]
    assert "'question' is 7" in rejected(out)[2]["reason"]


def test_what_is_left_out_is_listed_by_reason(tmp_path):
    records = [record(0), record(0), record(1, input_output=""), record(2, question=" ")]
    done = run(write(tmp_path / "a.jsonl", records), tmp_path / "out")
    assert done.rejected == {"an id that was there before": 1, "no tests": 1, "no statement": 1}
    assert [one["kind"] for one in rejected(tmp_path / "out")] == list(done.rejected)


def test_dates_count_with_both_ends(tmp_path):
    dates = ["2024-07-31", "2024-08-01", "2024-12-24 20:00:00", "2025-05-01", "2025-05-02", None]
    records = [record(number, date=date) for number, date in enumerate(dates)]
    filters = Filters(dates=parse_dates("2024-08-01..2025-05-01"))
    done = run(write(tmp_path / "a.jsonl", records), tmp_path / "out", filters=filters)
    assert [problem.date for problem in read_problems(tmp_path / "out")] == ["2024-08-01", "2024-12-24", "2025-05-01"]
    assert done.rejected == {"outside the dates": 2, "no date": 1}


@pytest.mark.parametrize("words", ["2024-08-01", "2024-08-01..", "2024-13-01..2025-01-01", "2025-01-01..2024-01-01"])
def test_other_dates_are_refused(words):
    with pytest.raises(UserError, match="got the dates"):
        parse_dates(words)


def test_licenses_are_chosen_by_patterns(tmp_path):
    one = write(tmp_path / "a.jsonl", [record(0)])
    other = Source(format="deepcoder-taco", path=str(tmp_path / "b.jsonl"))
    write(tmp_path / "b.jsonl", [{"problem": "Say 2.", "tests": {"inputs": ["1"], "outputs": ["2"]}}])
    done = run([one, other], tmp_path / "out", filters=Filters(licenses=("mit*",)))
    assert statements(tmp_path / "out") == ["Say 2."] and done.rejected == {"another license": 1}
    assert "| 1 | agentica-org/DeepCoder-Preview-Dataset:taco | MIT (DeepCoder)" in done.table()[-1]


@pytest.mark.parametrize("stop_at", [1, 4, 7, 11, 12])
def test_an_interrupted_one_goes_on_and_ends_the_same(tmp_path, stop_at):
    first = [record(0), "{", record(1), record(1), record(2), record(3)]
    sources = [write(tmp_path / "a.jsonl", first), write(tmp_path / "b.jsonl", map(record, range(4, 10)))]
    run(sources, tmp_path / "whole", skip_broken=True, shard_bytes=300)
    calls = 0

    def stop(_):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(sources, out, filters=Filters(), skip_broken=True, say=stop, shard_bytes=300)
    done = run(sources, out, skip_broken=True, shard_bytes=300)
    assert read_problems(out) == read_problems(tmp_path / "whole") and rejected(out) == rejected(tmp_path / "whole")
    assert (done.num_read, done.rejected) == (12, {"broken": 1, "an id that was there before": 1})
    assert run(sources, out).num_kept == 10, "a finished folder is left as it is"


@pytest.mark.parametrize("where", ["ShardWriter.add", "_Work._remember", "ShardWriter.close"])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("before", [True, False])
def test_it_may_be_interrupted_within_a_record(tmp_path, monkeypatch, where, call, before):
    source = write(tmp_path / "a.jsonl", [record(0), "{", *map(record, range(1, 9))])
    run(source, tmp_path / "whole", skip_broken=True, shard_bytes=300)
    cls = {"ShardWriter": store.ShardWriter, "_Work": prepare_module._Work}[where.partition(".")[0]]
    name, calls = where.partition(".")[2], []
    method = getattr(cls, name)

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == call and before:
            raise KeyboardInterrupt
        result = method(*arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(cls, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", skip_broken=True, shard_bytes=300)
    monkeypatch.setattr(cls, name, method)
    done = run(source, tmp_path / "out", skip_broken=True, shard_bytes=300)
    assert read_problems(tmp_path / "out") == read_problems(tmp_path / "whole") and done.num_kept == 9
    assert rejected(tmp_path / "out") == rejected(tmp_path / "whole")


def test_sources_that_are_others_than_those_it_was_begun_with_are_refused(tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set/b.jsonl", map(record, range(3)))
    write(tmp_path / "set/c.jsonl", [*map(record, range(3, 6)), "{", record(6)])
    source, out = Source(format="taco", path=str(tmp_path / "set")), tmp_path / "out"
    with pytest.raises(UserError, match="line 4"):
        run(source, out)
    write(tmp_path / "set/a.jsonl", [record(9)])
    with pytest.raises(UserError, match=r"are not those that it was begun with .*a.jsonl"):
        run(source, out)
    (tmp_path / "set/a.jsonl").unlink()
    write(tmp_path / "set/c.jsonl", map(record, range(7, 13)))
    with pytest.raises(UserError, match=r"c.jsonl, line 3 was changed since it was read"):
        run(source, out)
    write(tmp_path / "set/c.jsonl", [*map(record, range(3, 6)), record(7), record(6)])  # the broken line is mended
    assert run(source, out).num_kept == 8
    assert run(source, out).num_kept == 8
    write(tmp_path / "set/c.jsonl", [*map(record, range(3, 6)), record(7), record(6), record(8)])
    with pytest.raises(UserError, match=r"begun with .*c.jsonl"):
        run(source, out)


def test_a_slip_in_a_filter_leaves_no_folder_that_cannot_be_used(tmp_path):
    source = write(tmp_path / "a.jsonl", [record(0)])
    for filters in (Filters(held_out="nope.jsonl"), Filters(verdicts="nope.jsonl"), Filters(solved="nope")):
        with pytest.raises(UserError, match="nope"):
            run(source, tmp_path / "out", filters=filters)
    assert run(source, tmp_path / "out").num_kept == 1


@pytest.mark.parametrize("name", ["progress.json", "problems.json"])
@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"format": 1}'])
def test_a_folder_whose_own_files_are_damaged_is_refused(tmp_path, name, text):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(text)
    with pytest.raises(UserError, match=r"not what was written|no JSON|has format|damaged"):
        run(write(tmp_path / "a.jsonl", [record(0)]), tmp_path / "out")
    if name == "problems.json":
        with pytest.raises(UserError):
            read_problems(tmp_path / "out")


def test_problems_without_words_are_not_like_one_another(tmp_path):
    fields = {"io": "stdin", "checker": "tokens", "tests": [{"input": "1", "output": "2"}]}
    records = [fields | {"id": str(n), "statement": text} for n, text in enumerate([None, None, "<img src='1.png'>"])]
    source = write(tmp_path / "a.jsonl", records)
    source = Source(format="nouscoder", path=source.path)
    assert run(source, tmp_path / "out", filters=Filters(likeness=0.8)).num_kept == 3
    assert run(source, tmp_path / "two", filters=Filters(held_out=str(tmp_path / "out"))).num_kept == 3


@pytest.mark.parametrize("likeness", [0.01, 0.95, 0.999, 1.0])
def test_any_likeness_may_be_asked_for(tmp_path, likeness):
    texts = [STATEMENT, f"{STATEMENT}!", "Another one entirely."]
    records = [record(number, question=text) for number, text in enumerate(texts)]
    done = run(write(tmp_path / "a.jsonl", records), tmp_path / "out", filters=Filters(likeness=likeness))
    assert done.rejected == {"the same statement": 1}


@pytest.mark.parametrize(
    ("format", "line"),
    [
        ("synthetic1", {"prompt": "x", "problem_id": "1", "verification_info": {"test_cases": [{"type": ["x"]}]}}),
        ("synthetic1", {"prompt": "x", "problem_id": "1", "verification_info": {"test_cases": []},
                        "metadata": {"time_limit": {"seconds": "3"}}}),
        ("kattis", {"a": 1}),
        ("taco", record(0, source="\ud800")),
        ("taco", record(0, memory_limit=10**400)),
    ],
)  # fmt: skip
def test_an_odd_record_is_broken_and_ends_nothing(tmp_path, format, line):
    source = write(tmp_path / "a.jsonl", [line])
    good = write(tmp_path / "b.jsonl", [record(1)])
    odd = Source(format=format, path=source.path)
    if format == "kattis":
        odd = Source(format="taco", path=source.path)
    done = run([odd, good], tmp_path / "out", skip_broken=True)
    assert done.num_kept == 1 and sum(done.rejected.values()) == 1


def test_a_damaged_gzip_file_is_told(tmp_path):
    source = write(tmp_path / "a.jsonl.gz", map(record, range(50)))
    data = bytearray(Path(source.path).read_bytes())
    data[len(data) // 2] ^= 255
    Path(source.path).write_bytes(data)
    with pytest.raises(UserError, match=r"a.jsonl.gz.*copy it again"):
        run(source, tmp_path / "out", skip_broken=True)


KILLED = """
import os, signal, sys
from nouscoder_jax.data.filters import Filters
from nouscoder_jax.data.prepare import prepare
from nouscoder_jax.data.references import doubtful
from nouscoder_jax.data.solved import always_solved
from nouscoder_jax.data.sources import Source
calls = 0
def say(_):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
prepare([Source(format="taco", path=sys.argv[1])], __import__("pathlib").Path(sys.argv[2]), filters=Filters(),
        skip_broken=True, say=say, shard_bytes=300)
"""


@pytest.mark.parametrize("kill_at", [1, 6, 9])
def test_a_killed_one_goes_on_after_its_last_whole_shard(tmp_path, kill_at):
    source = write(tmp_path / "a.jsonl", [record(0), "{", *map(record, range(1, 9))])
    run(source, tmp_path / "whole", skip_broken=True, shard_bytes=300)
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED, source.path, str(out), str(kill_at)], check=False)
    assert killed.returncode == -signal.SIGKILL
    run(source, out, skip_broken=True, shard_bytes=300)
    assert read_problems(out) == read_problems(tmp_path / "whole") and rejected(out) == rejected(tmp_path / "whole")


def test_a_folder_of_other_sources_or_filters_or_things_is_refused(tmp_path):
    source = write(tmp_path / "a.jsonl", [record(0)])
    run(source, tmp_path / "out")
    with pytest.raises(UserError, match="was begun with sources"):
        run(write(tmp_path / "b.jsonl", [record(0)]), tmp_path / "out")
    with pytest.raises(UserError, match="was begun with filters"):
        run(source, tmp_path / "out", filters=Filters(licenses=("MIT",)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine")
    with pytest.raises(UserError, match="holds other things"):
        run(source, tmp_path / "full")


@pytest.mark.parametrize("change", ["cut", "gone", "format", "json"])
def test_a_folder_that_is_not_as_it_was_written_is_refused(tmp_path, change):
    out = tmp_path / "out"
    run(write(tmp_path / "a.jsonl", [record(0)]), out)
    (file,), manifest = out.glob("tests-*"), out / "problems.json"
    {
        "cut": lambda: os.truncate(file, file.stat().st_size - 1),
        "gone": file.unlink,
        "format": lambda: manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2')),
        "json": lambda: os.truncate(manifest, 40),
    }[change]()
    with pytest.raises(UserError, match=r"were written|expected 1|no JSON"):
        read_problems(out)


STATEMENT = " ".join(f"word{number}" for number in range(60))


def test_statements_that_were_there_before_are_left_out_and_listed(tmp_path):
    texts = [STATEMENT, f"<b>{STATEMENT.upper()}!</b>", f"{STATEMENT} and more", f"{STATEMENT[:150]} else" + " x" * 60]
    records = [record(number, question=text) for number, text in enumerate(texts)]
    done = run(write(tmp_path / "a.jsonl", records), tmp_path / "out", filters=Filters(likeness=0.8), shard_bytes=1)
    assert statements(tmp_path / "out") == [texts[0], texts[3]]
    assert done.rejected == {"the same statement": 1, "nearly the same statement": 1}
    first = read_problems(tmp_path / "out")[0].problem_id
    assert all(f"is like {first}: " in one["reason"] for one in rejected(tmp_path / "out"))
    assert run(write(tmp_path / "b.jsonl", records), tmp_path / "all").num_kept == 4


def test_what_was_kept_before_an_interruption_is_compared_with_after_it(tmp_path):
    source = write(tmp_path / "a.jsonl", [record(0, question=STATEMENT), "{", record(1, question=f"{STATEMENT} twice")])
    with pytest.raises(UserError, match="line 2"):
        run(source, tmp_path / "out", filters=Filters(likeness=0.8))
    done = run(source, tmp_path / "out", filters=Filters(likeness=0.8), skip_broken=True)
    assert done.rejected == {"broken": 1, "nearly the same statement": 1} and done.num_kept == 1


def test_problems_of_the_held_out_set_are_left_out(tmp_path):
    phrase = " Print the answer to each test case on a line of its own, in order."
    held_out = [STATEMENT + phrase, "Another story. " * 3 + phrase, "A third one. " * 8 + phrase]
    run(write(tmp_path / "h.jsonl", [record(n, question=text) for n, text in enumerate(held_out)]), tmp_path / "held")
    texts = [f"Told anew. {STATEMENT[100:]} At once.", "A story of its own, quite another one." + phrase, "Short."]
    records = [record(number, question=text) for number, text in enumerate(texts)]
    done = run(write(tmp_path / "a.jsonl", records), tmp_path / "out", filters=Filters(held_out=str(tmp_path / "held")))
    assert statements(tmp_path / "out") == texts[1:] and done.rejected == {"of the held-out set": 1}


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({"url": "https://example.org/1"}, True),
        ({"name": "Twice the number"}, True),
        ({"name": "Twice the number", "source": "atcoder"}, False),
        ({"name": "Sum"}, False),
        ({}, False),
    ],
)
def test_a_problem_of_the_same_address_or_title_is_the_held_out_one(tmp_path, fields, held):
    other = record(0, url="https://example.org/1/", name="twice the Number!", question="One wording of it.")
    run(write(tmp_path / "h.jsonl", [other, record(1, name="Sum")]), tmp_path / "held")
    filters = Filters(held_out=str(tmp_path / "held"))
    records = [record(2, question="Something else entirely.", **fields), record(3)]
    done = run(write(tmp_path / "a.jsonl", records), tmp_path / "out", filters=filters)
    assert done.rejected == ({"of the held-out set": 1} if held else {})


def test_a_problem_needs_its_number_of_tests(tmp_path):
    few = record(0, input_output={"inputs": ["1"], "outputs": ["2"]})
    done = run(write(tmp_path / "a.jsonl", [few, record(1)]), tmp_path / "out", filters=Filters(least_tests=2))
    assert done.rejected == {"too few tests": 1} and done.num_kept == 1
    with pytest.raises(UserError, match="at least 0 tests"):
        Filters(least_tests=0)


def test_the_first_programs_of_each_label_are_kept(tmp_path):
    solutions = [{"label": label, "code": f"{label} {n}"} for n in range(3) for label in ("accepted", "rejected")]
    fields = {"id": "a", "statement": "S.", "io": "stdin", "checker": "tokens", "solutions": solutions}
    source = write(tmp_path / "a.jsonl", [fields | {"tests": [{"input": "1", "output": "2"}]}])
    run(Source(format="nouscoder", path=source.path), tmp_path / "out", filters=Filters(programs=2))
    kept = [one.code for one in read_solutions(tmp_path / "out")]
    assert kept == ["accepted 0", "rejected 0", "accepted 1", "rejected 1"]


def rollouts(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [{"problem_id": name, "verdict": outcome and {"outcome": outcome}} for name, outcome in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))


def test_what_a_policy_solves_every_time_is_left_out(tmp_path):
    source = write(tmp_path / "a.jsonl", map(record, range(4)))
    run(source, tmp_path / "all")
    names = [problem.problem_id for problem in read_problems(tmp_path / "all")]
    won, lost = "accepted", "wrong_answer"
    rollouts(tmp_path / "run/rollouts/step-000001.jsonl", *[(names[0], won)] * 4, *[(names[1], won)] * 7)
    rollouts(tmp_path / "run/rollouts/step-000002.jsonl", *[(names[0], won)] * 4, (names[0], None))
    rollouts(tmp_path / "run/held_out/step-000002.jsonl", *[(names[2], won)] * 9, (names[2], lost))
    filters = Filters(solved=str(tmp_path / "run"))
    done = run(source, tmp_path / "out", filters=filters)
    assert [problem.problem_id for problem in read_problems(tmp_path / "out")] == names[1:]
    assert done.rejected == {"solved every time": 1}
    fewer = run(source, tmp_path / "fewer", filters=Filters(solved=str(tmp_path / "run"), solved_of=7))
    assert fewer.rejected == {"solved every time": 2}


def test_problems_whose_right_programs_fail_are_left_out_with_the_verdict(tmp_path):
    source = write(tmp_path / "a.jsonl", map(record, range(6)))
    run(source, tmp_path / "all")
    names = [problem.problem_id for problem in read_problems(tmp_path / "all")]
    outcomes = {
        0: [("accepted", "wrong_answer")],
        1: [("accepted", "accepted"), ("accepted", "wrong_answer")],
        2: [("accepted", "accepted"), ("accepted", "time_limit"), ("rejected", "wrong_answer")],
        3: [("accepted", "judge_error")],
        4: [("rejected", "wrong_answer"), (None, "wrong_answer")],
    }
    lines = [
        {"problem_id": names[number], "label": label, "outcome": outcome, "detail": "test 1"}
        for number, verdicts in outcomes.items() for label, outcome in verdicts
    ]  # fmt: skip
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(source, tmp_path / "out", filters=Filters(verdicts=str(tmp_path / "v.jsonl")))
    assert [problem.problem_id for problem in read_problems(tmp_path / "out")] == names[2:]
    assert done.rejected == {"no right program is accepted": 1, "right programs disagree": 1}
    assert rejected(tmp_path / "out")[0]["reason"] == f"{names[0]}: wrong_answer: test 1"
    with pytest.raises(UserError, match=r"line 1 is no verdict .*verify.py"):
        doubtful(source.path)
    with pytest.raises(UserError, match="cannot be read"):
        doubtful(tmp_path / "none")


def test_rollouts_that_are_none_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no rollouts"):
        always_solved(tmp_path, of=8)
    (tmp_path / "step-1.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"line 1 is no rollout .*problem_id and verdict"):
        always_solved(tmp_path, of=8)


def test_the_report_has_every_number_and_reason(tmp_path):
    records = [record(0), record(0), "{", record(1, date=None), record(2, input_output="")]
    run(write(tmp_path / "a.jsonl", records), tmp_path / "out", skip_broken=True)
    page = (tmp_path / "out/report.md").read_text()
    for line in (
        "5 records read, 2 problems kept",
        "| 2 | BAAI/TACO | Apache-2.0 (TACO); statements belong to the platforms they come from |",
        "| 1 | broken |", "| 1 | no tests |", "| 1 | an id that was there before |",
        "| 2 | a program that reads stdin |", "| 2 | 2 to 4 |", "| 2 | codeforces | not stated |",
        "| 1 | 2024 |", "| 1 | not stated |", f"- `taco={tmp_path / 'a.jsonl'}`",
    ):  # fmt: skip
        assert line in page


def test_nothing_kept_is_an_error(tmp_path):
    with pytest.raises(UserError, match="of 1 records none is kept"):
        run(write(tmp_path / "a.jsonl", [record(0, input_output="")]), tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("taco", "expected FORMAT=PATH"),
        ("tacos=x", "expected FORMAT=PATH with one of apps, "),
        ("taco=/nowhere.jsonl", "does not exist"),
        ("taco=/nowhere/*.jsonl", "there is no /nowhere"),
    ],
)
def test_sources_that_are_none(words, told):
    with pytest.raises(UserError, match=told):
        find_files(parse_source(words))


def test_a_folder_and_a_pattern_name_files_in_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        write(tmp_path / name, [])
    found = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert find_files(parse_source(f"taco={tmp_path}")) == found == find_files(parse_source(f"taco={tmp_path}/*.jsonl"))
    with pytest.raises(UserError, match=r"there is no .*problem.yaml"):
        find_files(parse_source(f"kattis={tmp_path}"))


def test_the_hub_out_of_reach_is_a_users_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"the data set 'BAAI/TACO' cannot be fetched"):
        find_files(parse_source("taco=hub:BAAI/TACO:train/*"))


def script(*arguments, **options):
    return subprocess.run(
        [sys.executable, "scripts/prepare_data.py", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def test_the_script_says_what_it_wrote_and_what_it_left_out(tmp_path):
    source = write(tmp_path / "a.jsonl", [record(0), "{", record(1)])
    out = tmp_path / "out"
    stopped = script(f"taco={source.path}", "--out", out)
    assert stopped.returncode == 2 and "line 2" in stopped.stderr and "Traceback" not in stopped.stderr
    done = script(f"taco={source.path}", "--out", out, "--skip-broken")
    assert done.returncode == 0 and "3 records read, 2 problems kept, 1 broken" in done.stdout
    assert "| 2 | BAAI/TACO | Apache-2.0" in done.stdout and "1 broken records are left out" in done.stderr
    assert len(read_problems(out)) == 2
