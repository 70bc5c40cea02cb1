"""A federated-learning engineer's first job: one recipe in one process, then as servers and devices over TLS."""

import wavetune as wt


def main(out: str = "runs/first", devices: int = 3) -> tuple[wt.Run, wt.Run]:
    """The same federated averaging in both places, and whether the adapters are the same to the bit."""
    recipe = wt.recipe("fedavg_lora", "run.rounds=2", "world.data.train_samples=60", model="tiny").with_settings(
        f"world.scenario.population.num_clients={devices}", "method.topology.cut=null", "run.precision=fp32"
    )
    here = wt.run(recipe, f"{out}/one-process")
    there = wt.deploy(recipe, f"{out}/devices")
    files = [run.adapter() / "adapter_model.safetensors" for run in (here, there)]
    print("the same adapters:", files[0].read_bytes() == files[1].read_bytes())
    print(there.rounds[["round", "train_loss", "charged.delay_s", "measured.wall_s"]])
    print(f"planned beside measured: {there.report()}; what each device kept: {there.folder / 'devices'}")
    return here, there


if __name__ == "__main__":
    main()
