"""How a compiled function takes in the functions it calls: once. Compilation takes 11 s with this, 40 s without.

Left to itself, Numba optimises every function and turns it into machine code, then does both again for the copy in its
caller, in its caller's caller, and so on. A `Part` is only translated; the outermost function optimises it, once.

This needs names that Numba keeps to itself. So it is used with the versions it was tested with, and left out with
others: the results are the same, compilation takes longer.
"""

from typing import Any

import numba

TESTED = ((0, 61), (0, 69))  # first version, first version not tested any more

Part: Any = None

if TESTED[0] <= numba.version_info.short < TESTED[1] and not numba.config.DISABLE_JIT:
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import Compiler

    class _PartLibrary(JITCodeLibrary):  # type: ignore[misc]
        """The code of a part: its caller's library takes it in, optimises it there and makes it executable."""

        def _optimize_final_module(self) -> None:
            pass

        def _finalize_final_module(self) -> None:
            self._finalized = True

    class _Part(Compiler):  # type: ignore[misc]
        def __init__(self, typingctx, targetctx, library, args, return_type, flags, locals):  # type: ignore
            flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
            library = _PartLibrary(targetctx.codegen(), "part")
            super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)

        def compile_extra(self, func: Any) -> Any:
            # Numba knows a compiled function by its entry point. A part has none, so any builtin object has to do.
            part = super().compile_extra(func)._replace(entry_point=[].append)
            self.state.targetctx.insert_user_function(part.entry_point, part.fndesc, [part.library])
            return part

    Part = _Part
