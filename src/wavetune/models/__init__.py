"""Stock Hugging Face models: found, loaded, frozen, adapted and exported."""
