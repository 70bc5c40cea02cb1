"""What options and commands of other tools are called here."""

import click

OPTIONS = {
    "alpha dirichlet-alpha": "world.data.partition.alpha=0.3 by --set",
    "batch-size per-device-train-batch-size": "world.data.batching.batch_size=4 by --set",
    "clients num-clients num-supernodes": "world.scenario.population.num_clients=4 by --set",
    "config config-file": "RECIPE, which may be a JSON, YAML or TOML file",
    "csv to-csv": "what RUN/report.html saves of each table and chart, and table.csv of a sweep",
    "cut split-layer": "method.topology.cut=2 by --set",
    "dataset dataset-name train-file": "--data",
    "epochs num-epochs num-train-epochs max-steps steps num-rounds": "--rounds, each of run.local_steps steps",
    "early-stopping early-stopping-patience patience": "--rounds, which --resume raises; no run ends early by itself",
    "eval-steps eval-every": "run.evaluate_every=1 by --set",
    "fraction-fit fraction-train clients-per-round": 'method.selection={"kind":"at_random","count":2} by --set',
    "gpu num-gpus": "--device",
    "gradient-accumulation-steps": "run.tokens_per_pass by --set, which leaves every number as it is",
    "learning-rate lr": "method.optimiser.learning_rate=1e-3 by --set",
    "local-epochs local-steps": "run.local_steps=4 by --set",
    "lora-alpha": "method.lora.alpha=16 by --set",
    "lora-r lora-rank rank": "method.lora.rank=8 by --set",
    "lr-scheduler lr-scheduler-type scheduler": "method.optimiser.schedule=cosine by --set",
    "max-length max-seq-length max-tokens": "world.data.max_tokens=256 by --set",
    "model-name-or-path model-name": "--model",
    "metric metrics": "measured by wavetune evaluate RUN",
    "output output-dir": "--out",
    "bandwidth num-subchannels": "world.scenario.bands.main.subchannel_hz=1e6 and num_subchannels by --set, and of fed",
    "partition partitioner": "world.data.partition.kind=iid by --set",
    "power tx-power": "world.scenario.population.tx_power_max_dbm=20 by --set",
    "proximal-mu mu": "method.proximal=0.01 by --set",
    "report-to tensorboard wandb mlflow": "--track",
    "resume-from-checkpoint": "--resume --out FOLDER",
    "save-steps save-every": "run.checkpoint_every=5 by --set",
    "seeds num-seeds": "--seed for one run or plan; wavetune rank, compare and sweep take several",
    "strategy aggregation aggregator": "method.mixing.kind=median by --set",
    "target-modules": 'method.lora.targets=["q_proj"] by --set',
    "warmup-steps warmup": "method.optimiser.warmup_steps=10 by --set",
    "weight-decay": "method.optimiser.weight_decay=0.01 by --set",
    "bf16 fp16 dtype torch-dtype precision": "run.precision=bf16 by --set",
}
COMMANDS = {
    "chat ask infer predict": "wavetune generate RUN --prompt TEXT answers",
    "dpo grpo ppo align": "alignment is a part of recipes such as pwff",
    "eval test benchmark": "wavetune evaluate RUN measures answers",
    "export merge convert save": "RUN/adapters has what PEFT loads and merges (docs/models.md)",
    "init new create": "wavetune show RECIPE > mine.json begins a recipe of your own",
    "list ls ps status": "wavetune runs lists runs, wavetune devices RUN a run's devices",
    "logs log dashboard": "wavetune watch RUN follows a run",
    "resume": "wavetune run --resume --out RUN goes on",
    "simulate sim start sft train finetune": "wavetune run RECIPE trains",
    "server superlink": "wavetune serve RECIPE starts the servers",
    "client supernode worker": "wavetune device HOST:PORT starts a device",
}


def here(error: click.UsageError) -> str:
    """What a missing option or command is here; empty where that is not known."""
    option = error.option_name if isinstance(error, click.NoSuchOption) else ""
    command = error.command_name if isinstance(error, click.exceptions.NoSuchCommand) else ""
    if found := _of(OPTIONS, option.lstrip("-")):
        return f"No such option '{option}': it is {found}"
    found = _of(COMMANDS, command)
    return found and f"No such command '{command}': {found}"


def _of(table: dict[str, str], name: str) -> str:
    return next((what for names, what in table.items() if name.lower().replace("_", "-") in names.split()), "")
