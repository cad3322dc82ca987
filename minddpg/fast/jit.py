"""The one decorator of the package.

The functions people read are the functions Numba compiles. With the environment variable NUMBA_DISABLE_JIT=1 the same
lines run as plain NumPy, so that a debugger can step through them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, overload

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable
from numba.extending import overload as compiled_as

from .cache import FunctionCache, no_interrupt_lost, open_cache
from .parts import Part

FloatArray = npt.NDArray[np.floating[Any]]
Function = TypeVar("Function", bound=Callable[..., Any])

LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX: a larger block teaches it nothing


def keep_freed_memory() -> None:
    """Let glibc keep the megabytes that an update frees, since the next one needs them again.

    It would return them to the system in between, at the price of some 400 page faults per update. But having freed one
    large block, it keeps up to twice as much (mallopt(3), M_MMAP_THRESHOLD).
    """
    np.empty(LARGEST_MMAP_THRESHOLD - (1 << 20), np.uint8)


keep_freed_memory()

CACHE = None if numba.config.DISABLE_JIT else open_cache()


@overload
def jit(function: Function) -> Function: ...


@overload
def jit(*, fastmath: set[str] = ..., nogil: bool = ...) -> Callable[[Function], Function]: ...


def jit(function: Any = None, *, fastmath: Any = False, nogil: bool = False) -> Any:
    """Compile `function` on its first call; runs it as it stands under NUMBA_DISABLE_JIT=1.

    fastmath: set of LLVM flags for the one place that may reorder a sum (see matmul.py). Never {"nnan", "ninf"}:
    they delete NaN checks. nogil: other Python threads go on while it runs.
    """
    if function is None:
        return lambda f: jit(f, fastmath=fastmath, nogil=nogil)  # type: ignore[call-overload]
    # Numba's default error model checks each division for zero and so keeps Adam from vectorising. Numba's own
    # inlining (inline="always") is not used: with tuples among the arguments, 0.68 compiles it to wrong results.
    compiled = numba.njit(function, error_model="numpy", fastmath=fastmath, nogil=nogil)
    if CACHE is not None and FunctionCache.fits(function):
        compiled._cache = FunctionCache(CACHE, function)
    if not numba.config.DISABLE_JIT:
        compiled.compile = no_interrupt_lost()(compiled.compile)
    if not numba.config.DISABLE_JIT and Part is not None:
        part = numba.njit(function, error_model="numpy", fastmath=fastmath, pipeline_class=Part)
        compiled.get_overload = part.get_overload  # what a compiled caller asks for; calls from Python do not
        compiled.get_call_template = lambda args, kws: part.get_call_template(
            [types.unliteral(arg) for arg in args],  # one version for f(x, 0) and f(x, i)
            kws,
        )
    return compiled


def by_type(function: Function) -> Function:
    """Let `function` have variants (see `variant`). Which one is meant is decided while the caller is compiled.

    So code that reads as it does for one kind of network, of Adam, of transitions also runs for the others, and what a
    caller does not use is neither in its machine code nor compiled. As plain Python, each call looks.
    """
    variants: dict[type, Any] = {}
    if hasattr(function, "get_call_template"):
        _let_numba_choose(function, variants)
        function.variants = variants  # type: ignore[attr-defined]
        return function

    @functools.wraps(function)
    def choose(*arguments: Any) -> Any:
        for argument in arguments:
            if (found := variants.get(type(argument))) is not None:
                return found(*arguments)
        return function(*arguments)

    choose.variants = variants  # type: ignore[attr-defined]
    return choose  # type: ignore[return-value]


def variant(function: Callable[..., Any], kind: type) -> Callable[[Function], Function]:
    """Decorate what is to run in place of `function` where an argument is a `kind`, a class of NamedTuple."""

    def register(other: Function) -> Function:
        function.variants[kind] = other  # type: ignore[attr-defined]
        return other

    return register


def _let_numba_choose(function: Any, variants: dict[type, Any]) -> None:
    template, entry, compile_own = function.get_call_template, function.get_overload, function.compile

    def chosen(argument_types: Iterable[Any]) -> Any:
        for argument in argument_types:
            if (found := variants.get(getattr(argument, "instance_class", None))) is not None:  # type: ignore[arg-type]
                return found
        return None

    def get_call_template(args: Any, kws: Any) -> Any:  # what a compiled caller asks for, first
        found = chosen(args)
        return template(args, kws) if found is None else found.get_call_template(args, kws)

    def get_overload(args: Any) -> Any:  # and then
        found = chosen(args)
        return entry(args) if found is None else found.get_overload(args)

    def compile_chosen(args: Any) -> Any:  # what a call from Python asks for, once per signature
        found = chosen(args)
        if found is None:
            return compile_own(args)
        machine_code = found.compile(args)
        function._insert([argument._code for argument in args], machine_code, False)
        return machine_code

    function.get_call_template, function.get_overload = get_call_template, get_overload
    function.compile = compile_chosen


_machine_code: dict[tuple[Any, str], Callable[..., Any]] = {}


def call(function: Callable[..., Any], kind: str, *arguments: Any) -> Any:
    """function(*arguments), for a compiled function whose arguments have the same types in every call of one kind.

    Called as usual, Numba finds out the type of every array in every tuple, each time: 10 us for a Learner. Here the
    first call does so, and the others go straight to the machine code, which believes what it is given. So only what
    has gone through `as_array` (replay.py) comes here: its type follows from the dtype. agent.py is the only caller.
    kind: the dtype, and what else decides about the types; see agent.py.
    """
    found = _machine_code.get((function, kind))
    if found is None:
        if not all(map(_is_plain, _arrays_in(arguments))):
            raise TypeError(f"{function.__name__} is called with an array that has not come from as_array")
        compile_for = getattr(function, "compile", None)  # plain Python has none
        plain = np.errstate(all="ignore")(function)  # compiled code does not warn either
        found = compile_for(tuple(map(numba.typeof, arguments))) if compile_for else plain
        _machine_code[function, kind] = found
    return found(*arguments)


def _arrays_in(arguments: Iterable[Any]) -> Iterator[npt.NDArray[Any]]:
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield argument
        elif isinstance(argument, tuple):
            yield from _arrays_in(argument)


def _is_plain(array: npt.NDArray[Any]) -> bool:
    return bool(array.flags.carray and array.dtype.isnative and array.dtype.kind in "fib")


def each(array: FloatArray) -> Iterable[Any]:
    """`for i in each(v):` visits every element of the vector v, one index at a time when compiled.

    As plain NumPy it yields one slice that covers them all: the loop's body then runs once, on whole arrays.
    """
    return (slice(None),)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """np.where inside an `each` loop. (Numba's own takes a detour over arrays, element by element.)"""
    return np.where(condition, yes, no)


def squares_are_finite(v: FloatArray) -> bool:
    """Whether no element of the vector v is a NaN, nor so large that its square is infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(v * v).all())


if not numba.config.DISABLE_JIT:

    @compiled_as(squares_are_finite, jit_options={"pipeline_class": Part} if Part else {})
    def _squares_are_finite(v):  # type: ignore[no-untyped-def]
        def compiled(v):  # type: ignore[no-untyped-def]
            others = 0
            for i in range(v.size):
                others += not v[i] * v[i] < np.inf
            return others == 0

        return compiled

    # Both become a few instructions in place, not calls: only so can LLVM turn the loops into vector code.

    @type_callable(each)
    def _type_each(context):  # type: ignore[no-untyped-def]
        return lambda array: types.range_state64_type if isinstance(array, types.Array) and array.ndim == 1 else None

    @lower_builtin(each, types.Array)
    def _each(context, builder, signature, args):  # type: ignore[no-untyped-def]
        array = context.make_array(signature.args[0])(context, builder, args[0])
        steps = cgutils.create_struct_proxy(types.range_state64_type)(context, builder)
        steps.start, steps.stop, steps.step = array.nitems.type(0), array.nitems, array.nitems.type(1)
        return steps._getvalue()

    @type_callable(where)
    def _type_where(context):  # type: ignore[no-untyped-def]
        return lambda condition, yes, no: yes if yes == no and condition == types.boolean else None

    @lower_builtin(where, types.Boolean, types.Float, types.Float)
    def _where(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.select(*args)


# What is compiled at a time, and remembered when all of it has been. Of a dtype each, but for the last two.
WARM = {
    "update": "an update, and the policy: what training needs",
    "look": "a look at an update from inside, as training takes it now and then",
    "profile": "the parts of an update, one by one",
    "gradcheck": "the checks of an agent",
    "gradflow": "a trace",
}


def is_warm(what: str, dtype: str = "") -> bool:
    """Whether the compiled code that one of WARM needs is in the cache, or none is needed."""
    return bool(numba.config.DISABLE_JIT) or (CACHE is not None and CACHE.is_warm(_flag(what, dtype)))


def mark_warm(what: str, dtype: str = "") -> None:
    """Remember that everything has been compiled for one of WARM."""
    if CACHE is not None:
        CACHE.mark_warm(_flag(what, dtype))


def _flag(what: str, dtype: str) -> str:
    assert what in WARM, what
    return f"{what}-{dtype}" if dtype else what
