"""bench.py pipeline: the virtual servers and workers by hand, the loop on them, what binds, the command line."""

import argparse
import asyncio
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import make_config

from nouscoder_jax import cli
from nouscoder_jax.bench.pipeline import command, fleet
from nouscoder_jax.bench.pipeline.command import Row
from nouscoder_jax.bench.pipeline.fleet import find_settings, read_plan, share_of, update_time
from nouscoder_jax.bench.pipeline.parts import Server, VirtualEngine, VirtualJudge, program_text
from nouscoder_jax.bench.pipeline.simulate import Setting, make_problem, simulate
from nouscoder_jax.bench.pipeline.traffic import DrawnTraffic, Sample, lengths
from nouscoder_jax.bench.pipeline.virtual_clock import now_s, run_virtually
from nouscoder_jax.config import UserError
from nouscoder_jax.planning.fleet import Fleet, find_gpu
from nouscoder_jax.types import Outcome, Prompt, Sampling

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests" / "baselines" / "pipeline_bench.json"


class Fixed:
    """Traffic with one length, every second seed accepted."""

    problem_ids = tuple(f"p{number}" for number in range(40))

    def __init__(self, tokens=lambda seed: 100, verify_s=2.0):
        self.tokens, self.verify_s = tokens, verify_s

    def sample(self, problem_id, seed):
        return Sample(num_tokens=self.tokens(seed), cut=False, accepted=seed % 2 == 0, verify_s=self.verify_s)


def long_tailed(seed):
    """Most have 40 to 140 tokens, one in ten has 1000."""
    return 1000 if seed % 10 == 0 else 40 + seed % 101


def setting(**fields):
    values = {
        "servers": 2, "slots_per_server": 8, "decode_step_s": lambda number: 0.01,
        "update_s": lambda tokens: 2.0, "export_s": 0.1, "reload_s": 0.1, "num_workers": 64, "prompt_tokens": 10,
        "colocated": False,
    }  # fmt: skip
    return Setting(**(values | fields))


def small(*, max_staleness=0, groups=4):
    return make_config(rollout={"groups_per_step": groups, "group_size": 4, "max_staleness": max_staleness})


def measure(config, machines, traffic=None, *, num_steps=8):
    return simulate(config, machines, traffic or Fixed(long_tailed), num_steps=num_steps, warm_up=2)


def sampling(seed):
    return Sampling(temperature=1.0, top_p=1.0, top_k=0, max_completion_tokens=4096, seed=seed)


def ends(lengths, *, starts=None, num_slots=8, step_s=lambda number: 0.1 * number, num_servers=1):
    """When each sequence ends, on servers with this time of a decoding step."""

    async def main():
        servers = [Server(num_slots=num_slots, decode_step_s=step_s) for _ in range(num_servers)]
        engine = VirtualEngine(servers, Fixed(lambda seed: lengths[seed]), reload_s=5.0, finishes=False)

        async def one(seed):
            await asyncio.sleep((starts or [0.0] * len(lengths))[seed])
            await engine.generate(Prompt(problem_id="p0", token_ids=(0,)), sampling(seed))
            return now_s()

        return await asyncio.gather(*(one(seed) for seed in range(len(lengths))))

    return run_virtually(main())


def test_two_sequences_share_steps_and_the_longer_goes_on_alone():
    # 10 steps of 0.2 s for both; then 20 steps of 0.1 s for the second
    assert ends([10, 30]) == pytest.approx([2.0, 4.0])


def test_a_sequence_that_joins_slows_the_one_under_way():
    # alone for 1 s: 10 of 20 tokens; together 10 more at 0.2 s: 3 s. The second has 10 of 15 then, and 5 at 0.1 s left
    assert ends([20, 15], starts=[0.0, 1.0]) == pytest.approx([3.0, 3.5])


def test_who_asks_goes_to_the_server_with_the_fewest_sequences():
    assert ends([10, 10], num_servers=2) == pytest.approx([1.0, 1.0])


def test_what_finds_no_slot_waits_its_turn():
    assert ends([10, 10, 10], num_slots=2) == pytest.approx([2.0, 2.0, 3.0])


def test_a_cancelled_sequence_leaves_its_slot():
    async def main():
        server = Server(num_slots=1, decode_step_s=lambda number: 1.0)
        engine = VirtualEngine([server], Fixed(lambda seed: 10), reload_s=1.0, finishes=False)
        prompt = Prompt(problem_id="p0", token_ids=(0,))
        first, second = (asyncio.create_task(engine.generate(prompt, sampling(seed))) for seed in range(2))
        await asyncio.sleep(3.0)
        first.cancel()
        await second
        return now_s(), server.tokens

    assert run_virtually(main()) == pytest.approx((13.0, 13.0))


@pytest.mark.parametrize(("finishes", "loaded_s", "ended_s", "version"), [(False, 5.0, 15.0, 3), (True, 13.0, 10.0, 3)])
def test_new_weights_stop_a_server_or_wait_for_its_sequences(finishes, loaded_s, ended_s, version):
    async def main():
        server = Server(num_slots=2, decode_step_s=lambda number: 1.0)
        engine = VirtualEngine([server], Fixed(lambda seed: 10), reload_s=3.0, finishes=finishes)
        prompt = Prompt(problem_id="p0", token_ids=(0,))

        async def one(seed):
            completion = await engine.generate(prompt, sampling(seed))
            return now_s(), completion.policy_version

        first = asyncio.create_task(one(0))
        await asyncio.sleep(2.0)
        loading = asyncio.create_task(engine.reload(Path("."), policy_version=version))
        await asyncio.sleep(1.0)
        late = asyncio.create_task(one(1))
        await loading
        return now_s(), await first, await late

    loaded, first, late = run_virtually(main())
    assert loaded == pytest.approx(loaded_s)
    assert first == pytest.approx((13.0 if not finishes else ended_s, 0))
    assert late == pytest.approx((loaded_s + 10.0, version)), "asked for during the change: the new weights take it"


def test_judge_workers_have_a_line():
    async def main():
        judge = VirtualJudge(Fixed(verify_s=2.0), num_workers=2)
        problem = make_problem("p0")
        verdicts = await asyncio.gather(
            *(judge.judge(problem, str(seed)) for seed in range(3)), judge.judge(problem, None)
        )
        return now_s(), judge.busy_s, [verdict.outcome for verdict in verdicts]

    now, busy, outcomes = run_virtually(main())
    assert (now, busy) == pytest.approx((4.0, 6.0))
    assert outcomes == [Outcome.ACCEPTED, Outcome.WRONG_ANSWER, Outcome.ACCEPTED, Outcome.NO_PROGRAM]


def test_a_cut_completion_holds_no_program():
    assert (program_text((7, 1)), program_text((7, 0))) == ("```\n7\n```", "")


def test_ahead_the_engine_is_less_idle_than_in_the_synchronous_order(root):
    machines = setting(decode_step_s=lambda number: 0.05, slots_per_server=4)
    ahead, synchronous = (measure(small(max_staleness=bound), machines) for bound in (4, 0))
    assert ahead.engine_idle_share < 0.02 < 0.5 < synchronous.engine_idle_share
    assert ahead.step_s < 0.5 * synchronous.step_s
    assert (synchronous.staleness_max, ahead.staleness_max > 0) == (0, True)


def test_the_same_seed_gives_the_same_figures(root):
    first, second = (measure(small(max_staleness=2), setting()) for _ in range(2))
    assert first == second


def test_a_synchronous_step_by_hand(root):
    # One wave of 16: 100 tokens at 0.01 s on 16 slots, verdicts 2 s, update 2 s, export 0.1 s, reload 0.1 s.
    config = small()
    config = dataclasses.replace(config, experience=dataclasses.replace(config.experience, drop_equal_groups=False))
    one = measure(config, setting(), Fixed())
    assert one.step_s == pytest.approx(5.2)
    assert one.engine_idle_share == pytest.approx(1 - 1.0 / 5.2)
    assert one.server_idle_share == pytest.approx(1 - 1.0 / 5.2)
    assert one.loading_share == pytest.approx(0.1 / 5.2)
    assert one.trainer_idle_share == pytest.approx(3.0 / 5.2)
    assert one.tokens_per_s == pytest.approx(1600 / 5.2)
    assert one.judge_busy_share == pytest.approx(16 * 2.0 / (64 * 5.2))


def test_a_colocated_engine_stands_still_during_the_update(root):
    apart, shared = (measure(small(), setting(colocated=colocated)) for colocated in (False, True))
    assert shared.loading_share * shared.step_s == pytest.approx(2.1)
    assert apart.loading_share * apart.step_s == pytest.approx(0.1)


def test_ahead_of_training_the_same_seed_gives_the_same_run(root):
    config = small(max_staleness=2, groups=8)
    one = measure(config, setting(servers=4))
    assert one.step_s >= 2.2 and one.staleness_max <= 2
    assert one == measure(config, setting(servers=4))


def binding(config, machines, traffic=None):
    """What helps most, as `bench.py pipeline --gpus N` finds it."""
    base = measure(config, machines, traffic, num_steps=4)
    gains = {
        binds: 1 - measure(changed_config, changed, traffic, num_steps=4).step_s / base.step_s
        for _, binds, changed_config, changed in command.changes(config, machines, room=machines.slots_per_server)
    }
    return max(gains, key=lambda name: gains[name]), gains


@pytest.mark.parametrize(
    ("fields", "traffic", "expected"),
    [
        ({"update_s": lambda tokens: 60.0}, None, "the trainer"),
        ({"num_workers": 1}, Fixed(long_tailed, verify_s=3.0), "judge workers"),
        ({"export_s": 30.0, "reload_s": 30.0}, None, "weight transfer"),
        ({"servers": 1, "slots_per_server": 2, "update_s": lambda tokens: 0.1}, None, "the engine"),
    ],
)
def test_what_is_slow_binds(root, fields, traffic, expected):
    found, gains = binding(small(max_staleness=4), setting(**fields), traffic)
    assert found == expected and gains[found] > 0.3


def test_one_very_long_completion_makes_the_bound_on_staleness_bind(root):
    config = small(max_staleness=1)
    machines = setting(servers=8, update_s=lambda tokens: 0.1)
    found, gains = binding(config, machines, Fixed(lambda seed: 5000 if seed % 40 == 0 else 50, verify_s=0.1))
    assert found == "the bound on staleness" and gains["the engine"] < 0.05


def test_drawn_lengths_have_a_long_tail_and_half_the_groups_differ(root):
    drawn = DrawnTraffic(max_tokens=30720, seed=0)
    tokens = lengths(drawn)
    assert 0.4 * 30720 < sum(tokens) / len(tokens) < 0.6 * 30720 and max(tokens) == 30720
    assert 0.05 < sum(one == 30720 for one in tokens) / len(tokens) < 0.25
    groups = [[drawn.sample(problem, seed).accepted for seed in range(8)] for problem in drawn.problem_ids[:1000]]
    assert 0.4 < sum(len(set(group)) == 2 for group in groups) / 1000 < 0.6
    verified = [drawn.sample(problem, 0).verify_s for problem in drawn.problem_ids if not drawn.sample(problem, 0).cut]
    assert min(verified) >= 1.0 and max(verified) <= 3.0


def test_solved_problems_get_shorter_completions():
    drawn = DrawnTraffic(max_tokens=30720, seed=0)
    samples = [drawn.sample(problem, 1) for problem in drawn.problem_ids]
    mean = {
        accepted: sum(one.num_tokens for one in samples if one.accepted is accepted)
        / sum(one.accepted is accepted for one in samples)
        for accepted in (True, False)
    }
    assert mean[True] < 0.7 * mean[False]


def test_a_sample_depends_on_seed_problem_and_its_seed_alone():
    first, second, other = (DrawnTraffic(max_tokens=1000, seed=seed) for seed in (0, 0, 1))
    assert first.sample("drawn/0003", 5) == second.sample("drawn/0003", 5) != other.sample("drawn/0003", 5)


def test_updates_take_whole_micro_batches():
    time = update_time(row_tokens=1000, rows_per_micro_batch=4, updates=2, micro_batch_s=5.0, once_s=1.0)
    # 900 tokens a row: 72,000 tokens are 80 rows, 40 an update, 10 micro-batches; one token more makes an eleventh
    assert (time(72_000), time(72_001)) == (2 * 51.0, 2 * 56.0)


@pytest.fixture(scope="module")
def dapo():
    return cli.load_config_file(ROOT / "configs" / "dapo.py")


@pytest.fixture(scope="module")
def drawn(dapo):
    return DrawnTraffic(max_tokens=dapo.rollout.max_completion_tokens, seed=0)


def test_a_machine_gets_its_share_of_the_groups_and_the_same_rows_a_gpu(dapo):
    share = share_of(dapo, Fleet(gpu=find_gpu("b200"), num_gpus=8), groups_per_step=0)
    assert (share.rollout.groups_per_step, share.mesh.num_devices, share.experience.rows_per_micro_batch) == (16, 8, 8)


def test_placements_without_a_plan_are_those_of_planning(dapo, drawn):
    fleet = Fleet(gpu=find_gpu("b200"), num_gpus=48)
    found = find_settings(dapo, fleet, drawn, None, slots=0)
    assert {(one.plan.kind, one.plan.train_gpus) for one in found} >= {("split", 8), ("split", 16), ("colocated", 48)}
    split = next(one for one in found if one.plan.train_gpus == 16)
    assert split.setting.servers == 32
    # the trained tokens of a step of mean lengths take what planning says
    tokens = 768 * (600 + round(sum(lengths(drawn)) / len(lengths(drawn))))
    assert split.setting.update_s(tokens) == pytest.approx(split.plan.train_s, rel=0.02)


def test_a_plan_file_gives_its_times(dapo, drawn, tmp_path):
    fleet = Fleet(gpu=find_gpu("b200"), num_gpus=48)
    placed = find_settings(dapo, fleet, drawn, None, slots=0)[0].plan
    workload = {
        "prompt_tokens": 600, "completion_tokens": 15360, "trained_sequences": 768, "generated_sequences": 1536,
        "row_tokens": 32768, "rows": 416, "updates": 2,
    }  # fmt: skip
    plan = {
        "model": "Qwen/Qwen3-14B", "gpu": fleet.gpu.title, "gpus": 48, "rows_per_gpu": 1, "mesh": {"tensor": 1},
        "workload": workload, "update": {"once_s": 0.5}, "compiler": "x",
        "placements": [dataclasses.asdict(dataclasses.replace(placed, train_s=541.0))],
    }  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (found,) = find_settings(dapo, fleet, drawn, read_plan(tmp_path / "plan.json"), slots=7)
    assert found.setting.update_s(768 * 15960) == pytest.approx(541.0)
    assert found.setting.slots_per_server == 7
    with pytest.raises(UserError, match=r"--plan is of .* 48 x"):
        find_settings(dapo, Fleet(gpu=find_gpu("h100"), num_gpus=48), drawn, plan, slots=0)


def test_slots_are_bounded_by_the_cache(dapo, drawn):
    fleet = Fleet(gpu=find_gpu("b200"), num_gpus=48)
    one = find_settings(dapo, fleet, drawn, None, slots=1000)[0]
    assert one.setting.slots_per_server == one.room < 128


def row(measured, **fields):
    values = {"label": "synchronous", "placement": "2 + 6", "max_staleness": 0, "slots": 8, "binds": "", "base_s": None}
    return Row(measured=measured, **(values | fields))


@pytest.fixture(scope="module")
def measured():
    return measure(small(max_staleness=2), setting(), num_steps=4)


def test_the_sentence_names_what_helps_most(measured):
    def changed(label, binds, step_s):
        return row(dataclasses.replace(measured, step_s=step_s), label=label, binds=binds, base_s=100.0)

    rows = [row(measured), changed("a", "the engine", 90.0), changed("b", "the trainer", 60.0)]
    assert "the trainer binds: a step takes 60 s instead of 100: b -40%; a -10%" in command.report(rows, {}, "").notes
    rows = [row(measured), changed("a", "the engine", 99.0), changed("b", "the trainer", 100.0)]
    assert command.what_binds(rows).startswith("nothing binds alone")


def test_every_run_is_a_row_and_is_kept_and_the_best_slots_of_each_order_meet_the_target(measured):
    idle = [row(dataclasses.replace(measured, engine_idle_share=share), max_staleness=1) for share in (0.5, 0.01)]
    found = command.report([row(measured), *idle], {}, "what was simulated")
    assert [cells[:4] for cells in found.rows] == [["synchronous", "2 + 6", str(bound), "8"] for bound in (0, 1, 1)]
    assert {len(cells) for cells in found.rows} == {len(found.heads)}
    assert [one["measured"]["engine_idle_share"] for one in found.content["runs"]][1:] == [0.5, 0.01]
    assert [(one.got, one.met) for one in found.targets] == [(0.01, True)]


def options(*arguments):
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    return parser.parse_args(["--config", str(ROOT / "configs" / "dapo.py"), *arguments])


def test_one_machine_is_simulated_and_kept(tmp_path, capsys):
    out = tmp_path / "out.json"
    assert (
        command.run(options("--staleness", "0,2", "--slots", "4", "--steps", "2", "--groups", "2", "--out", str(out)))
        == 0
    )
    kept = json.loads(out.read_text())
    assert [one["max_staleness"] for one in kept["runs"]] == [0, 0, 2]
    assert [one["label"] for one in kept["runs"]] == ["synchronous, shared GPUs", "synchronous", "2 steps ahead"]
    assert "lengths drawn, not recorded" in capsys.readouterr().out


def test_a_fleet_is_simulated_and_what_binds_is_said(capsys):
    assert command.run(options("--gpus", "8", "--steps", "1", "--groups", "2")) == 0
    said = capsys.readouterr().out
    assert " binds" in said and "max_staleness 3" in said


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--gpus", "12"], "--gpus got 12"),
        (["--gpus", "48", "--staleness", "0,2"], "take one number each"),
        (["--gpu", "a100"], "--gpu got 'a100'"),
        (["--groups", "7"], "groups_per_step is 7"),
        (["--plan", "/nowhere.json"], "--plan got /nowhere.json"),
        (["--config", "/nowhere.py"], "/nowhere.py"),
    ],
)
def test_bad_input_is_one_line(arguments, wrong):
    with pytest.raises(UserError) as error:
        command.run(options(*arguments))
    assert wrong in str(error.value) and "\n" not in str(error.value)


def test_the_script_exits_with_2_on_bad_input():
    command = [sys.executable, str(ROOT / "scripts" / "bench.py"), "pipeline", "--staleness", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "argument --staleness: got x; use a whole number" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_kept_results_keep_the_slots_busy_ahead_and_not_in_the_synchronous_order():
    runs = json.loads(KEPT.read_text())["runs"]
    idle = {(one["max_staleness"], one["slots"]): one["measured"]["engine_idle_share"] for one in runs}
    assert min(share for (bound, _), share in idle.items() if bound) < command.IDLE_GOAL
    assert min(share for (bound, _), share in idle.items() if not bound) > 0.5


def test_the_activations_stated_are_those_compiled():
    # 35.56 GB peak as compiled for 48 B200 less 14.77e9 x 16 / 16 bytes of weights, moments and gradients
    stated = fleet.ACTIVATION_BYTES * 40 * 5120 * 32768
    assert stated == pytest.approx(35.56e9 - 14.77e9, rel=0.02)
