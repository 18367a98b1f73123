"""A served page follows its runs, and the server gives out the page and its data alone."""

import base64
import gzip
import http.client
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from run_folders import accepted, make_run, metrics_of, rollout, write_step

from nouscoder_jax.config import UserError
from nouscoder_jax.report.contents import Contents
from nouscoder_jax.report.read import open_runs
from nouscoder_jax.report.serve import open_server

ROOT = Path(__file__).resolve().parents[2]
EMPTY = Contents([], text_chars=0)


@pytest.fixture
def served(tmp_path):
    """A folder of a run, and a server of its page that answers."""
    folder = make_run(tmp_path / "run", {1: [rollout(1)]}, metrics=[metrics_of(1)])
    contents = Contents(open_runs([str(folder)]), text_chars=0)
    with open_server(contents, ["run"], host="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield folder, server
        server.shutdown()
        thread.join()
    contents.close()


def get(server, target, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def updates(server, *, version="", blocks=0, generation=0):
    status, body = get(server, f"/updates?version={version}&blocks={blocks}&generation={generation}")
    assert status == 200
    return json.loads(body)


def steps_in(news):
    blocks = [json.loads(gzip.decompress(base64.b64decode(block))) for block in news["blocks"]]
    return [step for block in blocks for step in block["columns"]["step"]]


def test_a_page_is_sent_what_it_does_not_have_yet(served):
    folder, server = served
    first = updates(server)
    assert steps_in(first) == [1]
    known = {"version": first["version"], "blocks": first["next"]}
    assert updates(server, **known) == {"version": first["version"]}
    write_step(folder, 2, [accepted(2)])
    second = updates(server, **known)
    assert steps_in(second) == [2] and second["overview"]["rollouts"] == 2
    status, chunk = get(server, "/chunks/0/1")
    assert status == 200 and json.loads(gzip.decompress(chunk))["rows"][0]["program"] == "print(4)\n"


def test_a_step_done_again_sends_everything_anew(served):
    folder, server = served
    first = updates(server)
    write_step(folder, 1, [accepted(1), accepted(1)])
    again = updates(server, version=first["version"], blocks=first["next"])
    assert (again["generation"], steps_in(again)) == (1, [1, 1])
    assert get(server, "/chunks/0/0")[0] == 404


def test_a_run_that_ends_and_a_folder_that_goes_are_told(served):
    folder, server = served
    assert updates(server)["overview"]["runs"][0]["state"] == "step 1 of 8; it has not ended"
    (folder / "summary.json").write_text(json.dumps({"finished": False, "steps": 1}))
    assert updates(server)["overview"]["runs"][0]["state"] == "stopped after step 1"
    folder.rename(folder.with_name("away"))
    assert "its folder is gone" in updates(server)["overview"]["runs"][0]["state"]
    assert steps_in(updates(server)) == [1]


@pytest.mark.parametrize(
    "target",
    [
        "/config.json",
        "/../config.json",
        "/%2e%2e/config.json",
        "//etc/passwd",
        "/chunks/0/99",
        "/chunks/0/-1",
        "/chunks/0/0/",
    ],
)
def test_nothing_but_the_page_and_its_data_is_given_out(served, target):
    updates(served[1])
    assert get(served[1], target) == (404, b"not found\n")


def test_a_name_that_is_not_the_servers_own_is_refused(served):
    assert get(served[1], "/", Host="evil.example")[0] == 403
    assert get(served[1], "/updates", Host=f"evil.example:{served[1].server_port}")[0] == 403
    assert get(served[1], "/", Host=f"localhost:{served[1].server_port}")[0] == 200


def test_the_page_may_ask_its_own_server_and_no_other(served):
    page = get(served[1], "/")[1].decode()
    assert "connect-src 'self';" in page and 'data-live="yes"' in page


def test_a_port_that_is_taken_or_none_is_told(served):
    with pytest.raises(UserError, match=r"cannot listen at 127\.0\.0\.1:.*; choose another --port"):
        open_server(EMPTY, [], host="127.0.0.1", port=served[1].server_port)
    with pytest.raises(UserError, match="--port got 70000; expected a number from 0 to 65535"):
        open_server(EMPTY, [], host="127.0.0.1", port=70000)


def test_the_script_serves_until_ctrl_c(tmp_path):
    folder = make_run(tmp_path / "run")
    command = [sys.executable, str(ROOT / "scripts/report.py"), str(folder), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("the page is at http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "interrupted\n"
