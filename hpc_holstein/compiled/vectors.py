"""Instructions on the widest vectors of this processor, as LLVM code that compiled functions are put together from."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils


def _vector_bytes() -> int:
    """Bytes of a vector register; 0 where multiplying and adding is not one instruction."""
    has = binding.get_host_cpu_features()
    if has.get("avx512f"):
        return 64
    return 32 if has.get("avx2") and has.get("fma") else 16 if _ARM else 0


_ARM = binding.get_process_triple().startswith(("aarch64", "arm64"))
VECTOR_BYTES = _vector_bytes()


def spread(builder: Any, number: Any, vector: Any) -> Any:
    """The same number in every place of a ``vector`` type."""
    lane = ir.IntType(32)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(lane, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(lane, vector.count), [0] * vector.count))


class Vectors:
    """Instructions on vectors of one type, which ``builder`` puts where it is."""

    def __init__(self, builder: Any, number: Any) -> None:
        self.builder, self.number = builder, number
        self._double = isinstance(number, ir.DoubleType)
        self._bytes = 8 if self._double else 4
        self.lanes = VECTOR_BYTES // self._bytes
        self.type = ir.VectorType(number, self.lanes)
        self._integer = ir.VectorType(ir.IntType(8 * self._bytes), self.lanes)
        self._known: dict[tuple[int, int], tuple[Any, ...]] = {}

    def constant(self, value: float) -> Any:
        """The same number in every place."""
        return ir.Constant(self.type, [value] * self.lanes)

    def _integers(self, value: int) -> Any:
        return ir.Constant(self._integer, [value] * self.lanes)

    def at(self, pointer: Any, index: Any) -> Any:
        """Pointer to the number ``index`` further."""
        return self.builder.gep(pointer, [ir.Constant(ir.IntType(64), index) if isinstance(index, int) else index])

    def load(self, pointer: Any, index: Any) -> Any:
        """The numbers from ``index`` on."""
        place = self.builder.bitcast(self.at(pointer, index), self.type.as_pointer())
        return self.builder.load(place, align=self._bytes)

    def store(self, pointer: Any, index: Any, value: Any) -> None:
        """Write the numbers from ``index`` on, which :meth:`load` reads."""
        self.builder.store(value, self.builder.bitcast(self.at(pointer, index), self.type.as_pointer()), align=self._bytes)

    def spread(self, pointer: Any, index: Any) -> Any:
        """One number of an array in every place."""
        return spread(self.builder, self.builder.load(self.at(pointer, index)), self.type)

    def total(self, start: Any) -> Any:
        """A variable of a loop."""
        return cgutils.alloca_once_value(self.builder, start)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """``x y + z``, rounded once."""
        name = f"llvm.fma.v{self.lanes}f{8 * self._bytes}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(self.type, [self.type] * 3), name)
        return self.builder.call(function, [x, y, z])

    def held(self, x: Any) -> Any:
        """``x``, behind which later loads stay: otherwise compilers load all weights first, and have no registers for them."""
        register = "w" if _ARM else "v"
        kind = ir.FunctionType(self.type, [self.type])
        return self.builder.asm(kind, "", f"={register},0,~{{memory}}", [x], side_effect=True)

    def both(self, x: Any, y: Any) -> tuple[Any, Any]:
        """``x + y`` and ``x - y``, made once for the same two; None where ``x`` is ``y``."""
        if (id(x), id(y)) not in self._known:
            self._known[id(x), id(y)] = self.builder.fadd(x, y), None if x is y else self.builder.fsub(x, y), x, y
        return self._known[id(x), id(y)][:2]

    def plus(self, x: Any, y: Any, factor: float) -> Any:
        """``x + factor y``."""
        if abs(factor) == 1:
            return self.builder.fadd(x, y) if factor == 1 else self.builder.fsub(x, y)
        return self.fma(y, self.constant(factor), x)

    def times(self, x: Any, factor: float) -> Any:
        """``factor x``."""
        return self.builder.fneg(x) if factor == -1 else self.builder.fmul(x, self.constant(factor))

    def no_more_than(self, limit: float, x: Any) -> Any:
        """The smaller one; NaN stays."""
        bound = self.constant(limit)
        return self.builder.select(self.builder.fcmp_ordered("<", bound, x), bound, x)

    def no_less_than(self, limit: float, x: Any) -> Any:
        """The larger one; NaN stays."""
        bound = self.constant(limit)
        return self.builder.select(self.builder.fcmp_ordered(">", bound, x), bound, x)

    def decay(self, several: list[Any]) -> list[Any]:
        """``exp(-x) = 2^n exp(-r)``, ``|r| <= ln 2 / 2``, where that is a normal number; in step for several vectors.

        Right to round-off: the error of the polynomial is 1e-7 or 2e-16.  Adding 1.5 2^bits rounds to an integer, whose bits
        are the last ones.
        """
        bits, degree = (52, 10) if self._double else (23, 5)
        build, magic = self.builder, self.constant(1.5 * 2.0**bits)
        shifted = [self.fma(x, self.constant(-1 / np.log(2)), magic) for x in several]
        whole = [build.fsub(x, magic) for x in shifted]
        rest = [self.fma(n, self.constant(np.log(2)), x) for n, x in zip(whole, several, strict=True)]
        domain = [-0.5 * np.log(2), 0.5 * np.log(2)]
        series = np.polynomial.Chebyshev.interpolate(lambda r: np.exp(-r), degree, domain).convert(
            kind=np.polynomial.Polynomial
        )
        *lower, highest = (self.constant(float(c)) for c in series.coef)
        results = [highest] * len(several)
        for c in reversed(lower):
            results = [self.fma(result, r, c) for result, r in zip(results, rest, strict=True)]
        exponents = [build.shl(build.bitcast(x, self._integer), self._integers(bits)) for x in shifted]
        patterns = [build.bitcast(result, self._integer) for result in results]
        return [build.bitcast(build.add(x, n), self.type) for x, n in zip(patterns, exponents, strict=True)]

    def tanh(self, x: Any) -> Any:
        """``(1 - E) / (1 + E)``, ``E = exp(-2 |x|)``, with the sign of ``x``: odd to the last bit, right to round-off of 1."""
        build, pattern = self.builder, self.builder.bitcast(x, self._integer)
        sign = build.and_(pattern, self._integers(-(2 ** (8 * self._bytes - 1))))
        size = build.bitcast(build.xor(pattern, sign), self.type)
        (shrunk,) = self.decay([build.fmul(self.no_more_than(40.0, size), self.constant(2.0))])
        ratio = build.fdiv(build.fsub(self.constant(1.0), shrunk), build.fadd(self.constant(1.0), shrunk))
        return build.bitcast(build.or_(build.bitcast(ratio, self._integer), sign), self.type)

    def silu_pairs(self, pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """``silu(a)`` and ``silu(b)`` of each pair, in step.

        With ``A = exp(-a)``, ``B = exp(-b)``: ``a / (1 + A) = a (1 + B) / ((1 + A)(1 + B))``, one division for two.
        """
        build, one, bound = self.builder, self.constant(1.0), 340.0 if self._double else 42.0  # beyond it silu is 0 or a
        bounded = [self.no_less_than(-bound, self.no_more_than(bound, f)) for pair in pairs for f in pair]
        grown = [build.fadd(one, x) for x in self.decay(bounded)]
        shared = [build.fdiv(one, build.fmul(a, b)) for a, b in zip(grown[::2], grown[1::2], strict=True)]
        return [
            (build.fmul(build.fmul(a, other), inverse), build.fmul(build.fmul(b, own), inverse))
            for (a, b), own, other, inverse in zip(pairs, grown[::2], grown[1::2], shared, strict=True)
        ]
