"""From a model's name or path to a local folder that stock transformers loads offline.

`AutoModelForCausalLM.from_pretrained(folder)` (`AutoModel` for an encoder) and `AutoTokenizer.from_pretrained(folder)`
need nothing else. Weights are safetensors only: a pickle can run code when it is loaded.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wavetune.errors import JsonError, ModelError, nearest
from wavetune.given import at_home, folder_of, is_given
from wavetune.json_reader import require_files
from wavetune.models import gguf_wheel, minilm_wheel, tiny
from wavetune.models.architecture import architecture_of
from wavetune.models.cache import cached, written_once
from wavetune.models.folder_check import check_config, check_weights, read_object, refuse_gguf
from wavetune.models.quiet import no_progress_bars

Progress = Callable[[str], None]

HUB_IDS = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "roberta-base": "FacebookAI/roberta-base",
}
HUB_ID = r"\w[\w.-]*/\w[\w.-]*"
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "merges.txt", "vocab.txt")
MORE_TEMPLATES = "additional_chat_templates/*.jinja"  # by name, beside the default one
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
CACHE_LAYOUT = (
    "v1"  # raised when what a bundled model writes changes, so that an old copy is never taken for the new one
)


@dataclass(frozen=True)
class ResolvedModel:
    """A model on this disk; `note` says in words what the weights are."""

    name: str
    folder: Path
    note: str


@dataclass(frozen=True)
class BundledModel:
    """A model that wavetune itself writes into the cache, `size_bytes` at its largest."""

    write: Callable[[Path, Progress], None]
    size_bytes: int
    note: str


BUNDLED = {
    "smollm2-135m": BundledModel(gguf_wheel.write_smollm2, 800_000_000, gguf_wheel.NOTE),
    "minilm-l6": BundledModel(minilm_wheel.write_minilm, 300_000_000, minilm_wheel.NOTE),
    "tiny": BundledModel(tiny.write_tiny, 5_000_000, tiny.NOTE),
    "tiny-gpt2": BundledModel(tiny.write_tiny_gpt2, 5_000_000, tiny.NOTE),
    "tiny-bert": BundledModel(tiny.write_tiny_bert, 5_000_000, tiny.NOTE),
}


def resolve_model(
    name_or_path: str | Path, cache_dir: str | Path | None = None, progress: Progress | None = None
) -> ResolvedModel:
    """Local folder of a named model, a folder or a Hugging Face id (`organisation/name`).

    Args:
        name_or_path: a name of `BUNDLED` or `HUB_IDS` (which wins over a folder of that name), a folder, or an id.
        cache_dir: where bundled models are kept; by default `$WAVETUNE_CACHE`, else `~/.cache/wavetune`. Hub models
            stay in the Hub's own cache.
        progress: called with a sentence before each slow step.

    Raises:
        ModelError: the model is unknown, cannot be fetched, verified or written, or its folder cannot be used.
    """
    name = str(name_or_path)
    say = progress or (lambda _sentence: None)
    if name in BUNDLED:
        return ResolvedModel(name, _check_folder(_bundled(name, cache_dir, say)), BUNDLED[name].note)
    if name in HUB_IDS:
        return _from_hub(name, HUB_IDS[name], say)
    if is_given(name):
        return ResolvedModel(name, _check_folder(folder_of(name)), note_of(name))
    folder = at_home(name)
    if folder.is_dir():
        folder = folder.resolve()
        return ResolvedModel(folder.name, _check_folder(folder), note_of(folder))
    require_known(name)
    return _from_hub(name, name, say)


def require_known(name: str) -> None:
    """ModelError unless it is the name of a model, a folder that holds one, or has the form of a Hugging Face id."""
    if not name:
        raise ModelError("world.model is '', which names no model; give a name, a folder or a Hugging Face id")
    if name in BUNDLED or name in HUB_IDS:
        return
    folder = folder_of(name)
    if folder.is_dir():
        _check_folder(folder)
        return
    if re.fullmatch(HUB_ID, name):
        return
    choices = nearest(name, [*BUNDLED, *HUB_IDS])
    raise ModelError(
        f"no model or folder {name!r}: {choices} (or a folder, or a Hugging Face id such as Qwen/Qwen3-0.6B)"
    )


def note_of(name_or_path: str | Path) -> str:
    """What a model's weights are, in words, without fetching or opening it."""
    name = str(name_or_path)
    if name in BUNDLED:
        return BUNDLED[name].note
    if is_given(name):
        return "given as an object; its digest is in the name"
    folder = at_home(name)
    return (
        f"local folder {folder.resolve()}" if name not in HUB_IDS and folder.is_dir() else "from the Hugging Face Hub"
    )


def local_folder(name_or_path: str | Path) -> Path | None:
    """Folder of a model that is on this disk already, or None; nothing is fetched and torch is not needed."""
    name = str(name_or_path)
    folder = _cached(name) if name in BUNDLED else folder_of(name)
    if name not in HUB_IDS and (folder / "config.json").is_file():
        return folder
    hub_id = HUB_IDS.get(name, name)
    return _fetched(hub_id) if name not in BUNDLED and re.fullmatch(HUB_ID, hub_id) else None


def _fetched(hub_id: str) -> Path | None:
    """The folder of a Hub model that was fetched before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def _cached(name: str, cache_dir: str | Path | None = None) -> Path:
    return cached(f"models/{CACHE_LAYOUT}/{name}", cache_dir)


def _bundled(name: str, cache_dir: str | Path | None, say: Progress) -> Path:
    def write(folder: Path) -> None:
        with no_progress_bars():
            BUNDLED[name].write(folder, say)

    return written_once(_cached(name, cache_dir), write, BUNDLED[name].size_bytes)


def _from_hub(name: str, hub_id: str, say: Progress) -> ResolvedModel:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    say(f"looking for {hub_id} in the Hugging Face cache and on the Hub")
    try:
        config = Path(hf_hub_download(hub_id, "config.json"))  # what cannot be used is refused before it is fetched
        _check_config(config.parent)
        architecture_of(config.parent, say)
        # "*" also matches "/", so folders (other formats of the same weights) are left out by a pattern of their own
        found = snapshot_download(hub_id, allow_patterns=list(HUB_FILES), ignore_patterns=["*/*"])
        snapshot_download(hub_id, allow_patterns=[MORE_TEMPLATES])  # into the same folder
    except GatedRepoError as error:
        remedy = f"accept its licence on https://huggingface.co/{hub_id} and run `hf auth login`"
        raise ModelError(f"{hub_id} is not open to everyone: {remedy}") from error
    except ModelError as error:
        raise ModelError(f"{hub_id}: {error}") from error
    except RemoteEntryNotFoundError as error:
        raise ModelError(f"{hub_id} has no config.json, so it is no model in the Hugging Face format") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"no folder and no Hugging Face model {hub_id!r}: check the spelling") from error
    except Exception as error:  # the network, the disk and the Hub raise types without a common base
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"cannot fetch {hub_id} from the Hugging Face Hub ({reason}): connect to the network, or download it"
            " elsewhere and pass its folder"
        ) from error
    folder = _check_folder(Path(found))
    return ResolvedModel(name, folder, f"{hub_id} from the Hugging Face Hub, revision {folder.name[:12]}")


def _check_config(folder: Path) -> None:
    """Refuse a folder whose config is none of a model that can be used."""
    if not (folder / "config.json").is_file():
        refuse_gguf(folder)
        adapter = (folder / "adapter_config.json").is_file()
        what = "holds an adapter, not a base model" if adapter else "has no config.json, so it is no model folder"
        raise ModelError(f"{folder} {what}: pass the folder that holds config.json, *.safetensors and the tokenizer")
    if "model_type" not in read_object(folder / "config.json"):
        raise ModelError(f"{folder / 'config.json'} has no model_type: pass a model in the Hugging Face format")
    check_config(folder)


def _check_folder(folder: Path) -> Path:
    """The folder itself if it holds a model's config, whole safetensors and a tokenizer."""
    _check_config(folder)
    try:
        require_files(folder)
    except JsonError as error:
        raise ModelError(f"{error}: pass a folder of files") from error
    check_weights(folder, None)
    if not any(all((folder / file).is_file() for file in files) for files in TOKENIZER_FILES):
        raise ModelError(f"{folder} has no tokenizer: save it there with AutoTokenizer...save_pretrained(folder)")
    return folder
