"""An ML practitioner's first job: tune a model on one's own rows, with a callback, and load what came out with PEFT."""

import wavetune as wt

ROWS = [
    {"prompt": f"name[{name}], eatType[{kind}]", "completion": f"{name} is a {kind}.", "domain": kind}
    for name in ("Aromi", "Zizzi", "Alimentum", "Fitzbillies", "Cotto", "Strada", "Travellers")
    for kind in ("pub", "restaurant", "coffee shop")
]


def main(out: str = "runs/mine", model: str = "tiny") -> wt.Run:
    """Two rounds on the rows, told as they end; `model` is a name, a folder, a Hugging Face id or a loaded model."""
    recipe = wt.recipe("sflllm", "run.rounds=2", "world.data.validation_samples=4", data=ROWS, model=model)
    run = wt.run(recipe, out, callbacks=[lambda record: print("round", record.round, "loss", record.train_loss)])
    print(run.rounds[["round", "train_loss", "validation_loss"]])
    print(run.generate("name[Aromi], eatType[pub]", client=2, max_new_tokens=16))
    print(f"peft.PeftModel.from_pretrained(base, {str(run.adapter())!r}) loads it; {run.report()} shows it")
    return run


if __name__ == "__main__":
    main()
