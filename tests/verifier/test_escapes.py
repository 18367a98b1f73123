# ruff: noqa: E501  (programs read better on one line)
"""What a program can see and do in its sandbox, as it reports it itself: each prints JSON, and the host looks at that."""

import json

from nouscoder_jax.types import ExecutionStatus
from nouscoder_jax.verifier.sandbox import Limits

TRY = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(f):
    try: f()
    except BaseException as e: return type(e).__name__
    return "done"
"""
SECRET = "s3cr3t-of-the-host"


def report(rig, program, *inputs):
    """What the program prints as JSON on each input, all in one sandbox."""
    limits = Limits(cpu_s=5.0, wall_s=15.0, memory_mib=256, output_mib=1, max_processes=48)

    async def run():
        async with rig.sandbox.session(program, fn_name=None, limits=limits) as session:
            return [await session.run(text) for text in inputs or [""]]

    executions = rig.run(run())
    assert all(execution.status is ExecutionStatus.EXITED for execution in executions), executions
    found = [json.loads(execution.stdout) for execution in executions]
    return found if inputs else found[0]


# -- rights ---------------------------------------------------------------------------------------------------------


def test_the_program_has_no_rights_and_cannot_get_any(rig):
    program = TRY + (
        "status = {l.partition(':')[0] + ':': l.partition(':')[2] for l in open('/proc/self/status')}\n"
        "print(json.dumps({'ids': [*os.getresuid(), *os.getresgid()], 'groups': os.getgroups(),"
        "'caps': [int(status[f'Cap{k}:'].strip(), 16) for k in ('Inh', 'Prm', 'Eff', 'Amb')],"
        "'no_new_privs': status['NoNewPrivs:'].strip(), 'seccomp': status['Seccomp:'].strip(),"
        "'root': [attempt(lambda f=f: f(0)) for f in (os.setuid, os.setgid, os.seteuid)],"
        "'raised': [libc.prctl(47, 2, 21, 0, 0), libc.prctl(8, 1, 0, 0, 0) and 0]}))"
    )
    seen = report(rig, program)
    assert seen["caps"] == [0, 0, 0, 0]
    assert seen["no_new_privs"] == "1" and seen["seccomp"] == "2"
    assert min(seen["ids"]) >= 10001 or rig.backend == "local"
    assert len(set(seen["ids"])) == 1 and set(seen["groups"]) <= set(seen["ids"])
    assert seen["root"] == ["PermissionError"] * 3 or 0 in seen["ids"]
    assert seen["raised"][0] == -1


def test_a_program_that_changes_priorities_changes_nothing(rig):
    """Time without a processor does not count against a program, so it may not choose to wait for one."""
    program = (
        "import json, os\ndef all(): return [os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, 1)] + [os.sched_getscheduler(0)]\n"
        "before = all()\nos.nice(5)\nos.setpriority(os.PRIO_PROCESS, 0, -5)\nos.setpriority(os.PRIO_PROCESS, 1, 19)\n"
        "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nprint(json.dumps([before, all()]))"
    )
    before, after = report(rig, program)
    assert before == after


def test_system_calls_that_are_newer_than_the_filter_do_not_exist(rig):
    program = (
        "import ctypes, json\nc = ctypes.CDLL(None, use_errno=True)\n"
        "print(json.dumps([(c.syscall(n, -1, 0, 0, 0), ctypes.get_errno()) for n in (463, 466, 500)]))"
    )
    assert report(rig, program) == [[-1, 38]] * 3  # ENOSYS


def test_forbidden_system_calls_fail(rig):
    program = TRY + (
        "calls = {'ptrace': (101, 0, 0, 0, 0), 'keyctl': (250, 0, 0), 'add_key': (248, 0, 0, 0, 0, 0), 'io_uring': (425, 1, 0),"
        "'unshare': (272, 0x10000000), 'setns': (308, 0, 0), 'mount': (165, 0, 0, 0, 0, 0), 'umount': (166, 0, 0), 'open_tree': (428, 0, 0, 0),"
        "'pivot_root': (155, 0, 0), 'chroot': (161, b'/tmp'), 'bpf': (321, 0, 0, 0), 'perf': (298, 0, 0, 0, 0, 0), 'userfaultfd': (323, 0),"
        "'process_vm_readv': (310, 1, 0, 0, 0, 0, 0), 'process_vm_writev': (311, 1, 0, 0, 0, 0, 0), 'pidfd_getfd': (438, 0, 0, 0), 'kcmp': (312, 1, 1, 0, 0, 0),"
        "'shmget': (29, 0, 4096, 512), 'semget': (64, 0, 1, 512), 'msgget': (68, 0, 512), 'mq_open': (240, b'x', 0, 0, 0), 'open_by_handle': (304, 0, 0, 0),"
        "'modules': (175, 0, 0, 0), 'kexec': (246, 0, 0, 0, 0), 'reboot': (169, 0, 0, 0, 0), 'clock_settime': (227, 0, 0), 'settimeofday': (164, 0, 0),"
        "'sethostname': (170, b'x', 1), 'swapon': (167, 0, 0), 'syslog': (103, 3, 0, 0), 'fanotify': (300, 0, 0)}\n"
        "print(json.dumps({k: (libc.syscall(*v), ctypes.get_errno()) for k, v in calls.items()}))"
    )
    assert {name: tuple(got) for name, got in report(rig, program).items() if tuple(got) != (-1, 1)} == {}


def test_no_namespace_can_be_made(rig):
    program = TRY + (
        "print(json.dumps([libc.unshare(f) for f in (0x20000, 0x10000000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80)]"
        "+ [libc.syscall(56, f | 17, 0, 0, 0, 0) for f in (0x20000, 0x10000000, 0x20000000, 0x40000000)] + [libc.syscall(435, bytes(88), 88)]))"
    )
    assert set(report(rig, program)) == {-1}


def test_nobody_elses_limits_or_order_can_be_changed(rig):
    program = TRY + (
        "import resource\ndef write(path, text): os.write(os.open(path, os.O_WRONLY), text)\n"
        "print(json.dumps([attempt(lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))),"
        "attempt(lambda: os.sched_setaffinity(1, {0})), attempt(lambda: write('/proc/1/oom_score_adj', b'999')),"
        "attempt(lambda: write('/proc/self/oom_score_adj', b'-1000')), attempt(lambda: write('/proc/sysrq-trigger', b'b')),"
        "attempt(lambda: write('/proc/sys/kernel/core_pattern', b'x')), attempt(lambda: write('/proc/sys/vm/overcommit_memory', b'1'))]))"
    )
    assert set(report(rig, program)) <= {"PermissionError", "OSError", "FileNotFoundError"}


def test_limits_stand_and_cannot_be_raised(rig):
    program = TRY + (
        "import resource as r\nnames = ('NOFILE', 'FSIZE', 'CORE', 'CPU', 'AS', 'NPROC')\n"
        "limits = {n: r.getrlimit(getattr(r, 'RLIMIT_' + n)) for n in names}\n"
        "raised = [attempt(lambda: r.setrlimit(getattr(r, 'RLIMIT_' + n), (h + 1, h + 1))) for n, (_, h) in limits.items() if h != r.RLIM_INFINITY]\n"
        "print(json.dumps([{n: s for n, (s, _) in limits.items()}, raised]))"
    )
    limits, raised = report(rig, program)
    assert limits["CORE"] == 0 and 0 < limits["NOFILE"] <= 1024 and 0 < limits["FSIZE"] <= (1 << 20) + 1
    assert 0 < limits["CPU"] <= 10 and limits["AS"] > 256 << 20
    assert set(raised) <= {"ValueError", "PermissionError"}


# -- sight ----------------------------------------------------------------------------------------------------------


def test_the_runner_and_other_processes_are_closed(rig):
    program = TRY + (
        "print(json.dumps({'mem': attempt(lambda: open('/proc/1/mem', 'rb').read(1)), 'maps': attempt(lambda: open('/proc/1/maps').read()),"
        "'fd': attempt(lambda: os.listdir('/proc/1/fd')), 'environ': attempt(lambda: open('/proc/1/environ').read()),"
        "'root': attempt(lambda: os.listdir('/proc/1/root')), 'cwd': attempt(lambda: os.readlink('/proc/1/cwd')), 'exe': attempt(lambda: os.readlink('/proc/1/exe')),"
        "'ns': attempt(lambda: os.readlink('/proc/1/ns/mnt')), 'io': attempt(lambda: open('/proc/1/io').read()), 'stack': attempt(lambda: open('/proc/1/stack').read()),"
        "'pids': sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()),"
        "'fds': sorted(map(int, os.listdir('/proc/self/fd')))[:-1]}))"
    )
    seen = report(rig, program)
    assert seen.pop("pids") == [1]
    assert seen.pop("fds") == [0, 1, 2]
    assert set(seen.values()) == {"PermissionError"}, seen


def test_host_files_and_secrets_are_out_of_sight(rig, tmp_path, monkeypatch):
    secret = tmp_path / "expected.txt"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    monkeypatch.setenv("NOUSCODER_SECRET", SECRET)
    program = TRY + (
        f"print(json.dumps([attempt(lambda: open({str(secret)!r}).read()), {SECRET!r} in str(dict(os.environ)),"
        "attempt(lambda: open('/etc/x', 'w')), attempt(lambda: open('/x', 'w')), attempt(lambda: os.mkdir('/x')),"
        "os.path.exists('/root/.ssh'), os.path.exists('/var'), os.path.exists('/home'), os.path.exists('/etc/shadow'), os.path.exists('/run')]))"
    )
    opened, leaked, *written_and_seen = report(rig, program)
    assert opened == "FileNotFoundError" and not leaked
    assert "done" not in written_and_seen[:3]
    assert not any(written_and_seen[3:])


def test_only_the_two_small_folders_can_be_written(rig):
    program = TRY + (
        "mounts = [l.split() for l in open('/proc/self/mountinfo')]\n"
        "writable = {m[4] for m in mounts if 'ro' not in m[5].split(',') and os.path.isdir(m[4])} | {'/', '/dev', '/etc', '/usr', '/usr/lib', '/proc', '/sys'}\n"
        "print(json.dumps([p for p in sorted(writable) if attempt(lambda: os.mkdir(p + '/probe')) == 'done']))"
    )
    assert report(rig, program) == ["/dev/shm", "/tmp"]


def test_no_device_holds_data(rig):
    program = TRY + (
        "import stat\nkinds = {n: os.stat('/dev/' + n).st_mode for n in os.listdir('/dev') if os.path.exists('/dev/' + n)}\n"
        "print(json.dumps([n for n, k in kinds.items() if stat.S_ISBLK(k) or stat.S_ISCHR(k) and not n.startswith('std')]))"
    )
    assert set(report(rig, program)) <= {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"}


def test_no_device_can_be_made(rig):
    program = TRY + (
        "import stat\nprint(json.dumps([attempt(lambda: os.mknod(f'{f}/n', k | 0o666, os.makedev(8, 0)))"
        "for f in ('/tmp', '/dev/shm', '/dev') for k in (stat.S_IFBLK, stat.S_IFCHR)]))"
    )
    assert "done" not in report(rig, program)


def test_nothing_written_can_be_executed(rig):
    program = TRY + (
        "import subprocess\nout = []\n"
        "for folder in ('/tmp', '/dev/shm'):\n"
        "    path = folder + '/run'\n"
        "    open(path, 'wb').write(open(os.path.realpath(sys.executable), 'rb').read()[:1000000])\n"
        "    os.chmod(path, 0o755)\n"
        "    out.append(attempt(lambda: subprocess.run([path])))\n"
        "print(json.dumps(out))"
    )
    assert report(rig, program) == ["PermissionError", "PermissionError"]


def test_the_environment_holds_nothing_of_the_host(rig):
    program = TRY + "print(json.dumps([dict(os.environ), sys.argv, sys.orig_argv]))"
    environment, argv, _ = report(rig, program)
    names = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONINTMAXSTRDIGITS", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED",
             "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}  # fmt: skip
    assert set(environment) <= names
    assert argv == ["/tmp/program.py"]


def test_the_harness_is_no_module_of_the_program(rig):
    program = (
        TRY + "print(json.dumps(sorted(m for m in sys.modules if 'nouscoder' in m or m in ('runner', 'candidate'))))"
    )
    assert report(rig, program) == []


# -- ways out -------------------------------------------------------------------------------------------------------


def test_no_network_can_be_reached(rig):
    program = TRY + "import socket\n" + (
        "print(json.dumps([attempt(lambda: socket.create_connection(('127.0.0.1', 22), 1)),"
        "attempt(lambda: socket.create_connection(('10.0.0.1', 80), 1)),"
        "attempt(lambda: socket.getaddrinfo('example.com', 80)),"
        "[l.split(':')[0].strip() for l in open('/proc/net/dev') if ':' in l]]))"
    )  # fmt: skip
    *reached, interfaces = report(rig, program)
    assert "done" not in reached
    assert set(interfaces) <= {"lo", "sit0", "tunl0", "ip6tnl0"}


def test_only_unix_and_internet_sockets_can_be_made(rig):
    program = TRY + (
        "import socket\nprint(json.dumps([f for f in range(1, 46) for k in (1, 2, 3, 5)"
        "if attempt(lambda: socket.socket(f, k).close()) == 'done']))"
    )
    assert set(report(rig, program)) <= {1, 2, 10}


def test_sockets_of_the_host_are_in_another_world(rig):
    program = TRY + "print(json.dumps([l.split()[-1] for l in open('/proc/net/unix')][1:]))"
    assert report(rig, program) == []


# -- time -----------------------------------------------------------------------------------------------------------


def test_nothing_survives_into_the_next_test(rig):
    program = """
import json, os, time
before = [sorted(os.listdir('/tmp')), sorted(os.listdir('/dev/shm')), [p for p in os.listdir('/proc') if p.isdigit()]]
os.makedirs('/tmp/' + 'd/' * 200)
open('/tmp/state', 'w').write('x' * 100000)
open('/dev/shm/state', 'w').write('x')
os.symlink('/etc', '/tmp/link')
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(100)
    os._exit(0)
import sys; sys.stdout.write(json.dumps([before[0], before[1], len(before[2])]))
"""
    first, second, third = report(rig, program, "1", "2", "3")
    assert first == second == third == [["program.py"], [], 2]


def test_a_full_tmp_does_not_reach_the_next_test(rig):
    program = """
import json, os
space = os.statvfs('/tmp')
free = (space.f_bavail * space.f_bsize >> 20, space.f_favail)
try:
    for i in range(10000): open(f'/tmp/{i}', 'w').close()
except OSError: pass
try:
    for i in range(200):
        with open(f'/tmp/{i}', 'wb') as f: f.write(b'x' * 1000000)
except OSError: pass
print(json.dumps(free))
"""
    first, second = report(rig, program, "1", "2")
    assert abs(first[0] - second[0]) <= 1 and abs(first[1] - second[1]) <= 8
    assert 50 <= first[0] <= 64


def test_two_programs_in_one_sandbox_see_nothing_of_each_other(rig):
    leave = TRY + (
        "import time\nopen('/tmp/left', 'w').write('x')\nopen('/dev/shm/left', 'w').write('x')\nos.environ['LEFT'] = 'x'\n"
        "import builtins\nbuiltins.left = 1\nif os.fork() == 0: time.sleep(99)\nprint(json.dumps(1))"
    )
    look = TRY + (
        "import builtins\nprint(json.dumps([os.listdir('/tmp'), os.listdir('/dev/shm'), os.environ.get('LEFT'), hasattr(builtins, 'left'),"
        "len([p for p in os.listdir('/proc') if p.isdigit()]), 'os.fork()' in open(__file__).read().replace('os.fork()' + chr(39), '')]))"
    )
    assert report(rig, leave) == 1
    assert report(rig, look) == [["program.py"], [], None, False, 2, False]
