"""Who gets which subchannel and power, where the model is cut, which LoRA rank: the planner and its objective."""
