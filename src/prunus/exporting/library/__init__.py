"""Programs outside Python: a shared library with a C header, which needs neither Python nor prunus."""

from __future__ import annotations

import ctypes
import math
import platform
import re
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

import prunus
from prunus import files
from prunus.compiling import toolchain, tuning
from prunus.compiling.assembling import Assembly, CallSequence, assemble
from prunus.compiling.building import MOST_THREADS
from prunus.compiling.kernels.library import sources
from prunus.compiling.kernels.numbers import DOUBLE, FLOAT
from prunus.compiling.net import Net
from prunus.compiling.operations import Lookup
from prunus.compiling.program import Parts, Program, parts_of, shares_steps
from prunus.errors import ExportError
from prunus.exporting.c.identifiers import check_path, distinct, identifier
from prunus.proving.verification import difference, tensors

_ALIGNMENT = 64
# The same kernels, built for any processor of the kind, may fuse other products and sums.
_TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-13}
_SUFFIX = ".so"

# kind of vector instructions -> how a processor is asked for it, and its name in words
_KINDS = {
    "avx512": (("avx512f", "avx512vl", "avx512dq", "avx512bw", "avx2", "fma"), "AVX-512 (F, VL, DQ and BW)"),
    "avx2": (("avx2", "fma"), "AVX2 and FMA"),
    "sse": (("sse2",), "SSE2"),
    "neon": ((), "NEON"),
    "scalar": ((), "no vector instructions"),
}

# On macOS names in assembly begin with an underscore, and sections are called otherwise.
_CONSTANTS = """
#ifdef __APPLE__
__asm__(".section __TEXT,__const\\n.balign 64\\n.private_extern _prunus_constants\\n_prunus_constants:\\n"
        ".incbin \\"constants.bin\\"\\n.text\\n");
#else
__asm__(".section .rodata\\n.balign 64\\n.globl prunus_constants\\n.hidden prunus_constants\\nprunus_constants:\\n"
        ".incbin \\"constants.bin\\"\\n.text\\n");
#endif
extern const char prunus_constants[] __attribute__((visibility("hidden")));
"""


def write_library(program: Program, path: Path) -> tuple[int, float]:
    """Write a program as a shared library, and its C header beside it, after both were tried.

    It is built for every processor with the vector instructions that the program was compiled for, and asks for them
    when it is used.

    Args:
        program: the program.
        path: of the library; its name is what the functions are called after.

    Returns:
        The library's bytes, and the largest difference of its outputs to the program's, relative to the largest.

    Raises:
        ValueError: the path does not end in .so, or its header would be found in the place of one of C's own.
        CompileError: there is no compiler, or it fails.
        ExportError: the system is not known, or the library computes something else; no file is written.
    """
    check_path(path, _SUFFIX)
    if not re.search(r"[0-9A-Za-z]", path.stem):
        raise ValueError(
            f"the functions are called after the file, and {path.name!r} has no letter or digit that C takes; give "
            "another name, such as net.so"
        )
    if platform.system() not in ("Linux", "Darwin"):
        raise ExportError(
            f"a shared library takes POSIX threads, and this system is {platform.system() or 'unknown'}; build it on "
            "Linux or macOS, or export to C"
        )
    parts, name = parts_of(program), identifier(path.stem)
    with tempfile.TemporaryDirectory(prefix="prunus-so-") as text:
        folder = Path(text)
        built = _build(parts, name, path.name, folder, share_steps=shares_steps(program))
        apart = _difference(program, ctypes.CDLL(str(built)), name)
        if not apart <= _TOLERANCES[parts.dtype]:
            raise ExportError(f"the library computes something else: its outputs differ by {apart:.1e} of the largest")
        with files.whole_file(path) as one, files.whole_file(path.with_suffix(".h")) as other:
            one.write_bytes(built.read_bytes())
            other.write_text(_header(parts, name, path.stem), encoding="utf-8")
    return path.stat().st_size, apart


def _build(parts: Parts, name: str, file: str, folder: Path, *, share_steps: bool) -> Path:
    """Build a library in a folder, for a file of this name."""
    numbers = DOUBLE if parts.dtype == torch.float64 else FLOAT
    plans = tuning.plans_for(parts.net, parts.choice.block, parts.target, numbers)
    assembly = assemble(plans, parts.choice.chosen, numbers, looks=parts.nonfinite == "raise", saturates=True)
    calls = [*assembly.block.calls, *assembly.single.calls]
    target, host = toolchain.portable(parts.target), toolchain.compiler()
    *kernels, runner = sources(target, numbers, {call.kernel for call in calls})
    (folder / "constants.bin").write_bytes(assembly.constants or b"\0")
    interface = _interface(parts, assembly, name, share_steps=share_steps)
    texts = [(f"kernels{place}", text, target.flags) for place, text in enumerate(kernels)]
    objects = []
    for stem, text, flags in [*texts, ("interface", runner + interface, ())]:
        (folder / f"{stem}.c").write_text(text, encoding="utf-8")
        given = [*toolchain.FLAGS, "-fvisibility=hidden", *flags, *toolchain.own_flags()]
        made = folder / f"{stem}.o"
        toolchain.run(host, [*given, "-c", f"{stem}.c", "-o", made.name], "the library", made, folder)
        objects.append(made.name)
    built = folder / f"{name}{_SUFFIX}"
    # its threads wait in it for work, so it stays in memory when it is closed
    own = ["-Wl,-z,nodelete", "-Xlinker", "-soname", "-Xlinker", file] if platform.system() == "Linux" else []
    toolchain.run(host, ["-shared", "-pthread", *own, *objects, "-o", built.name, "-lm"], "the library", built, folder)
    return built


def _interface(parts: Parts, assembly: Assembly, name: str, *, share_steps: bool) -> str:
    """Return the C that other programs call."""
    calls = [*assembly.block.calls, *assembly.single.calls]
    asked, kind = _KINDS[parts.target.name]
    macros: dict[str, object] = {
        "PROGRAM": f"{name}_program",
        "CREATE": f"{name}_create",
        "RUN": f"{name}_run",
        "FREE": f"{name}_free",
        "KIND": f'"{kind}"',
        "SUPPORTED": " && ".join(f'__builtin_cpu_supports("{feature}")' for feature in asked) or "1",
        "MOST_THREADS": MOST_THREADS,
        "FIXED_BATCH": parts.fixed_batch or 0,
        "NUM_INPUTS": len(parts.net.inputs),
        "NUM_OUTPUTS": len(parts.net.outputs),
        "BLOCK": assembly.block_size,
        "MOST_SINGLE": parts.choice.most_single,
        "SHARE_STEPS": int(share_steps),
        "ALIGNMENT": _ALIGNMENT,
        "WORK_BYTES": -(-assembly.work_bytes // _ALIGNMENT) * _ALIGNMENT,
    }
    defined = [f"#define {macro} {value}" for macro, value in macros.items()]
    declared = [f"extern prunus_kernel {kernel};" for kernel in sorted({call.kernel for call in calls})]
    steps = [_steps("block", assembly.block), _steps("single", assembly.single)]
    text = resources.files(__package__).joinpath("interface.c").read_text(encoding="utf-8")
    return "\n".join([_CONSTANTS, *defined, *declared, *steps, text])


def _steps(kind: str, sequence: CallSequence) -> str:
    lines = [f"    {{{call.kernel}, prunus_constants + {call.arguments_at}}}," for call in sequence.calls]
    return "\n".join([f"static const prunus_step {kind}_steps[] = {{", *lines, "};"])


def _header(parts: Parts, name: str, stem: str) -> str:
    net = parts.net
    shapes = [shape for _, shape in net.inputs.values()], [view.index.shape for view in net.outputs]
    names = distinct([*_RESERVED, *net.inputs, *_output_names(parts)])[len(_RESERVED) :]
    inputs = dict(zip(names, shapes[0], strict=False))
    outputs = dict(zip(names[len(inputs) :], shapes[1], strict=True))
    real = "double" if parts.dtype == torch.float64 else "float"
    integers = [net.integers.get(original) for original in net.inputs]
    types = [real if kind is None else "bool" if kind == "bool" else f"{kind}_t" for kind in integers]
    batch = parts.fixed_batch or "batch"
    arrays = [
        f" * {kind}[{place}], {called}: {type_}[{batch}]{''.join(f'[{side}]' for side in shape)}"
        for kind, arguments, kinds in (("inputs", inputs, types), ("outputs", outputs, [real] * len(outputs)))
        for place, ((called, shape), type_) in enumerate(zip(arguments.items(), kinds, strict=True))
    ]
    sizes = [
        f"    {name}_{kind}{place}_size = {math.prod(shape)} /* numbers of one sample of {called} */"
        for kind, arguments in (("input", inputs), ("output", outputs))
        for place, (called, shape) in enumerate(arguments.items())
    ]
    text = resources.files(__package__).joinpath("header.h").read_text(encoding="utf-8")
    return text.format(
        title=f"{stem}{_SUFFIX}: a neural network as a program that skips its zeros.",
        version=prunus.__version__,
        kind=_KINDS[parts.target.name][1],
        real=real,
        arrays="\n".join(arrays),
        name=name,
        input_names=", ".join(inputs),
        output_names=", ".join(outputs),
        guard=f"PRUNUS_{name.upper()}_H",
        num_inputs=len(inputs),
        num_outputs=len(outputs),
        sizes=",\n".join(sizes),
        batch="a batch of any size" if parts.fixed_batch is None else f"a batch of {batch}",
    )


# Names in the example of the header.
_RESERVED = ("program", "problem", "inputs", "outputs", "batch")


def _output_names(parts: Parts) -> list[str]:
    """Return the keys of a model that returns a dict of tensors, else numbers."""
    structure, count = parts.structure, len(parts.net.outputs)
    if structure.kind == "dict" and len(structure.children) == count:
        return [str(key) for key in structure.keys]
    return ["output"] if count == 1 else [f"output{place}" for place in range(count)]


def _difference(program: Program, library: ctypes.CDLL, name: str) -> float:
    """Return the largest difference of a library's outputs to the program's on random inputs of two batch sizes."""
    parts, worst = parts_of(program), 0.0
    free = (1, 2 * parts.choice.block)
    for batch in free if parts.fixed_batch is None else (parts.fixed_batch,):
        inputs = _inputs(parts.net, parts.dtype, batch)
        shapes = [(batch, *view.index.shape) for view in parts.net.outputs]
        worst = max(worst, difference(tensors(program(*inputs)), run(library, name, inputs, shapes, parts.dtype)))
    return worst


def _inputs(net: Net, dtype: torch.dtype, batch: int) -> list[Tensor]:
    """Return random inputs: whole numbers of all bits, but where there are tables, rows of all of them."""
    generator = torch.Generator().manual_seed(batch)
    rows = min((len(step.table) for step in net.operations if isinstance(step, Lookup)), default=0)
    inputs = []
    for name, (_, shape) in net.inputs.items():
        if name in net.integers:
            low, high = (0, min(rows, 128)) if rows else (-(1 << 31), 1 << 31)
            numbers = torch.randint(low, high, (batch, *shape), generator=generator)
            inputs.append(numbers.to(getattr(torch, net.integers[name])))
        else:
            inputs.append(torch.randn((batch, *shape), generator=generator, dtype=dtype))
    return inputs


def run(
    library: ctypes.CDLL,
    name: str,
    inputs: Sequence[Tensor],
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Compute a batch with a library.

    Args:
        library: the loaded library.
        name: what its functions are called after.
        inputs: (batch, ...), contiguous.
        shapes: of the outputs.
        dtype: of the outputs.

    Returns:
        The outputs, in order.

    Raises:
        ExportError: it says that something is wrong.
    """
    create, call, free = (getattr(library, f"{name}_{verb}") for verb in ("create", "run", "free"))
    create.restype = call.restype = ctypes.c_char_p
    free.restype, call.argtypes = None, [ctypes.c_void_p] * 3 + [ctypes.c_long]
    create.argtypes, free.argtypes = [ctypes.c_void_p, ctypes.c_long], [ctypes.c_void_p]
    program = ctypes.c_void_p()
    problem = create(ctypes.byref(program), 1)
    outputs = [torch.empty(shape, dtype=dtype) for shape in shapes]
    if problem is None:
        pointers = [(ctypes.c_void_p * len(group))(*[t.data_ptr() for t in group]) for group in (inputs, outputs)]
        problem = call(program, *pointers, len(inputs[0]))
        free(program)
    if problem is not None:
        raise ExportError(f"the library can't be run: {problem.decode()}")
    return outputs
