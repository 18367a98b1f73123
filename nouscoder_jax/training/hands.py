"""One head, many hands: the devices of all processes under the orders of process 0.

In: orders of the head, each its name and fields as JSON, then its arrays as raw bytes. Out: replies. No pickles.

    process 0                                    process 1, 2, ...
    RemoteTrainer --- order, arrays ---------->  serve(): LocalTrainer
      its own LocalTrainer, at the same time       the same method, the same arguments
      waits for all replies  <--- reply ---------
                             <--- interrupted ---  Ctrl-C or SIGTERM there: the head ends the run in order
                    a closed connection: the process is gone, and everyone leaves

A hand waits for orders on its socket and never inside a collective, which would keep its GPU busy while engines use it.
Arrays are whole in every process, which puts on its devices what lies there; so any mesh works over any processes. The
connection is one of `multiprocessing.connection`, with a key that the head has made for this run.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from nouscoder_jax.config import TrainConfig, UserError
from nouscoder_jax.training import export as exports
from nouscoder_jax.training.checkpoint import Record
from nouscoder_jax.training.trainer import LocalTrainer
from nouscoder_jax.training.update import UpdateMetrics
from nouscoder_jax.types import Batch, ProcessLostError

T = TypeVar("T")

JOIN_S = 120.0
"""Seconds that hands have to call the head after jax.distributed has brought them together."""
GRACE_S = 45.0
"""Seconds that an order may go on after one process has failed it: the others may wait for that one for ever."""
LEAVE_S = 30.0
"""Seconds that a hand has to end in order once it was told to."""

_TCP = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _TCP.items() if hasattr(socket, name)),
)
"""A machine that has lost power closes no connection: after 30 s without an answer it counts as closed."""

_ADDRESS_BYTES = 1024


class Message(NamedTuple):
    """An order or a reply as it travels.

    Example:
        Message({"order": "update", "number": 7, "num_micro_batches": 3}, {"tokens": np.zeros((16, 128), np.int32)})
    """

    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]


def send(connection: Connection, message: Message) -> None:
    """Sends the fields as JSON, then each array's bytes. Raises OSError where the other side is gone."""
    described = {name: [array.dtype.str, list(array.shape)] for name, array in message.arrays.items()}
    connection.send_bytes(json.dumps(message.fields | {"arrays": described}).encode())
    for array in message.arrays.values():
        if array.size:
            connection.send_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(connection: Connection) -> Message:
    """The next message. Raises EOFError, OSError where the other side is gone."""
    fields = json.loads(connection.recv_bytes())
    arrays = {}
    for name, (dtype, shape) in fields.pop("arrays").items():
        array = np.empty(shape, np.dtype(dtype))
        if array.size:
            connection.recv_bytes_into(array.reshape(-1).view(np.uint8).data)
        arrays[name] = array
    return Message(fields, arrays)


class _Hand:
    """A process as the head sees it."""

    def __init__(self, process: int, host: str, connection: Connection) -> None:
        self.process, self.host, self.connection = process, host, connection
        self.replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.sending = threading.Lock()
        self.left = threading.Event()

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class Crew:
    """The other processes, as the head has them. Use it in `with`: however the block ends, they are told."""

    def __init__(self, hands: Sequence[_Hand]) -> None:
        """Listens to all of them from now on."""
        self.hands = tuple(hands)
        self.lost: Future[None] = Future()
        """Gets a ProcessLostError when one of them is gone."""
        self.on_interrupt: Callable[[str], object] = lambda who: None
        """Called, in a thread of its own, with the process that was asked to end."""
        self.failure: str | None = None
        """Why something that a hand does in the background has failed."""
        self._number = 0
        self._doing = "before the first order"
        self._failed: tuple[int, str] | None = None
        self._over = False
        for hand in self.hands:
            threading.Thread(target=self._listen, args=(hand,), daemon=True, name=str(hand)).start()

    @property
    def num_processes(self) -> int:
        """This one included."""
        return 1 + len(self.hands)

    def order(self, name: str, fields: dict[str, Any], arrays: dict[str, np.ndarray], own: Callable[[], T]) -> T:
        """Has all hands carry an order out while `own` does it here, and returns what `own` returns.

        Raises:
            ProcessLostError: a process is gone, or has failed in a way that leaves the others waiting.
            UserError: of this process, or of another one, which it names.
        """
        self._raise_if_lost()
        self._number += 1
        self._doing = f"during {name}"
        message = Message({"order": name, "number": self._number} | fields, arrays)
        for hand in self.hands:
            threading.Thread(target=self._send, args=(hand, message), daemon=True).start()
        failure = result = None
        try:
            result = own()
        except Exception as error:
            failure = error
        # Where this process has failed the others may wait for it inside a collective.
        replies = [self._reply(hand, timeout_s=None if failure is None else GRACE_S) for hand in self.hands]
        self._doing = f"after {name}"
        if failure is not None:
            raise failure
        for hand, reply in zip(self.hands, replies, strict=True):
            if "error" in reply:
                raise UserError(f"{hand}: {reply['error']}")
        return result  # pyright: ignore[reportReturnType]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._over = True
        lost = self.lost.done()
        fields = {"order": "stop", "number": 0, "why": "" if error is None else _first_line(error), "lost": lost}
        if lost:
            fields["why"] = str(self.lost.exception())
        for hand in self.hands:
            with contextlib.suppress(OSError, ValueError):
                self._send(hand, Message(fields, {}))
        if not lost:  # jax aborts a process that outlives this one, whose service it is in touch with
            deadline = time.monotonic() + LEAVE_S
            for hand in self.hands:
                hand.left.wait(max(0.0, deadline - time.monotonic()))

    def _send(self, hand: _Hand, message: Message) -> None:
        try:
            with hand.sending:
                send(hand.connection, message)
        except (OSError, ValueError):
            self._lose(hand, "its connection closed")

    def _reply(self, hand: _Hand, *, timeout_s: float | None) -> dict[str, Any]:
        with contextlib.suppress(queue.Empty):
            while (reply := hand.replies.get(timeout=timeout_s)) is not None:
                if reply["number"] == self._number:
                    return reply
        self._raise_if_lost()
        return {}

    def _listen(self, hand: _Hand) -> None:
        while True:
            try:
                fields = receive(hand.connection).fields
            except (EOFError, OSError, ValueError):
                self._lose(hand, "its connection closed")
                hand.left.set()
                return
            if "interrupted" in fields:
                self.on_interrupt(f"{hand} got {fields['interrupted']}")
                continue
            self.failure = self.failure or (f"{hand}: {fields['failure']}" if "failure" in fields else None)
            if "fault" in fields:
                self._lose(hand, f"it failed with {fields['fault']}")
            elif "error" in fields:
                self._expect_end(hand, fields)
            hand.replies.put(fields)

    def _expect_end(self, hand: _Hand, fields: dict[str, Any]) -> None:
        """Where an order goes on for long after one process has failed it, someone waits for that one."""

        def look() -> None:
            if self._number == fields["number"] and self._doing.startswith("during"):
                self._lose(hand, fields["error"])

        timer = threading.Timer(GRACE_S, look)
        timer.daemon = True
        timer.start()

    def _lose(self, hand: _Hand, why: str) -> None:
        if self._over:
            return
        with contextlib.suppress(Exception):  # only the first one counts
            self.lost.set_exception(ProcessLostError(f"{hand} is gone ({why}; {self._doing})"))
        for one in self.hands:
            one.replies.put(None)

    def _raise_if_lost(self) -> None:
        if self.lost.done():
            self.lost.result()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class RemoteTrainer:
    """A Trainer over all processes of the run; this one is the first of them."""

    def __init__(self, config: TrainConfig, crew: Crew, *, say: Callable[[str], None]) -> None:
        """Has every process look at the model. Raises UserError, ProcessLostError, as all methods do."""
        self.crew = crew
        self.own: LocalTrainer

        def build() -> None:
            self.own = LocalTrainer(config, say=say)

        crew.order("build", {"config": config.to_json()}, {}, build)
        self.architecture = self.own.architecture

    def open(self, checkpoints: Path) -> None:
        """As Trainer says."""
        self.crew.order("open", {"checkpoints": str(checkpoints)}, {}, lambda: self.own.open(checkpoints))

    def has_checkpoint(self) -> bool:
        """As Trainer says."""
        return self.own.has_checkpoint()

    def start(self) -> None:
        """As Trainer says."""
        self.crew.order("start", {}, {}, self.own.start)

    def restore(self, step: int | None) -> Record:
        """As Trainer says."""

        def restore_step(one: int) -> Record:
            return self.crew.order("restore", {"step": one}, {}, lambda: self.own.restore_step(one))

        return self.own.checkpointer.newest_that(restore_step, step=step)

    def update(self, batch: Batch, num_micro_batches: int, old_logprobs: np.ndarray | None) -> UpdateMetrics:
        """As Trainer says. Rows that are all padding stay here: every process knows what they hold."""
        old = {} if old_logprobs is None else {"old_logprobs": old_logprobs}
        return self._on_batch(
            "update",
            batch._asdict() | old,
            num_micro_batches,
            lambda: self.own.update(batch, num_micro_batches, old_logprobs),
        )

    def logprobs(self, batch: Batch, num_micro_batches: int) -> np.ndarray:
        """As Trainer says."""
        return self._on_batch(
            "logprobs", batch._asdict(), num_micro_batches, lambda: self.own.logprobs(batch, num_micro_batches)
        )

    def score(self, batch: Batch, num_micro_batches: int) -> np.ndarray:
        """As Trainer says."""
        return self._on_batch(
            "score", batch._asdict(), num_micro_batches, lambda: self.own.score(batch, num_micro_batches)
        )

    def _on_batch(self, order: str, arrays: dict[str, np.ndarray], num_micro_batches: int, own: Callable[[], T]) -> T:
        used_rows = num_micro_batches * self.own.config.experience.rows_per_micro_batch
        fields = {"num_micro_batches": num_micro_batches, "num_rows": len(arrays["tokens"])}
        return self.crew.order(order, fields, {name: array[:used_rows] for name, array in arrays.items()}, own)

    def export(self, out_dir: Path, *, policy_version: int) -> None:
        """As Trainer says: every process writes its share, this one what comes before and after."""
        share = {"policy_version": policy_version, "num_processes": self.crew.num_processes}
        try:
            exports.prepare(out_dir)
            self.crew.order(
                "export",
                {"out_dir": str(out_dir)} | share,
                {},
                lambda: self.own.write_share(out_dir, process=0, **share),
            )
            self.own.finish_export(out_dir, num_processes=self.crew.num_processes)
        finally:
            exports.discard(out_dir)

    def checkpoint(self, step: int, progress: Record, *, pass_at_1: float | None) -> None:
        """As Trainer says."""
        fields = {"step": step, "progress": progress, "pass_at_1": pass_at_1}
        self.crew.order("checkpoint", fields, {}, lambda: self.own.checkpoint(step, progress, pass_at_1=pass_at_1))

    def busy(self) -> bool:
        """As Trainer says."""
        return self.own.busy()

    def check(self) -> None:
        """As Trainer says."""
        if self.crew.failure:
            raise UserError(self.crew.failure)
        self.own.check()

    def latest_step(self) -> int | None:
        """As Trainer says."""
        return self.own.latest_step()

    def close(self) -> None:
        """As Trainer says. Does nothing once a process is lost: what it was writing will never be complete."""
        if not self.crew.lost.done():
            self.crew.order("close", {}, {}, self.own.close)


def gather() -> Crew:
    """The head's side: tells all processes of jax.distributed where it is, and returns when all have called.

    Raises:
        UserError: one has not called in time; it names them.
    """
    key = secrets.token_bytes(32)
    num_hands = jax.process_count() - 1
    with Listener(("", 0), backlog=num_hands, authkey=key) as listener:
        port = listener.address[1]
        _tell_address(json.dumps({"hosts": _own_hosts(), "port": port, "key": key.hex()}))
        called: queue.SimpleQueue[_Hand] = queue.SimpleQueue()
        threading.Thread(target=_accept, args=(listener, num_hands, called), daemon=True).start()
        hands: dict[int, _Hand] = {}
        deadline = time.monotonic() + JOIN_S
        while len(hands) < num_hands:
            try:
                hand = called.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                missing = sorted(set(range(1, num_hands + 1)) - set(hands))
                raise UserError(
                    f"process {', '.join(map(str, missing))} has not called {socket.gethostname()}:{port} within "
                    f"{JOIN_S:.0f} s; see that the machines reach each other on any port"
                ) from None
            hands[hand.process] = hand
    return Crew([hands[process] for process in sorted(hands)])


def _accept(listener: Listener, number: int, called: queue.SimpleQueue[_Hand]) -> None:
    while number > 0:
        try:
            connection = listener.accept()
            hello = receive(connection).fields
        except (AuthenticationError, EOFError, ValueError, KeyError):
            continue  # a stranger
        except OSError:
            return  # the listener is closed
        _keep_alive(connection)
        called.put(_Hand(hello["process"], hello["host"], connection))
        number -= 1


def _own_hosts() -> list[str]:
    """Names and addresses under which this machine may be reached."""
    hosts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        hosts += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, family=socket.AF_INET)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: asks which address would be used
        hosts.append(probe.getsockname()[0])
    return list(dict.fromkeys([*hosts, "127.0.0.1"]))


def _tell_address(text: str | None) -> str:
    """What the head says, in every process; all must call it, the head with its text."""
    own = (text or "").encode().ljust(_ADDRESS_BYTES)
    told = multihost_utils.broadcast_one_to_all(np.frombuffer(own, np.uint8).astype(np.int32))
    return bytes(np.asarray(told).astype(np.uint8)).decode().strip()


def _keep_alive(connection: Connection) -> None:
    with contextlib.closing(socket.socket(fileno=os.dup(connection.fileno()))) as handle:
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for level, option, value in _KEEPALIVE:
            handle.setsockopt(level, option, value)


def serve() -> int:
    """A hand's whole life: calls the head, carries out its orders, and returns the exit code, to be given to `leave`:
    the head waits for this process to be gone.

    Leaves the process at once, with one line on stderr and exit code 1, where the head is gone. Raises UserError where
    it cannot be reached.
    """
    connection, head = _call_head()
    sending = threading.Lock()
    orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_take_orders, args=(connection, head, orders), daemon=True).start()
    with _forward_signals(lambda name: _answer(connection, sending, {"interrupted": name})):
        hand: dict[str, LocalTrainer] = {}
        while True:
            order = orders.get()
            if order.fields["order"] == "stop":
                if order.fields["why"]:
                    print(f"process {jax.process_index()} ends: {order.fields['why']}", file=sys.stderr)
                return 1 if order.fields["why"] else 0
            _answer(connection, sending, _carry_out(order, hand))


def _call_head() -> tuple[Connection, str]:
    told = json.loads(_tell_address(None))
    deadline = time.monotonic() + JOIN_S
    while True:
        for host in told["hosts"]:
            with contextlib.suppress(OSError, AuthenticationError, EOFError):
                connection = Client((host, told["port"]), authkey=bytes.fromhex(told["key"]))
                _keep_alive(connection)
                send(connection, Message({"process": jax.process_index(), "host": socket.gethostname()}, {}))
                return connection, told["hosts"][0]
        if time.monotonic() > deadline:
            raise UserError(
                f"process 0 cannot be reached at {', '.join(told['hosts'])}, port {told['port']}; see that the "
                "machines reach each other on any port"
            )
        time.sleep(0.5)


def _take_orders(connection: Connection, head: str, orders: queue.SimpleQueue[Message]) -> None:
    """Runs in a thread, so that a head that is gone is noticed in the middle of a collective."""
    while True:
        try:
            order = receive(connection)
        except (EOFError, OSError, ValueError):
            _leave(f"process 0 on {head} is gone")
            return
        if order.fields["order"] == "stop" and order.fields["lost"]:
            _leave(order.fields["why"])  # the main thread may wait for the process that is gone
        orders.put(order)
        if order.fields["order"] == "stop":
            time.sleep(LEAVE_S)
            _leave(order.fields["why"] or "the run is over and a thread does not end")


def _leave(why: str) -> None:
    print(f"error: process {jax.process_index()} ends: {why}", file=sys.stderr, flush=True)
    leave(1)


def leave(code: int) -> NoReturn:
    """Ends this process at once. jax says goodbye to its service at an orderly exit, and under load aborts when the
    service says that it has heard so already."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _answer(connection: Connection, sending: threading.Lock, fields: dict[str, Any]) -> None:
    with contextlib.suppress(OSError), sending:  # the thread that reads says it where the head is gone
        send(connection, Message(fields, {}))


def _carry_out(order: Message, hand: dict[str, LocalTrainer]) -> dict[str, Any]:
    """The reply."""
    reply: dict[str, Any] = {"number": order.fields["number"]}
    try:
        ORDERS[order.fields["order"]](hand, order)
        if "trainer" in hand and order.fields["order"] not in ("build", "close"):
            _look_back(hand["trainer"], reply)
    except UserError as error:
        reply["error"] = str(error)
    except Exception as error:
        traceback.print_exc()
        reply["fault"] = f"{type(error).__name__}: {_first_line(error)}"
    return reply


def _look_back(trainer: LocalTrainer, reply: dict[str, Any]) -> None:
    """Says where a checkpoint that is written in the background has failed here."""
    try:
        trainer.check()
    except UserError as error:
        reply["failure"] = str(error)


def _build(hand: dict[str, LocalTrainer], order: Message) -> None:
    hand["trainer"] = LocalTrainer(TrainConfig.from_json(order.fields["config"]), say=lambda line: None)


def _open(hand: dict[str, LocalTrainer], order: Message) -> None:
    hand["trainer"].open(Path(order.fields["checkpoints"]), tidies=False)


def _start(hand: dict[str, LocalTrainer], order: Message) -> None:
    hand["trainer"].start()


def _restore(hand: dict[str, LocalTrainer], order: Message) -> None:
    try:
        hand["trainer"].restore_step(order.fields["step"])
    except Exception as error:  # whatever is wrong with it, the head tries another one
        raise UserError(_first_line(error)) from error


def _update(hand: dict[str, LocalTrainer], order: Message) -> None:
    arrays = _whole(order)
    old_logprobs = arrays.pop("old_logprobs", None)
    hand["trainer"].update(Batch(**arrays), order.fields["num_micro_batches"], old_logprobs)


def _whole(order: Message) -> dict[str, np.ndarray]:
    """The arrays of a batch with the rows that stayed at the head."""
    return {name: _with_padding(array, order.fields["num_rows"]) for name, array in order.arrays.items()}


def _with_padding(array: np.ndarray, num_rows: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((num_rows - len(array), *array.shape[1:]), array.dtype)])


def _logprobs(hand: dict[str, LocalTrainer], order: Message) -> None:
    hand["trainer"].logprobs(Batch(**_whole(order)), order.fields["num_micro_batches"])


def _score(hand: dict[str, LocalTrainer], order: Message) -> None:
    hand["trainer"].score(Batch(**_whole(order)), order.fields["num_micro_batches"])


def _export(hand: dict[str, LocalTrainer], order: Message) -> None:
    fields = order.fields
    hand["trainer"].write_share(
        Path(fields["out_dir"]),
        policy_version=fields["policy_version"],
        process=jax.process_index(),
        num_processes=fields["num_processes"],
    )


def _checkpoint(hand: dict[str, LocalTrainer], order: Message) -> None:
    fields = order.fields
    hand["trainer"].checkpoint(fields["step"], fields["progress"], pass_at_1=fields["pass_at_1"])


def _close(hand: dict[str, LocalTrainer], order: Message) -> None:
    hand["trainer"].close()


ORDERS: dict[str, Callable[[dict[str, LocalTrainer], Message], None]] = {
    "build": _build,
    "open": _open,
    "start": _start,
    "restore": _restore,
    "update": _update,
    "logprobs": _logprobs,
    "score": _score,
    "export": _export,
    "checkpoint": _checkpoint,
    "close": _close,
}
"""What a hand does at each order."""


@contextlib.contextmanager
def _forward_signals(tell: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the head for an orderly end; the second is the usual one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        tell(signal.Signals(number).name)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
