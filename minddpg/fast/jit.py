"""The one decorator of the package.

The functions people read are the functions Numba compiles. With the environment variable NUMBA_DISABLE_JIT=1 the same
lines run as plain NumPy, so that a debugger can step through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from .cache import FunctionCache, no_interrupt_lost, open_cache
from .parts import Part

FloatArray = npt.NDArray[np.floating[Any]]
Function = TypeVar("Function", bound=Callable[..., Any])

# An update frees megabytes that the next one needs again. glibc would return them to the system in between, at the
# price of some 400 page faults per update; having freed one large block, it keeps up to twice as much (mallopt(3)).
np.empty(31 << 20, np.uint8)

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


_machine_code: dict[tuple[Any, str], Callable[..., Any]] = {}


def call(function: Callable[..., Any], dtype: str, *arguments: Any) -> Any:
    """function(*arguments), for a compiled function whose arguments have the same types in every call of one dtype.

    Called as usual, Numba finds out the type of every array in every tuple, each time: 10 us for a Learner. Here the
    first call does so, and the others go straight to the machine code.
    """
    found = _machine_code.get((function, dtype))
    if found is None:
        compile_for = getattr(function, "compile", None)  # plain Python has none
        found = compile_for(tuple(map(numba.typeof, arguments))) if compile_for else function
        _machine_code[function, dtype] = found
    return found(*arguments)


def each(array: FloatArray) -> Iterable[Any]:
    """`for i in each(v):` visits every element of the vector v, one index at a time when compiled.

    As plain NumPy it yields one slice that covers them all: the loop's body then runs once, on whole arrays.
    """
    return (slice(None),)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """np.where inside an `each` loop. (Numba's own takes a detour over arrays, element by element.)"""
    return np.where(condition, yes, no)


if not numba.config.DISABLE_JIT:
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


def is_warm(what: str) -> bool:
    """Whether the compiled code that `what` needs (a dtype, "gradcheck", ...) is in the cache, or none is needed."""
    return bool(numba.config.DISABLE_JIT) or (CACHE is not None and CACHE.is_warm(what))


def mark_warm(what: str) -> None:
    """Remember that everything has been compiled for `what`."""
    if CACHE is not None:
        CACHE.mark_warm(what)
