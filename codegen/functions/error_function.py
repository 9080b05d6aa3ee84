"""erf by pieces where a register holds a table of 16 numbers, else as 1 - exp(-a * g(a)), a = |x|.

In pieces: [0, 4] is cut into 16 of equal width, each with a polynomial of degree 5 in the distance from its middle; an
instruction collects each coefficient from a register (`vpermps`). The exponential form takes twice the operations; it
keeps one polynomial g for the whole range: g(a) = -log(erfc(a)) / a is smooth, and an error of g enters the result times
a * e^-t / (1 - e^-t), t = a * g(a): fully near 0 and hardly where erf saturates, which is the weight of the fit. expm1
keeps the relative accuracy near 0.
Coefficients: `tools/minimax.py`.
"""

from __future__ import annotations

from tvm import tirx

from .exponential import expm1_near
from .lanes import Bind, at_most, bits, fma, format_of, horner, looked_up, magnitude, number, with_sign

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

WIDTH = 17 / 64
"""Of a piece: its multiples are exact."""

PIECES = (  # erf(middle + r), r within half a width, each relative error at most 5.5e-08
    (0.0, 1.128379225730896, -5.666624474542914e-06, -0.3759814202785492, -0.0013134502805769444, 0.11629073321819305),
    (0.2928232252597809, 1.0515083074569702, -0.2792976498603821, -0.3010471761226654, 0.1318877935409546, 0.07616924494504929),
    (
        0.5475284457206726,
        0.8509140014648438,
        -0.45204150676727295,
        -0.12356068193912506,
        0.1823054999113083,
        -0.0007405066280625761,
    ),
    (0.7402369976043701, 0.5979623794555664, -0.47650146484375, 0.05380534753203392, 0.13701678812503815, -0.05889501795172691),
    (
        0.867058277130127,
        0.36490291357040405,
        -0.3877125084400177,
        0.15298673510551453,
        0.04829954728484154,
        -0.06576549261808395,
    ),
    (
        0.9396533370018005,
        0.19337308406829834,
        -0.25682297348976135,
        0.16294224560260773,
        -0.022211330011487007,
        -0.037047844380140305,
    ),
    (
        0.975797712802887,
        0.08898771554231644,
        -0.14182455837726593,
        0.12102881819009781,
        -0.04885951429605484,
        -0.005217264872044325,
    ),
    (
        0.991450309753418,
        0.035561442375183105,
        -0.06612757593393326,
        0.07011186331510544,
        -0.04280342534184456,
        0.0108744902536273,
    ),
    (
        0.9973459839820862,
        0.012340819463133812,
        -0.02622702531516552,
        0.0330379419028759,
        -0.026268018409609795,
        0.01243603229522705,
    ),
    (
        0.9992774128913879,
        0.0037189810536801815,
        -0.008895114995539188,
        0.012929768301546574,
        -0.012348193675279617,
        0.008074518293142319,
    ),
    (
        0.9998276829719543,
        0.0009732387261465192,
        -0.0025816953275352716,
        0.0042532398365437984,
        -0.00498350802809,
        0.003834204515442252,
    ),
    (
        0.9999640583992004,
        0.00022117217304185033,
        -0.0006452309316955507,
        0.0011849154252558947,
        -0.0015796009683981538,
        0.0014329724945127964,
    ),
    (
        0.9999934434890747,
        4.364730921224691e-05,
        -0.00013763589959125966,
        0.0002810121513903141,
        -0.00047558790538460016,
        0.0004353242402430624,
    ),
    (
        0.9999989867210388,
        7.479983651137445e-06,
        -3.242109960410744e-05,
        5.694033461622894e-05,
        0.0002072273928206414,
        0.00010944427049253136,
    ),
    (
        0.9999998807907104,
        1.113167286348471e-06,
        -9.9268208941794e-06,
        9.88427382253576e-06,
        0.0002448994491714984,
        2.3025317204883322e-05,
    ),
    (1.0, 1.7645335859128863e-08, -5.562420847127214e-05, -0.0014191560912877321, -0.012956898659467697, -0.039726633578538895),
)
"""Lowest power first. The first piece is erf(r) / r times r, for the relative accuracy near 0."""


def erf(x: tirx.Expr, bind: Bind) -> tirx.Expr:
    """The error function: odd, -0 kept, NaN stays."""
    x = bind(x)
    binary = format_of(x)
    a = bind(at_most(magnitude(x), SATURATION[binary.name]))
    by_pieces = _by_pieces(a, bind)
    if by_pieces is not None:
        return with_sign(by_pieces, x)
    t = bind(-(a * horner(ERF[binary.name], a)))
    return with_sign(expm1_near(t, bind), x)


def _by_pieces(a: tirx.Expr, bind: Bind) -> tirx.Expr | None:
    """erf(a) for 0 <= a <= 4, None where no instruction reads the tables."""
    shifter = number(format_of(a).shifter, a)
    shifted = bind(fma(a, number(1 / WIDTH, a), shifter))
    columns = [looked_up(column, bits(shifted)) for column in zip(*PIECES, strict=True)]
    if columns[0] is None:
        return None
    r = bind(fma(bind(shifted - shifter), number(-WIDTH, a), a))
    *rest, result = columns
    for coefficient in reversed(rest):
        result = fma(result, r, coefficient)
    return result
