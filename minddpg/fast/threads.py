"""One update by several threads: `share` hands out the parts of a loop, and gives the same bits however many take them.

An update that `begin`s with a team wakes it, and `end` lets it sleep. In between its helpers spin, so that sharing a
loop costs a microsecond; from one update to the next, while an environment steps, they cost nothing. Who is idle takes
the next part, so a thread that the system stops holds up one part. Results cannot depend on who takes a part: parts are
cut without a look at the number of threads, no two write the same number, and no sum goes across them.

The threads are our own, and not one of Numba's layers: `workqueue` takes 25 to 70 us for a loop and aborts the process
when two Python threads enter it; OpenMP does not survive a fork, and its threads spin while the environment steps. Ours
are ordinary Python threads that stay in compiled code without the lock of the interpreter. An update holds that lock
from its beginning to its end, so a team only ever works for one. A forked process makes a team of its own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .jit import jit

WORTH = 30_000  # multiplications, or what takes as long: below, a loop is over before a helper has noticed it
PIECE = 4096  # numbers of a vector that is worked on element by element

# Where the numbers of a team stand, in bytes; those that change at different times are 64 apart, a line of the cache.
THREADS, OPEN, FUNCTION, FRAME, PARTS, NEXT, INSIDE, STOP, MUTEX, CONDITION = (
    0, 64, 72, 80, 88, 128, 192, 256, 320, 448
)  # fmt: skip
BYTES = 576  # of which the C library needs at most 128 each for a mutex and a condition
PATIENCE = 2000  # looks at what another thread is about to finish, before the CPU is offered to others


def _trouble() -> str:
    """Why there is no team here, or nothing."""
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set"
    if os.name != "posix":
        return "there are no POSIX threads"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python has no global lock"
    return ""


TROUBLE = _trouble()


def share(kernel: Callable[..., None], parts: int, work: int, arguments: tuple[Any, ...]) -> None:
    """kernel(first, last, *arguments) for all parts 0 <= first, last <= parts, by however many threads there are.

    work: multiplications in all. kernel: compiled, returns and raises nothing, and shares nothing itself. In compiled
    code alone there are several threads; as plain NumPy, and outside `begin` and `end`, one makes all parts.
    """
    kernel(0, parts, *arguments)


def begin(team: int, threads: int) -> None:
    """What follows is shared with so many threads of a team (see `team`); 0: with none."""


def end(team: int) -> None:
    """No longer."""


if not numba.config.DISABLE_JIT:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic, lower_builtin, overload, type_callable

    integer, int32, pointer = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()

    def _part_type(builder: Any) -> Any:
        """A kernel that finds its arguments in memory: a Numba function's two hidden ones, frame, first, last."""
        return ir.FunctionType(int32, [pointer, builder.function.args[1].type, pointer, integer, integer])

    def _kinds(arguments: Any) -> tuple[Any, ...]:
        return types.int64, types.int64, *(types.unliteral(kind) for kind in arguments.types)

    @intrinsic
    def _run(typingctx, function, frame, first, last):  # type: ignore
        """Make parts first to last of a task."""

        def codegen(context, builder, sig, args):  # type: ignore
            called = builder.inttoptr(args[0], _part_type(builder).as_pointer())
            given = builder.inttoptr(args[1], pointer)
            builder.call(called, [pointer(None), builder.function.args[1], given, *args[2:]])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    def _team_in_use(builder: Any) -> Any:
        """A variable of the machine code, one for all parts of an update: the team's address, or 0."""
        name, module = "minddpg_team", builder.module
        if name not in module.globals:
            variable = ir.GlobalVariable(module, integer, name)
            variable.linkage, variable.initializer = "linkonce_odr", integer(0)
        return module.globals[name]

    @intrinsic
    def _team(typingctx):  # type: ignore
        return types.int64(), lambda context, builder, sig, args: builder.load(_team_in_use(builder))

    @intrinsic
    def _use_team(typingctx, team):  # type: ignore
        def codegen(context, builder, sig, args):  # type: ignore
            builder.store(args[0], _team_in_use(builder))
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    @intrinsic
    def _load(typingctx, address):  # type: ignore
        def codegen(context, builder, sig, args):  # type: ignore
            return builder.load_atomic(builder.inttoptr(args[0], integer.as_pointer()), "seq_cst", 8)

        return types.int64(types.int64), codegen

    @intrinsic
    def _store(typingctx, address, value):  # type: ignore
        def codegen(context, builder, sig, args):  # type: ignore
            builder.store_atomic(args[1], builder.inttoptr(args[0], integer.as_pointer()), "seq_cst", 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    @intrinsic
    def _add(typingctx, address, value):  # type: ignore
        """Add to a number in memory.    -> what it was before"""

        def codegen(context, builder, sig, args):  # type: ignore
            return builder.atomic_rmw("add", builder.inttoptr(args[0], integer.as_pointer()), args[1], "seq_cst")

        return types.int64(types.int64, types.int64), codegen

    @intrinsic
    def _pause(typingctx):  # type: ignore
        """Tell the CPU that this is a loop that waits."""

        def codegen(context, builder, sig, args):  # type: ignore
            if platform.machine() in ("x86_64", "AMD64"):
                name = "llvm.x86.sse2.pause"
                builder.call(
                    cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), name), []
                )
            return context.get_dummy_value()

        return types.void(), codegen

    def _c_function(name: str, arguments: int) -> Any:
        """A function of the C library that takes so many addresses. What it returns is not looked at."""

        def call(context, builder, sig, args):  # type: ignore
            kind = ir.FunctionType(int32, [integer] * arguments)
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)
            return context.get_dummy_value()

        def typed(typingctx, *addresses):  # type: ignore
            return types.void(*[types.int64] * arguments), call

        shapes = (lambda t: typed(t)), (lambda t, a: typed(t, a)), (lambda t, a, b: typed(t, a, b))
        return intrinsic(shapes[arguments])

    _lock, _unlock = _c_function("pthread_mutex_lock", 1), _c_function("pthread_mutex_unlock", 1)
    _wake_all, _sleep = _c_function("pthread_cond_broadcast", 1), _c_function("pthread_cond_wait", 2)
    _offer_cpu = _c_function("sched_yield", 0)

    @jit
    def _take_parts(team, function, frame, parts):
        part = _add(team + NEXT, 1)
        while part < parts:
            _run(function, frame, part, part + 1)
            part = _add(team + NEXT, 1)

    @jit
    def _share_out(team, function, frame, parts):
        """Make a task together with the helpers. None of them is in it any more at the end."""
        _store(team + FUNCTION, function)
        _store(team + FRAME, frame)
        _store(team + PARTS, parts)
        _store(team + NEXT, 0)
        _store(team + OPEN, 1)
        _take_parts(team, function, frame, parts)
        _store(team + OPEN, 0)
        looks = 0
        while _load(team + INSIDE) > 0:
            looks += 1
            if looks % PATIENCE:
                _pause()
            else:
                _offer_cpu()

    @jit(nogil=True)
    def _help(team, number):
        """What the number-th helper does all its life."""
        while True:
            _lock(team + MUTEX)
            while _load(team + THREADS) <= number and _load(team + STOP) == 0:
                _sleep(team + CONDITION, team + MUTEX)
            _unlock(team + MUTEX)
            if _load(team + STOP):
                return
            while _load(team + THREADS) > number:
                if _load(team + OPEN) == 0 or _load(team + NEXT) >= _load(team + PARTS):
                    _pause()
                    continue
                _add(team + INSIDE, 1)  # first this, then a look whether there still is a task: its end waits for us
                if _load(team + OPEN):
                    _take_parts(team, _load(team + FUNCTION), _load(team + FRAME), _load(team + PARTS))
                _add(team + INSIDE, -1)

    @jit
    def _go(function, frame, parts, work):
        if parts < 2 or work < WORTH or TROUBLE or _team() == 0:
            _run(function, frame, 0, parts)
        else:
            _share_out(_team(), function, frame, parts)

    @type_callable(share)
    def _type_share(context):  # type: ignore
        def typed(kernel, parts, work, arguments):  # type: ignore
            kernel.get_call_type(context, _kinds(arguments), {})  # compiles it
            types.Dispatcher(_go).get_call_type(context, (types.int64,) * 4, {})
            return types.none

        return typed

    @lower_builtin(share, types.Dispatcher, types.Integer, types.Integer, types.BaseTuple)
    def _share(context, builder, sig, args):  # type: ignore
        """In place, and not a call: as an argument, a kernel would be an address of this process in the machine code.

        The kernel becomes the address of a function, its arguments that of a copy on the stack.
        """
        kinds = _kinds(sig.args[3])
        kernel_signature = sig.args[0].get_call_type(context.typing_context, kinds, {})
        frame = cgutils.alloca_once_value(builder, args[3])
        function = ir.Function(builder.module, _part_type(builder), builder.module.get_unique_name("part"))
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block())
        given = inside.load(inside.bitcast(function.args[2], frame.type))
        values = cgutils.unpack_tuple(inside, given, len(kinds) - 2)
        context.get_function(sig.args[0], kernel_signature)(inside, [*function.args[3:], *values])
        inside.ret(int32(0))
        go = types.Dispatcher(_go)
        signature = go.get_call_type(context.typing_context, (types.int64,) * 4, {})
        parts, work = (context.cast(builder, args[i], sig.args[i], types.int64) for i in (1, 2))
        addresses = builder.ptrtoint(function, integer), builder.ptrtoint(frame, integer)
        context.get_function(go, signature)(builder, [*addresses, parts, work])
        return context.get_dummy_value()

    @overload(begin)
    def _begin(team, threads):  # type: ignore
        def compiled(team, threads):  # type: ignore
            _use_team(team)
            if team:
                _lock(team + MUTEX)
                _store(team + THREADS, threads)
                _wake_all(team + CONDITION)
                _unlock(team + MUTEX)

        return (lambda team, threads: None) if TROUBLE else compiled

    @overload(end)
    def _end(team):  # type: ignore
        def compiled(team):  # type: ignore
            _use_team(0)
            if team:
                _store(team + THREADS, 0)

        return (lambda team: None) if TROUBLE else compiled


def compile_help() -> Any:
    """The machine code that helpers run; None where there are none."""
    function: Any = None if TROUBLE else _help
    return function and function.compile((types.int64, types.int64))


class Team:
    """Helpers that sleep until an update wants them."""

    def __init__(self) -> None:
        self._memory = np.zeros(BYTES + 64, np.uint8)
        start = self._memory.ctypes.data
        self.address = start + -start % 64
        self._helpers: list[threading.Thread] = []
        self._c = ctypes.CDLL(None)
        self._c.pthread_mutex_init(ctypes.c_void_p(self.address + MUTEX), None)
        self._c.pthread_cond_init(ctypes.c_void_p(self.address + CONDITION), None)

    def grow(self, threads: int) -> None:
        """Have threads - 1 helpers, or as many as the system allows: the others take more parts then."""
        if len(self._helpers) >= threads - 1:
            return
        entry = compile_help()  # now, and not in the new thread, which is given no time
        while len(self._helpers) < threads - 1:
            number = len(self._helpers) + 1
            helper = threading.Thread(target=entry, args=(self.address, number), name=f"minddpg-{number}", daemon=True)
            try:
                helper.start()
            except RuntimeError:
                return
            self._helpers.append(helper)

    def rest(self) -> None:
        """Let the helpers sleep, though an update has not come to its end."""
        ctypes.c_int64.from_address(self.address + THREADS).value = 0

    def close(self) -> None:
        """End the helpers."""
        mutex, condition = ctypes.c_void_p(self.address + MUTEX), ctypes.c_void_p(self.address + CONDITION)
        self._c.pthread_mutex_lock(mutex)
        ctypes.c_int64.from_address(self.address + STOP).value = 1
        self._c.pthread_cond_broadcast(condition)
        self._c.pthread_mutex_unlock(mutex)
        for helper in self._helpers:
            helper.join()


_team_of_process: Team | None = None
_making = threading.Lock()


def team(threads: int) -> int:
    """The address of this process's team, with so many threads; 0 where one thread is enough, or all there is."""
    global _team_of_process
    if threads < 2 or TROUBLE:
        return 0
    with _making:
        if _team_of_process is None:
            _team_of_process = Team()
        _team_of_process.grow(threads)
        return _team_of_process.address


def rest() -> None:
    """After an update that has ended in an exception: its helpers may sleep."""
    if _team_of_process is not None:
        _team_of_process.rest()


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forget() -> None:
    """In a forked process: the team's threads have stayed in the other one."""
    global _team_of_process, _making
    _team_of_process, _making = None, threading.Lock()


def _close() -> None:
    """Before the interpreter ends, and its machine code with it."""
    if _team_of_process is not None:
        _team_of_process.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_close)
