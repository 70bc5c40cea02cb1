"""FLOPs, memory and message sizes of fine-tuning a decoder with LoRA, whole or split. NumPy only."""
