"""The ways of sampling that the cascade benchmark compares.

Scope: settings, as data. Not here: the models (see `trained_models`) and running a row (see `cascades`).
"""

from dataclasses import dataclass, replace
from typing import Any

SMOOTH: dict[str, Any] = {"theta": 1.5, "eta": 1.0, "enlarge": "cubic"}  # guidance as the glyph tables choose it
LATE: dict[str, Any] = {"method": "dilate", "until": 0.5}  # kernels, while the large shapes are drawn
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
THETAS = (1.0, 1.25, 1.5, 1.9)


@dataclass(frozen=True)
class Row:
    """One way of sampling.

    group : 'plain', 'kernels', 'guidance', 'positions', 'cascade', 'guided cascade' or 'ideas'
    strengths : of the stages after the first, each twice the size of the one before; empty samples from noise
    guidance, kernels, positions : options of what is attached above the trained size; None attaches nothing
    cfg, steps : instead of those of the model
    all_phases : guidance by the mean of all phases of the block grid, with the options of `guidance`
    true : true pictures instead of samples
    enlarged : samples of the trained size, enlarged bicubically
    headline : whether `--quick` runs the row
    """

    name: str
    group: str
    strengths: tuple[float, ...] = ()
    guidance: dict[str, Any] | None = None
    kernels: dict[str, Any] | None = None
    positions: dict[str, Any] | None = None
    cfg: float | None = None
    steps: int | None = None
    all_phases: bool = False
    true: bool = False
    enlarged: bool = False
    headline: bool = False


PLAIN = [
    Row("true pictures", "plain", true=True, headline=True),
    Row("trained size, enlarged bicubically", "plain", enlarged=True, headline=True),
    Row("untouched", "plain", headline=True),
]
KERNELS = [
    Row("dilated inner kernels", "kernels", kernels={"method": "dilate"}),
    Row("optimal inner kernels", "kernels", kernels={}),
]
GUIDANCE = [
    *(
        Row(f"guidance {theta:g}", "guidance", guidance={**SMOOTH, "theta": theta}, headline=theta == 1.5)
        for theta in THETAS
    ),
    Row("guidance 1.5 + dilated kernels until 0.5", "guidance", guidance=SMOOTH, kernels=LATE),
]


def _cascades(strengths: tuple[float, ...], headline: float) -> list[Row]:
    """A 2x cascade at each strength, without guidance and with."""
    plain = [Row(f"cascade {r:g}", "cascade", (r,), headline=r == headline) for r in strengths]
    guided = [
        Row(f"cascade {r:g}, guidance 1.5", "guided cascade", (r,), SMOOTH, headline=r == headline) for r in strengths
    ]
    return [*plain, *guided]


def _variants(r: float) -> list[Row]:
    """What else can be turned on a guided 2x cascade of one strength."""
    guided = Row(f"cascade {r:g}", "guided cascade", (r,), SMOOTH)
    return [
        *(
            replace(guided, name=f"cascade {r:g}, guidance {theta:g}", guidance={**SMOOTH, "theta": theta})
            for theta in THETAS
            if theta != SMOOTH["theta"]
        ),
        replace(guided, name=f"cascade {r:g}, guidance 1.5 + dilated kernels", kernels={"method": "dilate"}),
        Row(f"cascade {r:g} + dilated kernels", "cascade", (r,), kernels={"method": "dilate"}),
        *(
            replace(
                guided, name=f"cascade {r:g}, guidance 1.5 in its first {100 * eta:g} %", group="ideas",
                guidance={**SMOOTH, "eta": eta},
            )
            for eta in (0.3, 0.6)
        ),
        *(replace(guided, name=f"cascade {r:g}, guidance 1.5, {n} steps", steps=n) for n in (10, 15, 30)),
        Row("guidance 1.5 at all phases", "ideas", guidance=SMOOTH, all_phases=True),
        replace(guided, name=f"cascade {r:g}, guidance 1.5 at all phases", group="ideas", all_phases=True),
    ]  # fmt: skip


def _other_cfg(cfg: float, r: float) -> list[Row]:
    return [
        Row(f"cfg {cfg:g}: trained size, enlarged bicubically", "plain", enlarged=True, cfg=cfg),
        Row(f"cfg {cfg:g}: guidance 1.5", "guidance", guidance=SMOOTH, cfg=cfg),
        Row(f"cfg {cfg:g}: cascade {r:g}, guidance 1.5", "guided cascade", (r,), SMOOTH, cfg=cfg),
    ]


def _nested() -> list[Row]:
    """Four times the trained size: at once, in one stage, and in two."""
    two = [(0.5, 0.3), (0.5, 0.4), (0.5, 0.5)]
    return [
        Row("nested guidance 1.5", "guidance", guidance=SMOOTH, headline=True),
        Row("cascade 0.5, 0.3", "cascade", (0.5, 0.3)),
        *(
            Row(f"cascade {a:g}, {b:g}, guidance 1.5", "guided cascade", (a, b), SMOOTH, headline=(a, b) == (0.5, 0.3))
            for a, b in two
        ),
    ]


def _positions(r: float) -> list[Row]:
    """Positions of a transformer, with powers of the temperature: alone, with guidance, and in a guided cascade."""
    alone = [("interpolate", 1.0), ("yarn", 0.0), ("yarn", 1.0)]
    guided = [("yarn", 0.0), ("yarn", 1.0), ("interpolate", 0.0), ("dype", 0.0), ("ntk", 0.0)]
    cascaded = [("yarn", 0.0), ("yarn", 0.5), ("yarn", 1.0), ("interpolate", 0.0), ("dype", 0.0), ("ntk", 0.0)]
    ways: list[tuple[str, list[tuple[str, float]], dict[str, Any]]] = [
        ("", alone, {}),
        ("guidance 1.5 + ", guided, {"guidance": SMOOTH}),
        (f"cascade {r:g}, guidance 1.5 + ", cascaded, {"guidance": SMOOTH, "strengths": (r,)}),
    ]
    best = Row(
        f"cascade {r:g}, guidance 1.5 + yarn positions, temperature 0", "positions", (r,), SMOOTH,
        positions={"method": "yarn", "temperature": 0.0}, headline=True,
    )  # fmt: skip
    made = [
        Row(f"{way}{method} positions, temperature {power:g}", "positions", **how,
            positions={"method": method, "temperature": power})
        for way, chosen, how in ways
        for method, power in chosen
    ]  # fmt: skip
    return [best if row.name == best.name else row for row in made]


ROWS: dict[tuple[str, int], list[Row]] = {
    ("glyphs", 32): [*PLAIN, *KERNELS, *GUIDANCE, *_cascades(STRENGTHS, 0.4), *_variants(0.4), *_other_cfg(2.0, 0.4)],
    ("glyphs", 64): [*PLAIN, *_nested()],
    ("fashion", 32): [*PLAIN, *KERNELS, *GUIDANCE, *_cascades(STRENGTHS, 0.5), *_variants(0.6), *_other_cfg(2.0, 0.6)],
    ("transformer", 32): [
        *PLAIN,
        *GUIDANCE[:-1],
        *_cascades((0.2, 0.3, 0.4, 0.5, 0.6, 0.8), 0.3),
        *_positions(0.3),
        *_other_cfg(2.0, 0.3),
    ],
}
"""The rows of each model at each size."""
