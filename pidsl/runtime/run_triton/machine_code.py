"""Read the machine code of a kernel: its loops, and how many instructions of which kind they hold.

The code is what `nvdisasm` prints of a cubin. Loops are the natural loops of its control flow, so code that the
assembler moves out of line belongs to the loop that it returns to. What spins until a barrier opens is not counted.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_LABEL = re.compile(r"^(\.L_x_\d+):")
_LINE = re.compile(r'^\s*//## File ".*?", line (\d+)')
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?\w+)?\s*([A-Z][\w.]*)\s*([^;]*);")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")

TENSOR = ("HGMMA", "HMMA", "UTCHMMA")  # products of the tensor cores: of sm_90, sm_80 and sm_100
WORK = frozenset((*TENSOR, "EX2", "UTMALDG"))
SELECTED = 112  # selections per 64 x 64 pairs: 128 of a mask, fewer of what is done per row or key
LOCAL = ("LDL", "STL")  # local memory: registers that do not fit
GROUPS = {  # what tables show, as sums of opcodes
    "FFMA+FMUL+FADD": ("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2"),
    "FMNMX": ("FMNMX", "FMNMX3"),
    "ISETP": ("ISETP",),
    "FSEL+SEL": ("FSEL", "SEL"),
    "IADD": ("IADD", "IADD3", "VIADD", "LEA", "IADD64", "VIADD64", "IMAD.IADD"),
}
FLOAT_PIPE = frozenset(GROUPS["FFMA+FMUL+FADD"]) | {"HFMA2", "HADD2", "HMUL2", "IMAD"}
INTEGER_PIPE = frozenset({
    "FMNMX", "FMNMX3", "FSEL", "FSETP", "FSET", "F2FP", "FCHK", "SEL", "ISETP", "IADD", "IADD3", "IADD64", "VIADD",
    "VIADD64", "VIMNMX", "VIADDMNMX", "IMNMX", "IABS", "I2FP", "LEA", "LOP", "LOP3", "PLOP3", "SHF", "SHL", "SHR",
    "ISCADD", "PRMT", "POPC", "R2P", "P2R", "CS2R", "VOTE", "VOTEU", "BMSK", "SGXT",
})  # fmt: skip
MEMORY_PIPE = frozenset({
    "LDGSTS", "LDG", "STG", "LDS", "LDSM", "STS", "STSM", "SHFL", "LDL", "STL", "ATOM", "ATOMG", "RED", "LDTM", "STTM",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its opcode with all modifiers, the rest of its text, and the line of the kernel it is for."""

    predicate: str
    opcode: str
    operands: str
    line: int = 0

    @property
    def name(self) -> str:
        """The opcode by which it is counted; one that never happens takes its turn all the same."""
        base = "NOP" if self.predicate == "@!PT" else self.opcode.split(".")[0]
        if base == "MUFU":
            return "EX2" if ".EX2" in self.opcode else "MUFU"
        if self.opcode.startswith("IMAD.IADD"):
            return "IMAD.IADD"
        if base == "HGMMA":
            shape = re.search(r"64x(\d+)x", self.opcode)
            return f"HGMMA n{shape[1] if shape else '?'}{'' if self.left_in_registers else ' shared'}"
        return base

    @property
    def left_in_registers(self) -> bool:
        """The left operand of a warp-group product comes from registers, not from shared memory."""
        return re.match(r"R\d+, R\d+, ", self.operands) is not None

    @property
    def macs(self) -> int:
        """Multiply-adds of one warp's (or warp group's) product; 0 where the text does not tell."""
        if found := re.match(r"HGMMA\.64x(\d+)x(\d+)", self.opcode):
            return 64 * int(found[1]) * int(found[2])
        if found := re.match(r"HMMA\.(168|1688|16816)\b", self.opcode):
            return {"168": 16 * 8 * 8, "1688": 16 * 8 * 8, "16816": 16 * 8 * 16}[found[1]]
        return 0

    @property
    def copied_bytes(self) -> int:
        """Bytes that a warp moves from global memory."""
        if self.predicate == "@!PT" or not self.opcode.startswith(("LDG.", "LDGSTS")):
            return 0
        return 32 * (16 if ".128" in self.opcode else 8 if ".64" in self.opcode else 4)


@dataclass(frozen=True, slots=True)
class Block:
    """Instructions that run one after the other, and the blocks that may come next."""

    instructions: tuple[Instruction, ...]
    successors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A natural loop: the number of its first block, and of all its blocks, which are in the order of the code."""

    head: int
    blocks: frozenset[int]


@dataclass(frozen=True, slots=True)
class LoopReport:
    """What an iteration of a loop does.

    Args:
        counts: instructions of a warp by name.
        warps: that run it.
        pairs: of query and key that a program computes; 0 where that is not told.
        copied_bytes: that a program loads from global memory, without those that the copy engine (TMA) moves.
        waits: copies that may still be under way where it waits for them (DEPBAR), in the order of the code.
        line: of the kernel's source, of its first product.
        masked: it tests every pair; where nobody knows, it is one that selects once per pair at least.
    """

    counts: dict[str, int]
    warps: int
    pairs: int = 0
    copied_bytes: int = 0
    waits: tuple[int, ...] = ()
    line: int = 0
    masked: bool = False

    def count(self, *names: str) -> int:
        """Instructions with these names; of HGMMA all shapes."""
        return sum(n for x, n in self.counts.items() if x.split()[0] in names)

    def per_tile(self, *names: str) -> float:
        """Warp instructions with these names per 64 x 64 pairs (of all names: without any)."""
        count = self.count(*names) if names else self.instructions
        return count * self.warps * 4096 / self.pairs if self.pairs else 0.0

    @property
    def instructions(self) -> int:
        return sum(self.counts.values())

    @property
    def hgmma(self) -> int:
        """Warp-group products (sm_90)."""
        return self.count("HGMMA")

    @property
    def hmma(self) -> int:
        """Warp products (sm_80)."""
        return self.count("HMMA")

    @property
    def spills(self) -> int:
        """Loads and stores of local memory."""
        return self.count(*LOCAL)

    @property
    def product_widths(self) -> tuple[int, ...]:
        """The n of its warp-group products 64 x n x 16."""
        return tuple(sorted({int(x.split()[1][1:]) for x in self.counts if x.startswith("HGMMA")}))

    @property
    def prefetches(self) -> bool:
        """What it computes with was asked for an iteration ago or earlier."""
        return self.count("UTMALDG") > 0 or (bool(self.waits) and min(self.waits) > 0)

    @property
    def wait(self) -> str:
        """What its copies are waited for with."""
        if self.count("UTMALDG"):
            return "mbarrier"
        return f"DEPBAR {min(self.waits)}" if self.waits else "-"


@dataclass(frozen=True, slots=True)
class Code:
    """The machine code of a kernel."""

    blocks: tuple[Block, ...]
    registers: int
    stack_bytes: int

    @property
    def loops(self) -> list[Loop]:
        """The natural loops, one per head, in the order of the code."""
        return loops_of(self.blocks)

    def instructions(self, loop: Loop | None = None) -> Iterator[Instruction]:
        """Those of a loop, or of all the code."""
        for k in sorted(loop.blocks) if loop else range(len(self.blocks)):
            yield from self.blocks[k].instructions

    def _spins(self, k: int) -> bool:
        """A block only asks again whether a barrier is open, or goes back after that."""
        block = self.blocks[k]
        names = {x.name for x in block.instructions}
        return names <= {"SYNCS", "BRA", "NANOSLEEP"} and (k in block.successors or names == {"BRA"})

    def counts(self) -> Counter[str]:
        """How many instructions of which name."""
        return Counter(x.name for x in self.instructions())

    def local_in_loops(self) -> int:
        """Loads and stores of local memory that stand in a loop."""
        inside = {k for loop in self.loops for k in loop.blocks}
        return sum(x.name in LOCAL for k in inside for x in self.blocks[k].instructions)

    def working_loops(self) -> list[Loop]:
        """The innermost of the loops that do the work.

        Those are the ones with products of the tensor cores. Where warps are specialised, the loops of those that only
        exponentiate or copy count as well; in code without any of these, all loops that hold more than a wait.
        """
        names = {loop.head: {x.name.split()[0] for x in self.instructions(loop)} for loop in self.loops}
        found = [x for x in self.loops if names[x.head] & WORK]
        found = found or [x for x in self.loops if len(names[x.head]) > 4]
        return [x for x in found if not any(y.blocks < x.blocks for y in found)]

    def report(self, loop: Loop, warps: int, pairs: int = 0, macs_per_pair: int = 0) -> LoopReport:
        """What an iteration does, of a program of so many warps.

        Args:
            loop: one of the code.
            warps: of a program.
            pairs: that a program computes per iteration, where the products do not tell.
            macs_per_pair: multiply-adds of each pair; 0 when `pairs` is to be believed.
        """
        inside = [x for k in sorted(loop.blocks) if not self._spins(k) for x in self.blocks[k].instructions]
        macs = sum(x.macs for x in inside) * warps
        products = [x for x in inside if x.name.startswith(TENSOR)]
        if products and products[0].name.startswith("HGMMA"):
            macs //= 4  # one for the four warps of a group
        waits = tuple(int(x.operands.split(",")[1], 16) for x in inside if x.opcode.startswith("DEPBAR"))
        found = LoopReport(
            counts=dict(sorted(Counter(x.name for x in inside).items())),
            warps=warps,
            pairs=macs // macs_per_pair if macs and macs_per_pair else pairs,
            copied_bytes=sum(x.copied_bytes for x in inside) * warps,
            waits=waits,
            line=(products or inside)[0].line,
        )
        return replace(found, masked=found.per_tile(*GROUPS["FSEL+SEL"]) >= SELECTED)


def read(cubin: bytes) -> Code:
    """The machine code in a cubin."""
    text, used = disassemble(cubin)
    return Code(tuple(blocks_of(text)), **used)


def disassemble(cubin: bytes) -> tuple[str, dict[str, int]]:
    """The text of a cubin, and what it uses: registers per thread, bytes of stack."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)

        def run(tool: str, *flags: str) -> str:
            command = [str(tools / tool), *flags, str(path)]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        usage = run("cuobjdump", "-res-usage")
        text = run("nvdisasm", "-gi", "-c")
    registers, stack = (max(map(int, re.findall(rf"{x}:(\d+)", usage)), default=0) for x in ("REG", "STACK"))
    return text, {"registers": registers, "stack_bytes": stack}


def blocks_of(text: str) -> list[Block]:
    """The control flow of the first function in a text."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    starts = {0}
    line = 0
    for entry in text.splitlines():
        if entry.startswith("\t.section") and code:
            break
        if found := _LABEL.match(entry):
            labels[found[1]] = len(code)
            starts.add(len(code))
        elif found := _LINE.match(entry):  # of a chain of inlined calls, the last one is in the kernel
            line = int(found[1])
        elif found := _INSTRUCTION.match(entry):
            code.append(Instruction(found[2] or "", found[3], found[4].strip(), line))
            if _leaves(code[-1]):
                starts.add(len(code))
    bounds = sorted(x for x in starts if x < len(code))
    number = {start: k for k, start in enumerate(bounds)}
    blocks = []
    for start, stop in zip(bounds, [*bounds[1:], len(code)], strict=True):
        last = code[stop - 1]
        follow = [stop] if not _leaves(last) or _may_stay(last) else []
        targets = [labels[x] for x in _TARGET.findall(last.operands) if x in labels] if _leaves(last) else []
        after = dict.fromkeys(number[x] for x in (*targets, *follow) if x in number)
        blocks.append(Block(tuple(code[start:stop]), tuple(after)))
    return blocks


def _leaves(x: Instruction) -> bool:
    return x.opcode.split(".")[0] in ("BRA", "BRX", "JMP", "EXIT", "RET", "CALL", "KILL")


def _may_stay(x: Instruction) -> bool:
    """Whether the next instruction can follow: a condition stands before the opcode or before the target."""
    conditional = x.predicate not in ("", "@PT") or re.match(r"!?U?[PR]\w+,", x.operands) is not None
    return conditional or x.opcode.startswith("CALL")


def loops_of(blocks: Sequence[Block]) -> list[Loop]:
    """The natural loops, one per head, in the order of the code."""
    before: list[list[int]] = [[] for _ in blocks]
    for k, block in enumerate(blocks):
        for x in block.successors:
            before[x].append(k)
    dominators = _dominators(blocks, before)
    bodies: dict[int, set[int]] = {}
    for k, block in enumerate(blocks):
        for head in block.successors:
            if head in dominators[k]:
                body = bodies.setdefault(head, {head})
                waiting = [k]
                while waiting:
                    if (x := waiting.pop()) not in body:
                        body.add(x)
                        waiting += before[x]
    return [Loop(head, frozenset(body)) for head, body in sorted(bodies.items())]


def _dominators(blocks: Sequence[Block], before: Sequence[Sequence[int]]) -> list[set[int]]:
    """For every block those that every way from the first block to it goes through; none where no way leads."""
    reached, waiting = {0}, [0]
    while waiting:
        for x in blocks[waiting.pop()].successors:
            if x not in reached:
                reached.add(x)
                waiting.append(x)
    found = [set(reached) if k in reached else set() for k in range(len(blocks))]
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for k in sorted(reached - {0}):
            ways = [found[x] for x in before[k] if x in reached]
            new = {k} | set.intersection(*ways)
            changed |= new != found[k]
            found[k] = new
    return found


def amd_metadata(text: str) -> tuple[int | None, ...]:
    """Registers per thread and bytes of stack, from the metadata below an AMD GPU's program."""
    found = (re.search(rf"\.{entry}:\s+(\d+)", text) for entry in ("vgpr_count", "private_segment_fixed_size"))
    return tuple(int(x[1]) if x else None for x in found)


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What the programs that run on a multiprocessor at a time share."""

    warps: int
    shared_bytes: int
    blocks: int = 32
    registers: int = 65536


MULTIPROCESSORS = {  # by compute capability
    80: Multiprocessor(64, 164 << 10), 86: Multiprocessor(48, 100 << 10, 16), 89: Multiprocessor(48, 100 << 10, 24),
    90: Multiprocessor(64, 228 << 10), 100: Multiprocessor(64, 228 << 10), 120: Multiprocessor(48, 100 << 10, 24),
}  # fmt: skip


def programs_per_multiprocessor(capability: int, registers: int, warps: int, shared_bytes: int) -> int | None:
    """How many programs fit on a multiprocessor at a time; None for one that is not in the table."""
    has = MULTIPROCESSORS.get(capability)
    if has is None:
        return None
    per_warp = -(-registers // 8) * 8 * 32  # registers are given out in eights per thread
    shared = -(-shared_bytes // 128) * 128 + 1024  # the system keeps 1 KiB per block
    return min(has.registers // (per_warp * warps), has.warps // warps, has.shared_bytes // shared, has.blocks)
