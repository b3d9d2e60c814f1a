"""The pages show what benchmarks/diffusion/results/cascades.json holds, and the targets of the cascade are met."""

import json
import re

import cascade_tables

RESULTS = json.loads(cascade_tables.RESULTS.read_text())


def test_every_table_is_made_of_the_result_file():
    made = cascade_tables.tables(RESULTS)
    shown = {}
    for page in cascade_tables.PAGES:
        for name, body in re.findall(r"<!-- table:([\w-]+) -->\n(.*?)<!-- /table:", page.read_text(), re.DOTALL):
            if name in made:
                shown[name] = body.strip()
    assert shown.keys() == made.keys()
    for name, body in shown.items():
        assert body == made[name], f"{name}: run python benchmarks/diffusion/cascade_tables.py"


def rows_of(label):
    return RESULTS[label]["rows"]


def test_a_guided_cascade_is_nearer_than_guidance_from_noise_and_cheaper():
    for label, cascade, noise in (
        ("glyphs 32 decisive", "cascade 0.4, guidance 1.5", "guidance 1.5"),
        ("glyphs 64", "cascade 0.5, 0.3, guidance 1.5", "nested guidance 1.5"),
        ("fashion 32", "cascade 0.5, guidance 1.5", "guidance 1.5"),
        ("transformer 32", "cascade 0.3, guidance 1.5", "guidance 1.5"),
    ):
        made, rival = rows_of(label)[cascade], rows_of(label)[noise]
        assert made["frechet"][0] < rival["frechet"][0] and made["passes"] < rival["passes"], label


def test_the_figures_that_were_aimed_at_are_reached():
    glyphs = rows_of("glyphs 32 decisive")["cascade 0.4, guidance 1.5"]
    assert glyphs["frechet"][0] <= 0.60 and glyphs["passes"] <= 15
    at_four = rows_of("glyphs 64")["cascade 0.5, 0.3, guidance 1.5"]
    assert at_four["frechet"][0] <= 1.3 and at_four["passes"] <= 15
    clothes, enlarged = (
        rows_of("fashion 32")[name] for name in ("cascade 0.5, guidance 1.5", "trained size, enlarged bicubically")
    )
    assert clothes["frechet"][0] <= 0.45 * enlarged["frechet"][0]
    assert clothes["sharpness"][0] > 0.5 and clothes["recognised"][0] >= 0.8
    digits = rows_of("transformer 32")
    best = digits["cascade 0.3, guidance 1.5 + yarn positions, temperature 0"]["frechet"][0]
    assert best <= 0.05 * digits["untouched"]["frechet"][0]
    assert best < digits["trained size, enlarged bicubically"]["frechet"][0]
