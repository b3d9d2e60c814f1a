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
