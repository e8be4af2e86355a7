"""Processes that train one network together, as torchrun starts them: who they are, what they tell each other.

What they say besides gradients (plans, scores, decisions, faults) goes by way of gloo on the CPU. A process alone is a
group of one, for which everything here does nothing. No process writes, prints or draws but the first; what takes
long is shared out.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from unetkit.data.share import Share
from unetkit.errors import RecipeError, UnetkitError
from unetkit.infer.device import pick_device

Value = TypeVar("Value")

_PATIENCE = timedelta(days=1)
"""A process may read cases for hours while another waits; one that dies is noticed by its closed connection."""

_GRACE = 5.0
"""Seconds in which a process that fails leaves word of it."""

_FAULT, _SPEAKER = "fault", "speaker"


@dataclass(frozen=True)
class Group:
    """The processes of a training, seen from one of them; `local` is its number on its machine.

    `control` is the gloo group for everything but gradients, `store` where a process that fails leaves word.
    """

    share: Share = field(default_factory=Share)
    local: int = 0
    control: Any = field(default=None, repr=False)
    store: Any = field(default=None, repr=False)

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.share.world

    @property
    def beside(self) -> int:
        """Number of processes on this machine."""
        return self.share.beside

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.share.rank == 0

    @property
    def launched(self) -> bool:
        """Whether torchrun started this process, be it the only one."""
        return self.control is not None

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank; each has to call this."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def first(self, work: Callable[[], Value]) -> Value:
        """Have the first process do something short, and return its outcome, or raise its error, on all."""
        if self.world == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = work()
            except BaseException as error:  # Ctrl-C too: the others wait for an answer
                self._broadcast([None, _portable(error)])
                raise
        self._broadcast(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def _broadcast(self, values: list[Any]) -> None:
        dist.broadcast_object_list(values, src=0, group=self.control)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block on all processes or on none: an error on one of them is raised on all."""
        if self.world == 1:
            yield
            return
        try:
            yield
        except BaseException as error:
            self.gather(_portable(error))
            raise
        for failed in self.gather(None):
            if failed is not None:
                raise failed

    def exchange(self, own: Sequence[Value], count: int) -> list[Value]:
        """Return `count` items of which each process has its share, in the order that `Share.of` took them from."""
        found = []
        for number in range(count):
            # one at a time: the items of all processes at once would take twice their memory
            source, turn = number % self.world, number // self.world
            item: list[Any] = [own[turn] if source == self.share.rank else None]
            if self.world > 1:
                dist.broadcast_object_list(item, src=source, group=self.control)
            found.append(item[0])
        return found

    def pick_device(self, name: str) -> torch.device:
        """Return this process's device for a recipe's `train.device`: each takes the GPU of its own number.

        Raises RecipeError as `infer.device.pick_device` does, for a single GPU, and for more processes than GPUs.
        """
        device = pick_device(name)
        if not self.launched or device.type == "cpu":
            return device
        if device.index is not None:
            raise RecipeError(f"train.device={name}: under torchrun each process takes a GPU of its own; use cuda")
        count = torch.cuda.device_count()
        if self.local >= count:
            raise RecipeError(
                f"torchrun: process {self.local + 1} of this machine has no GPU; use --nproc-per-node {count}"
            )
        device = torch.device("cuda", self.local)
        # before the first exchange between GPUs, which would otherwise all run on GPU 0
        torch.cuda.set_device(device)
        return device

    def speaks(self) -> bool:
        """Whether it falls to this process to say what went wrong: to one of all that ask."""
        return self._claim(_SPEAKER, str(self.share.rank)) == str(self.share.rank)

    def _claim(self, key: str, value: str) -> str:
        """Leave a value that no other process has left before, and return the one that is there."""
        if self.store is None:
            return value
        try:
            return self.store.compare_set(key, "", value).decode()
        except RuntimeError:  # its host has gone, and with it whoever could speak in our place
            return value

    def explained(self, error: BaseException) -> BaseException:
        """Leave word of an error; if it is only the echo of another process's end, return what ended that one."""
        if self.world == 1:
            return error
        if not _is_echo(error):
            self._claim(_FAULT, json.dumps([self.share.rank, *_named(error)]))
            return error
        until = time.monotonic() + _GRACE
        while not (self.store is not None and self.store.check([_FAULT])):
            if self.store is None or time.monotonic() > until:
                return RecipeError(
                    "another process of this training was lost (killed, or out of memory); resume the run"
                )
            time.sleep(0.1)
        rank, kind, line = json.loads(self.store.get(_FAULT))
        # its own process says it; here it only ends what can no longer go on
        self._claim(_SPEAKER, str(rank))
        return KeyboardInterrupt() if kind == "KeyboardInterrupt" else RecipeError(line)


ALONE = Group()


@contextmanager
def joined(one_voice: bool = False) -> Iterator[Group]:
    """Lend the group of the processes that torchrun started; without torchrun, a group of one.

    An error on one process ends all of them with that error. With `one_voice` only one raises it, and the others end
    by SystemExit without a word, as a command line wants it.
    """
    if not (dist.is_available() and (dist.is_torchelastic_launched() or dist.is_initialized())):
        yield ALONE
        return
    group, own = _join()
    try:
        yield group
    except (Exception, KeyboardInterrupt) as error:
        final = _last_word(group, error, one_voice)
        if final is error:
            raise
        raise final from error
    finally:
        if own:
            # after a failure others may be gone already, so that it cannot end in good order
            with suppress(RuntimeError):
                dist.destroy_process_group()


def _join() -> tuple[Group, bool]:
    """Return the group, and whether it was made here."""
    store, own = None, not dist.is_initialized()
    if own:
        # GPUs talk by nccl, everything on a CPU by gloo
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, rank, world = next(dist.rendezvous("env://"))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world)
        store = dist.PrefixStore("unetkit", store)
    control: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    names: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(names, socket.gethostname(), group=control)
    share = Share(dist.get_rank(), dist.get_world_size(), names.count(socket.gethostname()))
    return Group(share, dist.get_node_local_rank(share.rank), control, store), own


def _last_word(group: Group, error: BaseException, one_voice: bool) -> BaseException:
    final = group.explained(error)
    known = isinstance(final, UnetkitError | KeyboardInterrupt)
    if one_voice and known and not group.speaks():
        return SystemExit(130 if isinstance(final, KeyboardInterrupt) else 2)
    return final


def _is_echo(error: BaseException) -> bool:
    """Whether an error says no more than that another process has gone."""
    signs = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def _named(error: BaseException) -> tuple[str, str]:
    line = (str(error).strip().splitlines() or [""])[0]
    return type(error).__name__, line if isinstance(error, UnetkitError) else f"{type(error).__name__}: {line}"


def _portable(error: BaseException) -> BaseException:
    """Return an error that other processes can be sent."""
    if isinstance(error, UnetkitError | KeyboardInterrupt):
        return error
    return RecipeError(f"another process of this training failed ({_named(error)[1]}); its traceback says where")
