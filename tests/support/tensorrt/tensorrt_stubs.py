# SPDX-License-Identifier: Apache-2.0
"""C++ that a stand-in for libnvinfer needs, made of the headers of a version of TensorRT.

TensorRT's interfaces pass every call on to abstract classes of NvInferImpl.h, in whose vtables a
version differs from the next. A stub of such a class overrides all of it; what is called then
without having been meant to ends the process and says its name.
"""

import re

CLASSES = ("VRuntime", "VCudaEngine", "VExecutionContext")
_MACROS = re.compile(r"\bTRT_(NODISCARD|DEPRECATED)\b")
_HEAD = """#include <NvInferRuntime.h>
[[noreturn]] void not_meant_to_be_called(const char* name);
namespace stubs {
using namespace nvinfer1;"""


def abstract_functions(header, name):
    """The pure virtual functions of a class, each as "int32_t f(int32_t x) const noexcept"."""
    code = _MACROS.sub("", re.sub(r"//[^\n]*|/\*.*?\*/", "", header, flags=re.DOTALL))
    body = re.search(rf"class {name} : public VRoot\s*\{{(.*?)\n\}};", code, re.DOTALL)
    functions = re.findall(r"virtual ([^;{]*?noexcept)\s*=\s*0;", body[1], re.DOTALL)
    assert len(functions) == body[1].count("virtual "), f"{name}: not all functions were understood"
    return [" ".join(function.split()) for function in functions]


def stub(header, name):
    yield f"struct {name} : apiv::{name} {{"
    for function in abstract_functions(header, name):
        called = re.search(r"(\w+)\(", function)[1]
        yield f'  {function} override {{ not_meant_to_be_called("{name}::{called}"); }}'
    yield "};"


def stubs(include):
    """The text of stubs.h for the headers in the folder `include`."""
    header = (include / "NvInferImpl.h").read_text()
    parts = [line for name in CLASSES for line in stub(header, name)]
    return "\n".join([_HEAD, *parts, "}  // namespace stubs", ""])
