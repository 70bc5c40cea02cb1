"""A wireless researcher's first job: plan a cell, see what is proved and what helps, and sweep its bandwidth."""

import wavetune as wt


def main(out: str = "sweeps/cell") -> wt.Swept:
    """The plan of one cell, then the planners over a range of bandwidths with a figure; nothing is trained."""
    cell = wt.recipe("sflllm").with_settings(
        "world.scenario.cell_radius_m=300",
        "world.scenario.population.num_clients=6",
        "world.scenario.bands.main.num_subchannels=30",
    )
    planned = wt.plan(cell)
    print(*planned.sentences(), *planned.what_helps(), sep="\n")
    print("cut", planned.plan.cut_K, "rank", planned.plan.rank_K, "watts", planned.plan.main.power_w_K(6))
    swept = wt.sweep(cell, {"bandwidth_hz": [5e6, 10e6, 20e6]}, seeds=3, methods=["proposed", "greedy"], out=out)
    print(swept.points[["method", "value", "delay_s.mean", "delay_s.half_width"]])
    print(swept.reading, f"figure: {swept.folder / 'figure.svg'}", sep="\n")
    return swept


if __name__ == "__main__":
    main()
