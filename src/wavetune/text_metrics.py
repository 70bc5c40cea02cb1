"""How close written answers are to reference texts, by the libraries whose numbers papers print.

Every metric takes N answers and, for each, one or more references, and returns one number; None where it is undefined.
BLEU, chrF, METEOR, ROUGE-L and exact match are percentages, NIST and CIDEr have scales of their own.
"""

import math
import string
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, cast

from wavetune.errors import ConfigError
from wavetune.foreign import imported
from wavetune.guarded import line_of, told

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], float | None]


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU (Papineni et al., 2002) of sacrebleu: 13a tokens, case kept, exponential smoothing."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU().corpus_score(list(answers), _streams(references)).score


def chrf(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """chrF2 (Popović, 2015) of sacrebleu: F-score of character n-grams up to 6."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().corpus_score(list(answers), _streams(references)).score


def nist(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """NIST of n-grams up to 5 (Doddington, 2002) of nltk, on lower-cased 13a tokens.

    None where no answer has five tokens.
    """
    from nltk.translate.nist_score import corpus_nist

    try:
        return float(corpus_nist([_tokens(texts) for texts in references], _tokens(answers), 5))
    except ZeroDivisionError:
        return None


def meteor(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean METEOR (Banerjee and Lavie, 2005) of nltk, on lower-cased 13a tokens: stems and WordNet's synonyms count.

    Raises ConfigError where nltk has no WordNet.
    """
    from nltk.translate.meteor_score import meteor_score

    try:
        scores = [meteor_score(_tokens(texts), own) for texts, own in zip(references, _tokens(answers), strict=True)]
    except LookupError as error:
        raise ConfigError(
            "meteor needs WordNet, which nltk does not bring along; get it by `python -m nltk.downloader wordnet`, or "
            "leave out meteor"
        ) from error
    return 100 * float(sum(scores)) / len(scores)


def rouge_l(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean ROUGE-L F-score (Lin, 2004) of rouge-score, without stemming, against each answer's best reference."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    best = [scorer.score_multi(list(texts), own)["rougeL"] for texts, own in zip(references, answers, strict=True)]
    return 100 * sum(one.fmeasure for one in best) / len(best)


def cider(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D (Vedantam et al., 2015) of pycocoevalcap, on lower-cased 13a tokens without punctuation.

    Its n-gram weights come from the references themselves, so that it says little of fewer than some dozens of answers.
    """
    from pycocoevalcap.cider.cider import Cider

    def written(text: str) -> str:
        return " ".join(token for token in _tokens([text])[0] if token not in string.punctuation)

    own = {i: [written(answer)] for i, answer in enumerate(answers)}
    wanted = {i: list(map(written, texts)) for i, texts in enumerate(references)}
    return float(Cider().compute_score(wanted, own)[0])


def exact_match(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of the answers that are one of their references, white space around them apart; in percent."""
    hits = [own.strip() in {text.strip() for text in texts} for own, texts in zip(answers, references, strict=True)]
    return 100 * sum(hits) / len(hits)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {f.__name__: f for f in (bleu, nist, meteor, rouge_l, cider, chrf, exact_match)}
)
DISTRIBUTIONS = {
    "bleu": "sacrebleu", "chrf": "sacrebleu", "nist": "nltk", "meteor": "nltk", "rouge_l": "rouge_score",
    "cider": "pycocoevalcap",
}  # fmt: skip


def metric_named(name: str) -> Metric:
    """The metric of a name, or `MODULE:FUNCTION` of one's own. Raises ConfigError where there is none."""
    if ":" in name:
        found: Any = imported(name, "metric", "function")
        if not callable(found):
            raise ConfigError(f"metric {name!r} is no function of answers and references")
        return cast(Metric, found)
    if name not in METRICS:
        raise ConfigError(f"no metric is called {name!r}; choose among {', '.join(METRICS)}, or give MODULE:FUNCTION")
    return METRICS[name]


def score(name: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> float | None:
    """A metric of N answers against their references.

    None where it is undefined. Raises ConfigError where its library is missing or it does not work on these texts.
    """
    metric = metric_named(name)
    try:
        found = metric(answers, references)
        return None if found is None or not math.isfinite(found) else float(found)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"metric {name!r} needs {error.name}, which is not installed; leave it out, or install the extra `metrics`"
            " of wavetune"
        ) from error
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # whatever their code raises
        where = line_of(error, name) if ":" in name else ""
        raise ConfigError(f"metric {name!r} of {len(answers)} answers gives no number{where}: {told(error)}") from error


def require(name: str) -> None:
    """Raise ConfigError unless there is a metric of this name, and whatever it needs."""
    score(name, ["the cat sat on the mat"], [["a cat lay on the mat", "the cat sat down"]])


def library_of(name: str) -> str | None:
    """Name and version of the library that computes a metric, or where one of one's own is; None of wavetune's."""
    if ":" in name:
        return name.rpartition(":")[0]
    distribution = DISTRIBUTIONS.get(name)
    return None if distribution is None else f"{distribution} {version(distribution)}"


def _streams(references: Sequence[Sequence[str]]) -> Any:
    """References as sacrebleu takes them: the first of every answer, the second, and so on."""
    most = max(map(len, references))
    return [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenizer = Tokenizer13a()
    return [tokenizer(text.lower()).split() for text in texts]
