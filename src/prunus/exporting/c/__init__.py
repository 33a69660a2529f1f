"""A sparse model as C for microcontrollers: one .c and one .h, no malloc, nothing but math.h.

Numbers are computed one sample at a time. The weights that are not zero lie in constant arrays, stored as takes the
fewest bytes; what is computed lies in one static array, whose parts are used again.
"""

from __future__ import annotations

from prunus.exporting.c.export import CFacts, c_cost, translate, write_c

__all__ = ["CFacts", "c_cost", "translate", "write_c"]
