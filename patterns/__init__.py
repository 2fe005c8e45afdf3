"""The library of published patterns, one per module. Installed as `pidsl.patterns`."""

if __name__ != "pidsl.patterns":  # from a checkout, `import patterns` would make a second copy of every class
    raise ImportError(f"this package is pidsl.patterns, not {__name__}: write `import pidsl.patterns`")

from pidsl.patterns.dense import dense_attention
from pidsl.patterns.pi import pi_attention, pi_branches, pi_gate, pi_layers
from pidsl.patterns.ring import ring_attention

__all__ = ["dense_attention", "pi_attention", "pi_branches", "pi_gate", "pi_layers", "ring_attention"]
