"""`rekernel plan`: show what a conversion would do, as a table or as a plan file."""

from __future__ import annotations

import json

import click

from ..help_layout import GroupedCommand
from ..options import OUTPUT, Planning, option, planning_options


@click.command(cls=GroupedCommand)
@click.argument("source", type=click.Path())
@planning_options
@option(
    "--json",
    "as_json",
    group=OUTPUT,
    is_flag=True,
    help="Print only the plan, as JSON, for `rekernel convert --plan FILE`.",
)
def plan(source: str, planning: Planning, as_json: bool) -> None:
    """Show what would happen to every tensor of SOURCE, and why.

    SOURCE may be on the Hub, hf://org/name[@revision][/folder or file], or in a store, s3://bucket/folder. The plan
    depends on names and shapes, or on the graph of an ONNX model. No weights are read, and nothing is written. Each
    ambiguity becomes a note that names the option to resolve it. --help-all lists most of these options, such as
    --linear-grid.

    \b
        rekernel plan unet.safetensors --scale 2
        rekernel plan vit/ --to 384x384
        rekernel plan cnn.safetensors --from 224x224 --to 448x336 --linear-grid fc1=512,7,7
        rekernel plan unet.safetensors --scale 2 --json > plan.json
    """
    asked, keywords = planning.asked(), planning.keywords()
    from rekernel.offline import estimate, plan_source

    from ..terminal import own_notes

    with own_notes():
        plans = plan_source(source, components=planning.components, **asked, **planning.reading, **keywords)
    if as_json:
        from ..terminal import echo_json

        if len(plans) > 1:
            raise click.UsageError(f"--json prints one plan, but SOURCE has {len(plans)} parts; give one --component.")
        echo_json(json.loads(next(iter(plans.values())).to_json()))
        return
    from ..tables.plan import print_dead_ends, print_estimate, print_plans
    from ..terminal import console

    out = console()
    print_plans(out, plans, source)
    print_dead_ends(out, plans)
    print_estimate(out, estimate(source, plans, allow_pickle=planning.reading["allow_pickle"]))
