"""The operators that grown kernels use, by the kind of what they give: `i32`, `i64`, `f32`, `f64`, `v128`."""

from __future__ import annotations

from typing import Final

#: What each operator takes, by kind: `result < operands : names`; a slash stands before a lane.
_TABLE: Final = """
i32 < i32           : clz ctz popcnt eqz extend8_s extend16_s
i32 < i32 i32       : add sub mul and or xor shl shr_s shr_u rotl rotr eq ne lt_s gt_u le_s ge_u
i32 < i64           : i32.wrap_i64 i64.eqz
i32 < i64 i64       : i64.eq i64.lt_s i64.gt_u
i32 < f32           : i32.trunc_sat_f32_s i32.reinterpret_f32
i32 < f32 f32       : f32.eq f32.ne f32.lt f32.ge
i32 < f64           : i32.trunc_sat_f64_u
i32 < f64 f64       : f64.lt f64.gt f64.ne
i32 < v128          : v128.any_true i16x8.bitmask i32x4.all_true i32x4.extract_lane/1 i8x16.extract_lane_u/9
i64 < i64           : clz ctz popcnt extend8_s extend16_s extend32_s
i64 < i64 i64       : add sub mul and or xor shl shr_s shr_u rotl rotr
i64 < i32           : i64.extend_i32_s i64.extend_i32_u
i64 < f32           : i64.trunc_sat_f32_u
i64 < f64           : i64.trunc_sat_f64_s i64.reinterpret_f64
i64 < v128          : i64x2.extract_lane/1
f32 < f32           : abs neg sqrt ceil floor trunc nearest
f32 < f32 f32       : add sub mul div min max copysign
f32 < i32           : f32.convert_i32_s f32.convert_i32_u f32.reinterpret_i32
f32 < i64           : f32.convert_i64_s f32.convert_i64_u
f32 < f64           : f32.demote_f64
f32 < v128          : f32x4.extract_lane/3
f64 < f64           : abs neg sqrt ceil floor trunc nearest
f64 < f64 f64       : add sub mul div min max copysign
f64 < i32           : f64.convert_i32_s f64.convert_i32_u
f64 < i64           : f64.convert_i64_s f64.convert_i64_u f64.reinterpret_i64
f64 < f32           : f64.promote_f32
f64 < v128          : f64x2.extract_lane/0
v128 < i32          : i8x16.splat i16x8.splat i32x4.splat
v128 < i64          : i64x2.splat
v128 < f32          : f32x4.splat
v128 < f64          : f64x2.splat
v128 < v128         : v128.not i8x16.popcnt i32x4.abs f32x4.sqrt f32x4.nearest f64x2.neg f64x2.ceil
v128 < v128         : i32x4.trunc_sat_f32x4_s f32x4.convert_i32x4_u f32x4.demote_f64x2_zero
v128 < v128         : f64x2.promote_low_f32x4 i32x4.trunc_sat_f64x2_u_zero i16x8.extend_low_i8x16_s
v128 < v128 i32     : i64x2.shl i16x8.shr_s i32x4.replace_lane/2
v128 < v128 f32     : f32x4.replace_lane/2
v128 < v128 v128    : v128.and v128.andnot v128.xor i8x16.swizzle i8x16.sub_sat_u i16x8.mul
v128 < v128 v128    : i32x4.add i32x4.dot_i16x8_s i64x2.mul i8x16.narrow_i16x8_s i8x16.eq f32x4.lt
v128 < v128 v128    : f32x4.add f32x4.mul f32x4.div f32x4.min f32x4.pmax f64x2.add f64x2.div f64x2.max
v128 < v128 v128 v128 : v128.bitselect
"""


def _read(table: str) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    operators: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for line in table.strip().splitlines():
        kinds, names = line.split(" : ")
        result, operands = kinds.split(" < ")
        for name in names.split():
            whole = name if "." in name else f"{result}.{name}"
            operators.setdefault(result, []).append((whole.replace("/", " "), tuple(operands.split())))
    return operators


#: The operators that give a value of a kind: name, and the kinds of its operands. None of them traps.
OPERATORS: Final = _read(_TABLE)
#: Those that trap on some values, by the kind that they take and give.
DIVISIONS: Final = ("div_s", "div_u", "rem_s", "rem_u")
#: Those that trap on what does not fit, NaN included: name, and the kind of the operand.
TRUNCATIONS: Final = {
    "i32": (("i32.trunc_f32_s", "f32"), ("i32.trunc_f64_u", "f64")),
    "i64": (("i64.trunc_f32_u", "f32"), ("i64.trunc_f64_s", "f64")),
}
LOADS: Final = {
    "i32": ("load", "load8_s", "load16_u"),
    "i64": ("load", "load8_u", "load32_s"),
    "f32": ("load",),
    "f64": ("load",),
    "v128": ("load", "load8x8_s", "load32_splat", "load64_zero"),
}
STORES: Final = {
    "i32": ("store", "store8", "store16"),
    "i64": ("store", "store32"),
    "f32": ("store",),
    "f64": ("store",),
    "v128": ("store",),
}
