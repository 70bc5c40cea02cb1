"""lm-evaluation-harness takes an exported adapter as it is, where it is installed."""

import json
import os
import shutil
import subprocess

import pytest

from helpers.runs import small, train
from wavetune.models.resolve import resolve_model

TASK = """
task: mine
dataset_path: json
dataset_kwargs:
  data_files: {test: ROWS}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
"""


@pytest.mark.skipif(shutil.which("lm_eval") is None, reason="the extra lm-eval is not installed")
def test_the_harness_scores_a_run_s_adapter_on_a_task_of_ones_own(tmp_path):
    train(small("sflllm", "run.rounds=1"), tmp_path / "run")
    rows = [{"question": f"{n} and 1 is", "choices": [str(n + 1), "a stone"], "answer": 0} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.yaml").write_text(TASK.replace("ROWS", str(tmp_path / "rows.jsonl")))
    model = f"pretrained={resolve_model('tiny').folder},peft={tmp_path / 'run' / 'adapters' / 'global'}"
    words = ["lm_eval", "--model", "hf", "--model_args", model, "--tasks", "mine", "--include_path", tmp_path]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    found = subprocess.run([*map(str, words), "--device", "cpu"], env=offline, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "|mine|" in found.stdout.replace(" ", "")
