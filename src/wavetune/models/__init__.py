"""Stock Hugging Face models: found, loaded, frozen, adapted and exported."""

from wavetune.models.light_imports import install

install()
