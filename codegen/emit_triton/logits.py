"""What a score does to logits and weights, as device functions.

    score(softcap=50.0, alibi=True)  ->  def _score(logits, i, j, slope, by_lag):
                                             logits, rate = _softcap(logits, 50.0 * 1.4426950408889634)
                                             logits -= slope * tl.abs(i - j).to(tl.float32)
                                             return logits, rate

Logits are base 2, as everywhere in the kernels, and a pair has positions i = r + offset and j (j + key_offset where
keys are moved), whatever layout rows and keys come from. Sinks and temperature are numbers of a head, which the kernels
know, and so is whether weights are softplus(s); the gradients of the numbers follow from lse, out and dQ. Those of
slopes and bias are summed by a kernel of their own, which is launched only when they are wanted.
"""

from __future__ import annotations

from pidsl.codegen.emit_triton.lines import function
from pidsl.language.score import Score, threshold

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453


def score_functions(score: Score) -> tuple[dict[str, str], dict[str, str]]:
    """The fields of `Kind` that a score sets, and its functions by name."""
    fields: dict[str, str] = {}
    functions: dict[str, str] = {}
    if score.bias is not None:
        low, high = score.bias
        entry = f"tl.minimum(tl.maximum(i - j, {low}), {high}) {_signed(-low) if low else ''}"
        doc = f"Where the pair's lag is in the table of lags {low} .. {high}."
        functions["_entry"] = function("_entry(i, j)", doc, f"return {entry.strip()}")
        width = 1 << max(0, score.table - 1).bit_length()
        fields |= {"ENTRY": "_entry", "TABLE": str(score.table), "WIDTH": str(width)}
    elif score.alibi:
        fields["WIDTH"] = "1"
    changed = score.softcap is not None or score.alibi or score.bias is not None or score.temperature
    if changed or score.normalizer != "softmax":
        doc = "The logits, base 2, of queries at i and keys at j after the score, and their derivative by those before."
        lines, rate = [], "1.0"
        if score.length_scaled:
            lines.append(f"length = tl.log2(tl.maximum(i + 1, 1).to(tl.float32)) * {LN2}")
            lines.append("logits *= length")
            rate = "length"
        if score.softcap is not None:
            lines.append(f"logits, rate = _softcap(logits, {score.softcap!r} * {LOG2E})")
            rate = "rate * length" if score.length_scaled else "rate"
        if score.alibi:
            lines.append("logits -= slope * tl.abs(i - j).to(tl.float32)")
        if score.bias is not None:
            lines.append(f"logits += tl.load(by_lag + _entry(i, j)) * {LOG2E}")
        functions["_score"] = function("_score(logits, i, j, slope, by_lag)", doc, *lines, f"return logits, {rate}")
        fields["SCORE"] = "_score"
    if score.softplus:
        fields["SOFTPLUS"] = "True"
    if p := score.dropout:
        doc = f"Factors of the weights: 0 with probability {p!r}, else 1 / (1 - {p!r})."
        bits = "bits = _mix(_mix(stream + i.to(tl.uint32)) + _mix(j.to(tl.uint32) + 0x9E3779B9))"
        kept = f"return tl.where(bits >= {threshold(p)}, {1 / (1 - p)!r}, 0.0)"
        functions["_dropout"] = function("_dropout(stream, i, j)", doc, bits, kept)
        fields["DROPOUT"] = "_dropout"
    return fields, functions


def _signed(number: int) -> str:
    """`+ 3`, `- 3`."""
    return f"- {-number}" if number < 0 else f"+ {number}"
