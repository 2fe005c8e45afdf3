"""Layouts of blocks that DeepSpeed makes."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from mask_functions import Made


def deepspeed_module() -> Any:
    """deepspeed.ops.sparse_attention.sparsity_config alone: the package around it builds operators when imported."""
    if (spec := find_spec("deepspeed")) is None or not spec.origin:
        raise ModuleNotFoundError("No module named 'deepspeed'")
    path = Path(spec.origin).parent / "ops" / "sparse_attention" / "sparsity_config.py"
    found = spec_from_file_location("sparsity_config", path)
    assert found is not None and found.loader is not None
    module = module_from_spec(found)
    sys.modules["sparsity_config"] = module
    found.loader.exec_module(module)
    return module


def deepspeed() -> Iterator[Made]:
    lib = deepspeed_module()

    def made(written: str, layout: Any, B: int, **sizes: Any) -> Made:
        return Made(written, np.kron(layout.numpy(), np.ones((B, B), dtype=int)) > 0, dict(B=B, **sizes))

    local = "LocalSlidingWindowSparsityConfig(block=B, num_sliding_window_blocks=w"
    longer = "BSLongformerSparsityConfig(block=B, num_sliding_window_blocks=w"
    big = "BigBirdSparsityConfig(block=B, num_sliding_window_blocks=w, num_global_blocks=g"
    one_way, both_ways = dict(attention="unidirectional"), dict(attention="bidirectional")
    said, unsaid = ', attention="unidirectional"', ', attention="bidirectional"'
    for B, blocks in product((1, 3), (1, 2, 3, 5, 8, 13, 17)):
        n = B * blocks
        yield made("DenseSparsityConfig(block=B)", lib.DenseSparsityConfig(1, B).make_layout(n)[0], B)
        for w in (w for w in (1, 2, 3, 5, 8) if w <= blocks):
            for about, options in (("", one_way), (unsaid, both_ways)):
                layout = lib.LocalSlidingWindowSparsityConfig(1, B, w, **options).make_layout(n)[0]
                yield made(f"{local}{about})", layout, B, w=w)
            for about, options in (("", both_ways), (said, one_way)):
                layout = lib.BSLongformerSparsityConfig(1, B, num_sliding_window_blocks=w, **options).make_layout(n)[0]
                yield made(f"{longer}{about})", layout, B, w=w)
                for g in (g for g in (1, 2) if g <= blocks):
                    config = lib.BigBirdSparsityConfig(
                        2, B, True, num_sliding_window_blocks=w, num_global_blocks=g, **options
                    )
                    for layout, drawn in _drawn(config, n):
                        yield made(f"{big}{about})", layout, B, w=w, g=g, drawn=drawn)
            for g, e in ((0, 2), (1, 3), (4, 9)):
                layout = lib.BSLongformerSparsityConfig(
                    1, B, num_sliding_window_blocks=w, global_block_indices=[g], global_block_end_indices=[e]
                ).make_layout(n)[0]
                written = f"{longer}, global_block_indices=[g], global_block_end_indices=[e])"
                yield made(written, layout, B, w=w, g=g, e=e)
        yield from (made(written, layout, B, **sizes) for written, layout, sizes in _fixed(lib, B, n))
        yield from (made(written, layout, B, **sizes) for written, layout, sizes in _variable(lib, B, n))


def _drawn(config: Any, n: int) -> Iterator[tuple[Any, list[tuple[int, int]]]]:
    """The layout of each head and the blocks drawn for it, which the library draws first."""
    random.seed(n)
    layouts = config.make_layout(n)
    random.seed(n)
    for head, layout in enumerate(layouts):
        empty = config.setup_layout(n)
        yield layout, [(int(q), int(k)) for q, k in np.argwhere(config.set_random_layout(head, empty)[head].numpy())]


def _fixed(lib: Any, B: int, n: int) -> Iterator[tuple[str, Any, dict[str, int]]]:
    name, head = "FixedSparsityConfig(block=B, num_local_blocks=l", "p = l - (1 + head % patterns) * g"
    for l in (1, 2, 4, 6):
        for about, options in (("", "bidirectional"), (', attention="unidirectional"', "unidirectional")):
            layout = lib.FixedSparsityConfig(1, B, False, l, attention=options).make_layout(n)[0]
            yield f"{name}{about})", layout, {"l": l}
        for g in (g for g in (1, 2, 3) if l % g == 0 and g <= n // B):
            for about, options in (
                ("", {}), (', attention="unidirectional"', dict(attention="unidirectional")),
                (", horizontal_global_attention=True", dict(horizontal_global_attention=True)),
            ):  # fmt: skip
                patterns = l // g
                config = lib.FixedSparsityConfig(
                    patterns + 1, B, True, l, g, num_different_global_patterns=patterns, **options
                )
                for h, layout in enumerate(config.make_layout(n)):
                    sizes = dict(l=l, g=g, p=l - (1 + h % patterns) * g)
                    yield f"{name}, num_global_blocks=g{about}), {head}", layout, sizes


def _variable(lib: Any, B: int, n: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    name = "VariableSparsityConfig(block=B, local_window_blocks=[a, b], global_block_indices=[g]"
    for a, b, g in product((1, 3, 7), (1, 2, 4), (0, 2, 9)):
        sizes = dict(a=a, b=b, g=g, e=g + 2)
        options: dict[str, Any] = dict(local_window_blocks=[a, b], global_block_indices=[g])
        yield f"{name})", lib.VariableSparsityConfig(1, B, **options).make_layout(n)[0], sizes
        if n // B >= 2:
            both = lib.VariableSparsityConfig(2, B, True, 2, **options, horizontal_global_attention=True)
            for layout, drawn in _drawn(both, n):
                written = f"{name}, num_random_blocks=r, horizontal_global_attention=True)"
                yield written, layout, dict(**sizes, drawn=drawn)
        options |= dict(global_block_end_indices=[g + 2], attention="unidirectional")
        written = f'{name}, global_block_end_indices=[e], attention="unidirectional")'
        yield written, lib.VariableSparsityConfig(1, B, **options).make_layout(n)[0], sizes
