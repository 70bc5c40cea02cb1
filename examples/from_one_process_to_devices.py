"""A federated-learning engineer's first job: one recipe in one process, then as servers and devices over TLS."""

from safetensors.torch import load_file

import wavetune as wt

SHORT = ("run.rounds=2", "run.precision=fp32", "world.data.train_samples=60", "world.data.validation_samples=8")


def main(out: str = "runs/first", devices: int = 3) -> tuple[wt.Run, wt.Run]:
    """The same federated averaging in both places, and how far apart the adapters are."""
    clients = f"world.scenario.population.num_clients={devices}"
    recipe = wt.recipe("fedavg_lora", *SHORT, model="tiny").with_settings(clients)
    here = wt.run(recipe, f"{out}/one-process")
    there = wt.deploy(recipe, f"{out}/devices")
    one, other = (load_file(run.adapter() / "adapter_model.safetensors") for run in (here, there))
    print("largest difference:", max(float((one[name] - other[name]).abs().max()) for name in one))
    print(there.rounds[["round", "train_loss", "charged.delay_s", "measured.wall_s"]])
    print(f"planned beside measured: {there.report()}; what each device kept: {there.folder / 'devices'}")
    return here, there


if __name__ == "__main__":
    main()
