"""Whether Inductor can generate code for the CPU here: it needs a C++ compiler."""

import pytest
from torch._inductor import cpp_builder, exc


def _missing() -> str:
    """Why Inductor can't compile for the CPU here; empty if it can."""
    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        return f"Inductor finds no C++ compiler: {error}"
    return ""


_MISSING = _missing()
needs_compiler = pytest.mark.skipif(bool(_MISSING), reason=_MISSING)
