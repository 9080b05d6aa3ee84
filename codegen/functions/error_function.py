"""erf as 1 - exp(-a * g(a)), a = |x|, with one polynomial g for the whole range.

g(a) = -log(erfc(a)) / a is smooth, and an error of g enters the result times a * e^-t / (1 - e^-t), t = a * g(a): fully
near 0 and hardly where erf saturates, which is the weight of the fit. expm1 keeps the relative accuracy near 0.
Coefficients: `tools/minimax.py`.
"""

from __future__ import annotations

from tvm import tirx

from .exponential import expm1_near
from .lanes import Bind, at_most, format_of, horner, magnitude, with_sign

SATURATION = {"float32": 4.0, "float64": 6.0}
"""erf rounds to 1 before."""

ERF = {
    "float32": (  # g within 5.19e-08
        1.128379225730896,
        0.6366175413131714,
        0.10279656201601028,
        -0.01924147456884384,
        7.02532270224765e-05,
        0.0013056218158453703,
        -0.00028029907844029367,
        -9.69676038948819e-05,
        6.96142014930956e-05,
        -1.593236629560124e-05,
        1.3524459063773975e-06,
    ),
    "float64": (  # g within 1.36e-17
        1.1283791670955126,
        0.6366197723675816,
        0.10277260330194225,
        -0.019128447009163104,
        -0.00020919463797564722,
        0.0016962059055794898,
        -0.0005901228627997692,
        2.5868014918933067e-05,
        6.452232985169269e-05,
        -2.9789934879143777e-05,
        3.5164303939082056e-06,
        2.6948852233683065e-06,
        -1.6011270560733066e-06,
        2.2730757414905533e-07,
        2.0150345810324468e-07,
        -1.6877503037874465e-07,
        7.19523135086661e-08,
        -1.9892317977587488e-08,
        3.140042915410558e-09,
        1.1589384004043969e-10,
        -2.490966373051151e-10,
        8.825301041048721e-11,
        -1.9831946989437586e-11,
        3.21189000810364e-12,
        -3.8363779874738886e-13,
        3.324801712369084e-14,
        -1.9876789503328707e-15,
        7.351994736521192e-17,
        -1.2697271416725563e-18,
    ),
}


def erf(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The error function: odd, -0 kept, NaN stays."""
    x = bind(x)
    binary = format_of(x)
    a = bind(at_most(magnitude(x), SATURATION[binary.name]))
    t = bind(-(a * horner(ERF[binary.name], a)))
    return with_sign(expm1_near(t, bind), x)
